// Package inventory says which ways lead into a Kubernetes cluster and who in it has power, from what was collected once.
//
// A [Snapshot] is what one collection of one cluster saw: bindings and roles, credentials, flags of the control plane. It holds
// no secret. What could not be read is in it too, with the right that was missing: nothing that was not looked at is ever taken
// for absent. [Analyse] judges a snapshot and asks nobody anything, so that a snapshot can be judged again a year later, with
// other rules. It answers with
//
//   - [Door]: every authentication path that Kubernetes offers, because a credential that is valid with any of them opens the
//     cluster: present, absent or cannot tell,
//   - [Power]: what each subject of RBAC holds that matters, and the shortest way by which it becomes cluster-admin,
//   - [Finding]: what somebody should look at. What every cluster has because Kubernetes or kubeadm ships it is a finding that
//     is [Finding.Expected]; it is not once it gives more than what ships.
//
// [Items] turns that into things to recertify, which [Compare] tells apart from those of the last campaign.
//
// Which rights matter is data (policies/recert/rules.yaml, [LoadRules]), and so is what Kubernetes ships with
// (policies/recert/defaults-*.yaml). The package links no Kubernetes library, so the people's CLI can read its types; the
// collector is in package cluster.
package inventory
