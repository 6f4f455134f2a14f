package breakglass

import (
	"slices"

	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
)

// suspendedSince says why what was approved may not be claimed: a part that was taken away meanwhile.
func suspendedSince(p *policy.Policy, r *Request) error {
	if len(p.Suspensions()) == 0 {
		return nil
	}
	if err := p.NotSuspended(policy.Eligibility{Person: r.Ask.By.Person, Part: policy.PartRequester, Profile: r.Ask.Profile,
		Cluster: r.Ask.Cluster}); err != nil {
		return err
	}
	live := slices.DeleteFunc(slices.Clone(r.Approvals), func(a policy.Approval) bool {
		return p.Suspended(policy.Eligibility{Person: a.By.Person, Part: policy.PartApprover, Profile: r.Ask.Profile, Cluster: r.Ask.Cluster})
	})
	if missing := r.Ask.Quorum.Missing(live); len(missing) > 0 {
		return record.Refuse(record.ClassPolicy, "suspended", "open a new request", "an approver of %s was suspended since: it now needs %s",
			r.ID,
			record.JoinAnd(missing))
	}
	return nil
}
