package doors

import (
	"time"

	"github.com/breakglassd/breakglass/internal/inventory"
)

// A DoorState says whether a way into the cluster is there.
type DoorState string

// A door that could not be looked at is never Absent.
const (
	Present    DoorState = "present"
	Absent     DoorState = "absent"
	CannotTell DoorState = "cannot-tell"
)

// Ids of the doors, one for each row of the inventory, in the order in which they are shown.
const (
	DoorClientCA      = "client-ca"
	DoorFirstUser     = "first-user"
	DoorCSR           = "csr-api"
	DoorSATokens      = "service-account-tokens"
	DoorBootstrap     = "bootstrap-tokens"
	DoorStaticTokens  = "static-tokens"
	DoorOIDC          = "oidc"
	DoorWebhook       = "webhook-tokens"
	DoorRequestHeader = "request-header"
	DoorImpersonation = "impersonation"
	DoorAnonymous     = "anonymous"
	DoorKubelet       = "kubelet"
	DoorControlPlane  = "control-plane"
	DoorKubeProxy     = "kube-proxy"
	DoorEtcd          = "etcd"
	DoorAuthorization = "authorization"
	DoorExtensions    = "extensions"
	DoorPlatform      = "platform"
)

// A Door is one way into a cluster.
type Door struct {
	ID    string    `json:"id"`
	Title string    `json:"title"`
	State DoorState `json:"state"`
	// Risk is the worst of its items; Info where there is none, which says nothing about a door that cannot be told.
	Risk     inventory.Severity `json:"risk"`
	Items    []DoorItem         `json:"items,omitempty"`
	Advice   string             `json:"advice"`             // what to do about the door as such
	Tellable string             `json:"tellable,omitempty"` // what would make a part tellable that is not now; empty if all was told
	Evidence []string           `json:"evidence"`           // where each answer comes from; never empty
}

// A DoorItem is one credential, setting or object at a door.
type DoorItem struct {
	ID       string             `json:"id"` // stable over scans within the door
	Title    string             `json:"title"`
	Risk     inventory.Severity `json:"risk"`
	Text     string             `json:"text,omitempty"`   // why it matters
	Advice   string             `json:"advice,omitempty"` // what to do about this one
	Until    *time.Time         `json:"until,omitempty"`  // when it ends by itself; nil if never or unknown
	Used     *time.Time         `json:"used,omitempty"`   // when it was last seen in use; nil if never or unknown
	Grants   []string           `json:"grants,omitempty"` // what it gives, one thing a line, sorted; more lines is wider
	TakeAway string             `json:"takeAway,omitempty"`
	Expected bool               `json:"expected,omitempty"` // every cluster of this kind has it
	Why      string             `json:"why,omitempty"`      // why it is expected
	Orphan   bool               `json:"orphan,omitempty"`   // what it belongs to is gone
	// Admin says that its holder can be a cluster administrator, whatever its risk is. What is Critical always is.
	Admin bool `json:"admin,omitempty"`
	// People are the users that it is about, as the API server knows them.
	People []string `json:"people,omitempty"`
	// Groups are the groups that it is about.
	Groups []string `json:"groups,omitempty"`
}
