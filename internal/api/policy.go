package api

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
)

// Policy is the access policy in force, and the one that waits for two people.
type Policy struct {
	Meta
	InForce    PolicyVersion       `json:"inForce"`
	Since      time.Time           `json:"since"`
	Why        string              `json:"why"`
	Agreed     bool                `json:"agreed"`               // two people have agreed to it
	Team       string              `json:"team,omitempty"`       // that must agree to changes
	Approvers  []string            `json:"approvers"`            // its people with keys
	ReviewedBy string              `json:"reviewedBy,omitempty"` // in words, where no team is named
	Cooling    []policy.CoolingOff `json:"cooling"`              // new keys and accounts that do not count for approvals yet
	Waiting    *PolicyVersion      `json:"waiting,omitempty"`
}

// PolicyVersion is an access policy to be signed.
type PolicyVersion struct {
	Digest  string   `json:"digest"`
	Entry   string   `json:"entry"` // what is signed for; see policy.Text
	Text    string   `json:"text"`
	Signed  []string `json:"signed"`            // who has
	Changes []string `json:"changes,omitempty"` // over the one in force, in words
}

// PolicyWord is a person's signature over an access policy.
type PolicyWord struct {
	Entry     string `json:"entry"`
	Base      string `json:"base"`
	Waive     bool   `json:"waive,omitempty"`
	Signature string `json:"signature"`
}

func (s *server) policy(c *call) (any, error) {
	st, err := s.cfg.Service.InForce.Standing(c.Context(), c.actor)
	if err != nil {
		return nil, err
	}
	return policyOf(st), nil
}

func policyOf(st policy.Standing) Policy {
	rule := st.Policy.Change
	out := Policy{Meta: kind("Policy"), Since: st.Since, Why: st.Why, Agreed: st.Agreed, Team: rule.Approvers, ReviewedBy: rule.ReviewedBy,
		Approvers: append([]string{}, st.Approvers...), Cooling: append([]policy.CoolingOff{}, st.Cooling...),
		InForce: PolicyVersion{Digest: st.Policy.Digest, Entry: st.Entry, Text: st.Policy.Text(), Signed: append([]string{}, st.Signed...)}}
	if st.Waiting != nil && st.WaitingPolicy != nil {
		out.Waiting = &PolicyVersion{Digest: st.Waiting.Digest, Entry: st.WaitingEntry, Text: st.WaitingPolicy.Text(),
			Changes: st.Waiting.Changes,
			Signed:  append([]string{}, st.WaitingSigned...)}
	}
	return out
}

func (s *server) signPolicy(c *call) (any, error) {
	in, err := decode[PolicyWord](c)
	if err != nil {
		return nil, err
	}
	err = s.cfg.Service.InForce.Sign(c.Context(), c.actor, policy.Word{Entry: in.Entry, Digest: c.PathValue("digest"),
		Base: in.Base, Waive: in.Waive, Signature: in.Signature})
	if err != nil {
		return nil, err
	}
	return s.policy(c)
}

// Policy returns the access policy in force and what waits. It checks that the texts are what the digests say.
func (c *Client) Policy(ctx context.Context) (out Policy, err error) {
	if err := c.call(ctx, callTime, http.MethodGet, "/v1/policy", nil, &out); err != nil {
		return out, err
	}
	for _, v := range []*PolicyVersion{&out.InForce, out.Waiting} {
		if v == nil {
			continue
		}
		if p, err := v.Parse(); err != nil || p.Digest != v.Digest {
			return out, newError(record.ClassUnavailable, "policy/text", "the client may be older than the server", "the text of the access "+
				"policy is not what its digest %s says: %v", v.Digest, err)
		}
	}
	return out, nil
}

// Parse reads the policy's text.
func (v PolicyVersion) Parse() (*policy.Policy, error) {
	return policy.Parse("access policy "+v.Digest[:min(12, len(v.Digest))], []byte(v.Text))
}

// ApprovePolicy signs an access policy with the session's key and sends the signature. The caller has made sure that it is the one
// that the person has seen. With waive, new keys and accounts are to count at once.
func (c *Client) ApprovePolicy(ctx context.Context, v PolicyVersion, base string, waive bool) (out Policy, err error) {
	armored, err := c.signed(ctx, policy.Namespace, func(string) []byte {
		return policy.Text(v.Entry, v.Digest, base,
			waive)
	})
	if err != nil {
		return out, err
	}
	err = c.call(ctx, callTime, http.MethodPost, "/v1/policy/"+url.PathEscape(v.Digest)+"/approve", PolicyWord{Entry: v.Entry,
		Base: base, Waive: waive, Signature: armored}, &out)
	return out, err
}

// String names the version as people do.
func (v PolicyVersion) String() string { return fmt.Sprintf("%.12s", v.Digest) }
