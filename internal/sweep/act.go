// Package sweep finds what a session left behind in a cluster: it knows the tricks by which somebody with a few minutes of
// power keeps some of it. It judges; it reads no cluster and no audit log itself.
package sweep

import (
	"encoding/json"
	"time"
)

// Act is one allowed request that changed something, as an audit event tells it.
type Act struct {
	At          time.Time
	AuditID     string
	Verb        string // create, update, patch, delete, deletecollection, or a special one such as impersonate
	Group       string // API group, empty for the core group
	Resource    string // plural, lower case
	Subresource string
	Namespace   string
	Name        string          // of a create with generateName it may be empty
	Object      json.RawMessage // the request's object, nil when the audit policy does not record it
	Annotations map[string]string
}
