// Package deploy embeds the shipped files that `breakglassd dev --real` runs, so that what it shows is what ships.
package deploy

import _ "embed"

// VaultSetup is vault/setup.sh.
//
//go:embed vault/setup.sh
var VaultSetup []byte
