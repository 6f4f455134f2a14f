package config

import (
	"fmt"
	"slices"

	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
)

// Fits reports everything in which the configuration and an access policy do not fit. Without vault, when something else signs, no
// lifetimes are compared.
func (c *Config) Fits(p *policy.Policy, vault bool) (bad []Problem) {
	add := func(key, what, next string) { bad = append(bad, Problem{Key: key, What: what, Next: next}) }
	for i, cl := range c.Clusters {
		key := fmt.Sprintf("clusters[%d]", i)
		if _, ok := p.Cluster(cl.ID); !ok {
			add(key+".id", fmt.Sprintf("the access policy knows no cluster %q", cl.ID), "correct the id, or add it there")
		}
		for _, prof := range p.Profiles {
			if vault && slices.Contains(prof.Clusters, cl.ID) && prof.TTL.Max > cl.MaxTTL {
				add(key+".vault_max_ttl", fmt.Sprintf("%s is less than the %s that profile %s allows", cl.MaxTTL, prof.TTL.Max, prof.ID),
					"lower that, or run deploy/vault/setup.sh with the longer one")
			}
		}
	}
	for _, cl := range p.Clusters {
		if !slices.ContainsFunc(c.Clusters, func(have Cluster) bool { return have.ID == cl.ID }) {
			add("clusters", fmt.Sprintf("the access policy has a cluster %q that is not here", cl.ID), "say how to reach it, and restart")
		}
	}
	for _, prof := range p.Profiles {
		for _, cl := range c.Clusters {
			if len(prof.Guards) > 0 && slices.Contains(prof.Clusters, cl.ID) && !cl.HasWebhook() {
				add("clusters", fmt.Sprintf("profile %s has guards, but cluster %q has no webhook_token_file or webhook_client_names: "+
					"its guards would have no effect", prof.ID, cl.ID),
					"set up the deny webhook (deploy/kube-apiserver), or remove the guards")
			}
		}
		if !c.Slack.Enabled && !slices.Contains(prof.Approvals.Channels, record.ChannelKey) {
			add("slack.enabled", fmt.Sprintf("is false, but profile %s takes approvals in Slack only", prof.ID),
				"switch Slack on, or add key to its channels")
		}
	}
	return bad
}
