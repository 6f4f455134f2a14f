package cluster

import (
	"context"
	"crypto/x509"

	"github.com/breakglassd/breakglass/internal/cluster/survey"
	"github.com/breakglassd/breakglass/internal/inventory"
)

// rbacPath is where the API server has roles and bindings.
const rbacPath = "/apis/rbac.authorization.k8s.io/v1/"

// Collect reads once what the inventory of a cluster needs; see [survey.Take].
func (c *Clusters) Collect(ctx context.Context, cluster string, o survey.Options) (*inventory.Snapshot, error) {
	t, err := c.target(cluster)
	if err != nil {
		return nil, err
	}
	return survey.Take(ctx, survey.Server{
		Cluster: cluster, Config: t.rest, Explain: t.explain,
		WhoAmI: func(ctx context.Context) (string, error) {
			me, err := t.whoAmI(ctx)
			return me.Username, err
		},
		ClientCAs: func(ctx context.Context) ([]string, error) {
			_, names, err := c.TrustsCA(ctx, cluster, &x509.Certificate{})
			return names, err
		},
		Ours: func(labels map[string]string) bool {
			return labels[ManagedByLabel] == ManagedBy && labels[RequestLabel] != ""
		},
	}, o)
}
