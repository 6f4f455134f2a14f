package breakglass_test

import (
	"context"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/breakglass"
)

// slowCheck is a signer whose Check waits: in says that it has begun, out lets it end.
type slowCheck struct {
	breakglass.Signer
	in, out chan struct{}
}

func (c *slowCheck) Check(ctx context.Context, cluster, group string) error {
	c.in <- struct{}{}
	<-c.out
	return c.Signer.Check(ctx, cluster, group)
}

func TestAClaimUnderWayGoesByThePolicyInForce(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(policy string) string
		code   string
	}{
		"the requester may not ask any more": {func(p string) string {
			return strings.Replace(p, "members: [alice, bob, dave]", "members: [bob, dave]", 1)
		}, "policy/changed"},
		"an approver's key is gone":   {func(p string) string { return withoutKey(p, "bob") }, "policy/changed"},
		"the requester's key is gone": {func(p string) string { return withoutKey(p, "alice") }, "unknown-person"},
	} {
		t.Run(name, func(t *testing.T) {
			hold := &slowCheck{in: make(chan struct{}), out: make(chan struct{})}
			s := bgtest.New(t, bgtest.Options{Config: func(c *breakglass.Config) { hold.Signer = c.Signer; c.Signer = hold }})
			r := s.Grant("alice", "group")
			_, csr := bgtest.NewCSR()
			done := make(chan error, 1)
			go func() { _, err := s.Claim("alice", r.ID, csr); done <- err }()
			<-hold.in
			p, err := breakglass.ParsePolicy("access.yaml", []byte(tt.change(bgtest.Policy())))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Service.SetPolicy(t.Context(), p); err != nil {
				t.Fatal(err)
			}
			close(hold.out)
			wantRefusal(t, <-done, tt.code)
			if n := s.CA.Calls(); n != 0 {
				t.Errorf("%d signing calls under a policy that does not allow them", n)
			}
			s.Check()
		})
	}
}

// withoutKey gives somebody another key than the kit's.
func withoutKey(policy, person string) string {
	key := func(of string) string {
		return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(bgtest.SSHKey(of).PublicKey())))
	}
	return strings.Replace(policy, key(person), key("a new laptop"), 1)
}
