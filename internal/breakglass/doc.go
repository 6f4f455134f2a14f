// Package breakglass is how one agreed request for emergency access to a Kubernetes cluster becomes exactly one short-lived client
// certificate, and what follows until its story ends. It knows no Slack, no Vault, no HTTP and no Kubernetes: those are adapters
// behind the interfaces in ports.go. Who may ask and who must agree is package policy, also what reviewers have taken away. Everything is
// recorded in the ledger through package record.
//
// # What a grant is
//
// A request is one person asking for one profile on one cluster, with a reason and a lifetime. Two or more other people
// approve it: distinct people, never the requester, whatever number of accounts or keys each has. The number is frozen into the
// request when it is made and is never below [policy.MinQuorum]. What they approve is the request's digest, which covers everything
// that was asked, so a yes to one thing is never a yes to another. An approved request, a grant, is worth one certificate: the
// requester's machine claims it with a key that it made itself, and the lifetime starts there.
//
// # States
//
// Facts are stored, states are computed. A request is the fold of its ledger entries ([Fold]), and its state is a function of
// that and a time ([Request.State]):
//
//	          approvals reach the quorum
//	Pending ────────────────────────────▶ Approved ──claim──▶ Issuing ──signed, checked──▶ Active ──clock──▶ Expired
//	   │  ▲                                │   │                 │                            │
//	   │  └── an approval is taken back ───┘   │                 │ refused, lost, wrong       │ revoke
//	   │                                       │                 ▼                            ▼
//	   └─ deny ▶ Denied   withdraw ▶ Withdrawn ┘               Failed                      Revoked
//	      (from both)     (from both)          clock ▶ Lapsed (from both)
//
// Each event happens in these states only, and leads to these. A test reads this table and holds it against the code:
//
//	event                while                      leads to
//	requested            -                          pending
//	approved             pending, approved          pending, approved
//	approval-withdrawn   pending, approved          pending, approved
//	denied               pending, approved          denied
//	withdrawn            pending, approved          withdrawn
//	claimed              approved                   issuing
//	not-signed           issuing                    approved
//	failed               issuing                    failed
//	issued               issuing                    active
//	delivered            active                     the same
//	revoked              approved, active           revoked
//	(clock)              pending, approved          lapsed
//	(clock)              active                     expired
//	ended                lapsed, expired            the same
//	bound                active, expired, revoked   the same
//	unbound              expired, revoked           the same
//	receipt              revoked                    the same
//	session-reported     expired, revoked           the same
//	swept                expired, revoked           the same
//	closed               expired, revoked           the same
//	acknowledged         any                        the same
//	overdue              any                        the same
//	refused              any                        the same
//
// The table is in state.go, and what each event changes in apply.go. Both hold for what [Service] writes and, through package
// verify, for whatever a ledger from anywhere claims.
//
// # Commit points
//
// A claim passes two of them, both appends to the ledger that are durable when they return:
//
//  0. the signer is checked and asked what it has signed, and the cluster whether it takes the daemon's credential; nothing is recorded
//     while it could not sign, has signed already, or what it signs could be given no right
//     A. claimed: the intent. It can be appended once per request. From here on a certificate may exist
//     the signer is called, once; again only after it said that it signed nothing and cannot for the moment ([NotSigned])
//     what came back is compared with the intent
//     B. issued: the outcome. Only now may the certificate leave the process, with the ledger's proof
//     in binding mode the right is bound in the cluster, and bound is recorded
//
// Every slow step is followed by another decision, by the policy in force, in one step with the record.
//
// A process that dies before A has done nothing. Between A and B the outcome is unknown: [Service.Run] looks for a certificate
// by its unique name and records what it finds, as a failure; it never signs again and never delivers such a certificate. After
// B, a claim with the same key gets the same certificate. A binding that is missing or left over is put right by Run, which
// drives the set of bindings in each cluster to the set of active grants.
//
// # Afterwards
//
// A grant's story does not end with its certificate. What must follow is frozen into the request ([Aftercare]), so that a later
// configuration changes nothing for grants that are under way, and Run sees to it:
//
//   - After a revocation every API server of the cluster is asked until it says no. The [Receipt] has the time that each took,
//     and says what a revocation cannot reach.
//   - When late audit events have had their time, the session is examined: what was done is reported ([SessionReported] commits
//     to the report) and what outlives it is looked for ([Swept]). What is found needs another person's word ([Acknowledged]).
//   - The requester writes what was done ([Closed]). Until then the cluster counts as touched; what does not come in time is
//     [Overdue], and can raise the quorum of that person's next request.
//
// Closed is a fact beside the state, not a state: a grant is expired or revoked whether or not its note has been written.
//
// What a check discovers is a finding until it is over: see package finding. The gravest is a certificate under our names or from our
// authority that the ledger does not know.
//
// # What always holds
//
// No certificate without the quorum; at most one signing call that can have signed and one delivered certificate per request, to
// one key; every certificate equals its intent in every field; no name of Kubernetes' own; terminal states stay; nothing is told to people
// that is not in the ledger; a clock that goes back extends nothing. The index beside the ledger can be rebuilt from it.
// Package verify checks all of this on a whole ledger.
package breakglass
