package policy

// Guard is one thing that the deny webhook keeps a grant from doing. What exactly each refuses is decided where the API
// server asks, in package webhook; a guard without the webhook guards nothing, and doctor says so.
type Guard string

// The guards.
const (
	GuardImpersonate Guard = "impersonate" // acting as somebody else
	GuardEscalate    Guard = "escalate"    // the verbs escalate and bind
	GuardTokens      Guard = "tokens"      // making service-account tokens and token Secrets
	GuardCSR         Guard = "csr"         // making, approving and signing certificate requests
	GuardRBAC        Guard = "rbac"        // changing roles and bindings
	GuardAdmission   Guard = "admission"   // changing admission webhooks and policies, and API services
	GuardExec        Guard = "exec"        // exec, attach, port-forward, proxy and ephemeral containers
	GuardSecrets     Guard = "secrets"     // reading and changing Secrets
	GuardNodes       Guard = "nodes"       // changing nodes, and their proxy
	GuardWorkloads   Guard = "workloads"   // making and changing pods and what makes pods
)

// Guards lists every guard, with what it keeps from.
func Guards() map[Guard]string {
	return map[Guard]string{
		GuardImpersonate: "acting as another user, group or service account",
		GuardEscalate:    "giving rights that one does not hold (escalate, bind)",
		GuardTokens:      "making service-account tokens",
		GuardCSR:         "making, approving or signing certificate requests",
		GuardRBAC:        "changing roles and bindings",
		GuardAdmission:   "changing admission webhooks and policies, or API services",
		GuardExec:        "exec, attach, port-forward, proxy and ephemeral containers",
		GuardSecrets:     "reading or changing Secrets",
		GuardNodes:       "changing nodes or reaching through them",
		GuardWorkloads:   "making or changing pods and what makes pods",
	}
}
