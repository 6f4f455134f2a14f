package policies

import "embed"

// Kubernetes holds the manifests under kubernetes/.
//
//go:embed kubernetes
var Kubernetes embed.FS
