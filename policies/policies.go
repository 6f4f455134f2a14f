// Package policies holds the files that ship for people to adapt. They are embedded so that tests and the demonstration mode
// load exactly what ships: an example that does not work cannot be released.
package policies

import _ "embed" // for the files below

// AccessExample is the documented example of an access policy, access.example.yaml. It must not be modified.
//
//go:embed access.example.yaml
var AccessExample []byte
