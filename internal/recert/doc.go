// Package recert reviews, campaign by campaign, everything that could let a person into a cluster in an emergency or around it.
//
// A campaign opens with a [Snapshot]: what the access policy gives, what the daemon itself may do, what stands open in the
// clusters, and what emergency access was used for since the last one. Each thing in it is an [Item] with evidence and with what
// changed since a reviewer last said keep. The items are frozen in the ledger by their digests (package breakglass decides and
// records); the snapshot with the words is kept in a directory beside it, under the digest that the ledger has.
//
// [Service] opens campaigns, shows them and proves what was revoked by the next scan. [Report] is a campaign for people and
// programs; [Export] makes the evidence bundle, which [Verify] checks with nothing but the ledger's public key.
//
// The package links no Kubernetes library, so that the people's command line can verify and compare bundles.
package recert
