package policy_test

import (
	"fmt"
	"strings"

	"github.com/breakglassd/breakglass/internal/policy"
)

const keys = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI"

var access = `version: 1
people:
  - {id: alice, keys: ["` + keys + `FUR39sPeMZRprMKd8JQCURlNXTLnQmNd0dKPeZsxb0i"]}
  - {id: bob, keys: ["` + keys + `FrRvrQFBQYQ6K3HjxfD3lrbEGwmyt1e2aMzJrIsQRo4"]}
  - {id: carol, keys: ["` + keys + `IHfZrRA1vRSyA3ZKkOGQnEBdmbXGZDj5yMJxUIuZpsW"]}
teams:
  - {id: sre, members: [alice, bob, carol]}
clusters:
  - {id: prod, server: "https://api.prod.example:6443"}
policy: {reviewedBy: the example}
profiles:
  - id: admin
    clusters: [prod]
    bind: {clusterRole: cluster-admin}
    ttl: {default: 10m, max: 1h}
    requesters: [sre]
    approvals: {count: 2, from: [sre]}
    reason: {min: 10}
    risk: high
`

// A policy is read whole or refused; what a change means is said in words.
func Example() {
	before, err := policy.Parse("access.yaml", []byte(access))
	if err != nil {
		fmt.Println(err)
		return
	}
	after, err := policy.Parse("access.yaml", []byte(strings.Replace(access, "max: 1h", "max: 2h", 1)))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, change := range policy.Diff(before, after) {
		fmt.Println(change)
	}
	_, err = policy.Parse("access.yaml", []byte(strings.Replace(access, "count: 2", "count: 1", 1)))
	fmt.Println(err)
	// Output:
	// profile admin: ttl.max 1h → 2h
	// access.yaml:17: profiles[0].approvals.count: 1 is below the floor of 2 people besides the requester; write 2 or more
}
