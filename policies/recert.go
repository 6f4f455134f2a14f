package policies

import "embed"

// Recert holds the files under recert/: which rights matter, and what Kubernetes and kubeadm ship with.
//
//go:embed recert
var Recert embed.FS
