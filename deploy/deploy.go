// Package deploy embeds the shipped files that `breakglassd dev --real` runs, so that what it shows is what ships.
package deploy

import _ "embed"

// VaultSetup is vault/setup.sh.
//
//go:embed vault/setup.sh
var VaultSetup []byte

// AuthorizationNoOpinion is kube-apiserver/authorization-config.noopinion.yaml.
//
//go:embed kube-apiserver/authorization-config.noopinion.yaml
var AuthorizationNoOpinion []byte

// AuditPolicy is kube-apiserver/audit-policy.yaml.
//
//go:embed kube-apiserver/audit-policy.yaml
var AuditPolicy []byte
