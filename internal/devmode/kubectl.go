package devmode

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// kubectl runs the real kubectl with the certificate, where there is one.
func (k *walk) kubectl(ctx context.Context, c credential) error {
	if k.Kubectl == "" {
		k.say("(no kubectl on this machine: the same requests were made over HTTP)")
		return nil
	}
	file := filepath.Join(k.Dir, "walkthrough.kubeconfig")
	der, err := x509.MarshalPKCS8PrivateKey(c.cert.PrivateKey.(*ecdsa.PrivateKey))
	if err != nil {
		return fmt.Errorf("encoding the key: %w", err)
	}
	b64 := base64.StdEncoding.EncodeToString
	config := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"c",
"contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}],
"clusters":[{"name":"c","cluster":{"server":%q,"certificate-authority-data":%q}}],
"users":[{"name":"u","user":{"client-certificate-data":%q,"client-key-data":%q}}]}`,
		k.Server, b64(k.ServerCA), b64(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.leaf.Raw})),
		b64(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return fmt.Errorf("writing a kubeconfig: %w", err)
	}
	for _, args := range [][]string{{"auth", "whoami"}, {"get", "namespaces"}} {
		cmd := exec.CommandContext(ctx, k.Kubectl, append([]string{"--kubeconfig", file}, args...)...)
		text, err := cmd.Output()
		if err != nil {
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				text = exit.Stderr
			}
			return fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, text)
		}
		k.say("$ kubectl %s\n%s", strings.Join(args, " "), strings.TrimSpace(string(text)))
	}
	return nil
}
