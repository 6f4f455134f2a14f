// Package doors judges every way into a cluster that is not a grant, from what was collected of it once.
//
// [Analyse] takes an inventory.Snapshot and asks no other system, so a snapshot can be judged again a year later, with other rules.
// It answers with
//
//   - [Door]: each authentication path that Kubernetes offers, because a credential that is valid with any of them opens the
//     cluster: present, absent or cannot tell,
//   - what package inventory says about standing power: inventory.Power, and
//   - inventory.Finding: what a person must look at, of power and of doors.
//
// [Items] turns the answer into things to recertify, and [Compare] says what became of each since the last campaign.
//
// What could not be read makes a door "cannot tell", never absent.
package doors
