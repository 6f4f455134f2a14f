package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/breakglassd/breakglass/internal/residue"
)

// The bounds of a snapshot: a cluster of any size must not take the daemon down.
const (
	maxObjects   = 30_000    // kept in one snapshot
	maxPageBytes = 64 << 20  // of one page of a list
	maxListBytes = 512 << 20 // read for one snapshot
	pageTimeout  = 30 * time.Second
)

const (
	acceptJSON     = "application/json"
	acceptMetaList = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
	acceptMeta     = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
)

const sweepNext = "apply policies/kubernetes/optional/sweep.yaml"

// Snapshot lists what exists in a cluster that a sweep compares, as far as the daemon may list it and ctx leaves time. What
// could not be listed is a gap of it. Of Secrets, nothing but the metadata of those that are credentials of the cluster is
// asked for. An error means that no API server answers.
func (c *Clusters) Snapshot(ctx context.Context, cluster string) (residue.Snapshot, error) {
	var out residue.Snapshot
	l := lister{out: &out, most: maxObjects, bytes: maxListBytes}
	var err error
	if l.at, out.Server, err = c.answering(ctx, cluster); err != nil {
		return out, err
	}
	l.client = *l.at.http
	l.client.Timeout = pageTimeout
	for _, k := range residue.Kinds() {
		l.list(ctx, k)
	}
	out.Taken = time.Now().UTC()
	return out, nil
}

// answering returns the cluster at an address that answers, and the version of Kubernetes there.
func (c *Clusters) answering(ctx context.Context, cluster string) (*target, string, error) {
	t, err := c.target(cluster)
	if err != nil {
		return nil, "", err
	}
	var at *target
	var version struct{ GitVersion string }
	err = t.anyServer(ctx, func(ctx context.Context, t *target) error {
		at = t
		body, err := t.get(ctx, "/version", acceptJSON, 1<<20)
		if err == nil {
			err = json.Unmarshal(body, &version)
		}
		return t.explain("looking for an API server that answers", err)
	})
	return at, version.GitVersion, err
}

// lister fills one snapshot.
type lister struct {
	at     *target
	client http.Client
	out    *residue.Snapshot
	most   int   // objects that are kept
	bytes  int64 // that may still be read
}

// errFull says that a bound of the snapshot is reached.
var errFull = errors.New("there is more than one snapshot may hold")

// list adds everything of a kind, and says that it is whole, or a gap.
func (l *lister) list(ctx context.Context, k residue.Kind) {
	var err error
	for _, version := range k.Versions {
		if err = l.version(ctx, k, version); !apierrors.IsNotFound(err) {
			break // served in this version
		}
	}
	gap := residue.Gap{What: k.ID()}
	switch {
	case err == nil || apierrors.IsNotFound(err): // of a kind that is not served, nothing exists
		l.out.Looked(k)
		return
	case apierrors.IsForbidden(err):
		gap.Why, gap.Next = "the daemon may not list them", sweepNext
		if k.Resource == "secrets" {
			gap.Why, gap.Next = "the daemon may not list them, so that only audit events show those that were made",
				"see policies/kubernetes/optional/sweep.yaml on why that is so by default"
		}
	case errors.Is(err, errFull) || errors.Is(err, errTooLarge):
		gap.Why, gap.Next = "there are too many", "look at those that are new by hand"
	case apierrors.IsResourceExpired(err):
		gap.Why, gap.Next = "they changed faster than they could be listed", "sweep again"
	case ctx.Err() != nil:
		gap.Why, gap.Next = "there was no time left for them", "sweep again"
	default:
		gap.Why, gap.Next = "they could not be listed", "sweep again; breakglassd doctor says more"
	}
	l.out.Gaps = append(l.out.Gaps, gap)
}

