// Package inventory says who has power in a Kubernetes cluster, from what was collected of it once.
//
// A [Snapshot] is what one collection of one cluster saw: roles and bindings, credentials, flags of the control plane. It holds
// no secret. What could not be read is in it too, with the right that was missing.
//
// [Judge] says what each subject of RBAC holds that matters and the shortest way by which it becomes cluster-admin ([Power]), and
// what a person must look at ([Finding]). What every cluster has because Kubernetes or kubeadm ships it is a finding that is
// Expected, until it gives more than what ships.
//
// Which rights matter is data (policies/recert/rules.yaml, [LoadRules]), and so is what Kubernetes ships with
// (policies/recert/defaults-*.yaml). The package knows no door: package doors judges a snapshot whole. It links no Kubernetes
// library, so the people's command line can read its types; the collector is in package cluster.
package inventory