func (l *lister) version(ctx context.Context, k residue.Kind, version string) error {
	namespaces, types := k.Namespaces, k.Types
	if namespaces == nil {
		namespaces = []string{""}
	}
	if types == nil {
		types = []string{""}
	}
	for _, ns := range namespaces {
		for _, typ := range types {
			if err := l.pages(ctx, k, k.Path(version, ns, ""), typ); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *lister) pages(ctx context.Context, k residue.Kind, path, typ string) error {
	query := url.Values{"limit": {fmt.Sprint(pageSize)}}
	if typ != "" {
		query.Set("fieldSelector", "type="+typ)
	}
	accept := acceptJSON
	if k.Metadata {
		accept = acceptMetaList
		if k.Resource != "secrets" { // of which nothing else must ever be read
			accept += "," + acceptJSON
		}
	}
	for {
		body, err := l.at.getWith(ctx, &l.client, path+"?"+query.Encode(), accept, min(maxPageBytes, l.bytes))
		if err != nil {
			return err
		}
		l.bytes -= int64(len(body))
		var page struct {
			Metadata struct{ Continue string }
			Items    []json.RawMessage
		}
		if err := json.Unmarshal(body, &page); err != nil {
			return fmt.Errorf("reading a list of %s: %w", k.Resource, err)
		}
		for _, raw := range page.Items {
			o, err := residue.NewObject(k, raw, typ)
			if err != nil {
				return err
			}
			l.out.Add(k, o)
		}
		if l.out.Len() > l.most {
			return errFull
		}
		if page.Metadata.Continue == "" {
			return nil
		}
		query.Set("continue", page.Metadata.Continue)
	}
}

// Look says of single objects whether they exist, for as many as ctx leaves time; what the daemon may not look at is not known.
func (c *Clusters) Look(ctx context.Context, cluster string, refs []residue.Ref) (map[residue.Ref]residue.Look, error) {
	if len(refs) == 0 {
		return nil, nil
	}
	at, _, err := c.answering(ctx, cluster)
	if err != nil {
		return nil, err
	}
	kinds := map[string]residue.Kind{}
	for _, k := range residue.Kinds() {
		kinds[k.ID()] = k
	}
	out := map[residue.Ref]residue.Look{}
	for _, r := range refs {
		if k, ok := kinds[r.Resource]; ok && ctx.Err() == nil {
			out[r] = at.look(ctx, k, r)
		}
	}
	return out, nil
}

func (t *target) look(ctx context.Context, k residue.Kind, r residue.Ref) residue.Look {
	if k.Resource == "secrets" {
		return t.lookAtSecret(ctx, k, r)
	}
	accept := acceptJSON
	if k.Metadata {
		accept = acceptMeta + "," + acceptJSON
	}
	var body []byte
	var err error
	for _, version := range k.Versions {
		if body, err = t.get(ctx, k.Path(version, r.Namespace, r.Name), accept, maxPageBytes); !apierrors.IsNotFound(err) {
			break
		}
	}
	if apierrors.IsNotFound(err) {
		return residue.Look{Known: true}
	}
	if err != nil {
		return residue.Look{}
	}
	o, err := residue.NewObject(k, body, "")
	if err != nil {
		return residue.Look{Known: true, Exists: true}
	}
	return residue.Look{Known: true, Exists: true, Object: &o}
}

// lookAtSecret lists the one Secret, since a get could be answered with its contents only under a right that the daemon has not.
func (t *target) lookAtSecret(ctx context.Context, k residue.Kind, r residue.Ref) residue.Look {
	query := url.Values{"fieldSelector": {"metadata.name=" + r.Name}}
	body, err := t.get(ctx, k.Path("v1", r.Namespace, "")+"?"+query.Encode(), acceptMetaList, maxPageBytes)
	var page struct{ Items []json.RawMessage }
	if err != nil || json.Unmarshal(body, &page) != nil {
		return residue.Look{}
	}
	if len(page.Items) == 0 {
		return residue.Look{Known: true}
	}
	return residue.Look{Known: true, Exists: true}
}
