package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/record"
	"github.com/breakglassd/breakglass/internal/text"
)

// target is where a certificate goes.
type target struct {
	out   string // --out
	force bool
}

func (t *target) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&t.out, "out", "", "`file` for the kubeconfig (- for standard output), or beginning of the names of PEM files")
	cmd.Flags().BoolVar(&t.force, "force", false, "replace files that this program did not write")
}

func (a *app) claimCommand() *cobra.Command {
	var t target
	cmd := &cobra.Command{Use: "claim ID", Short: "Turn an approved request into its certificate, once", Args: one(),
		ValidArgsFunction: a.completeIDs(api.FilterMine),
		Long: "Claims the certificate of an approved request for a key on this machine, checks the ledger's proof of it, and " +
			"writes a\nkubeconfig. Then it asks the cluster whether it accepts the certificate. With the same key it can be repeated while the " +
			"certificate is valid; it is then the same certificate.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.formats("kubeconfig", "pem", "json"); err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			r, err := a.get(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			return a.claim(cmd.Context(), c, r, t)
		}}
	t.flags(cmd)
	return cmd
}

// claim gets the certificate of a request, which is as the ledger has it, and writes it down. Nothing is written before everything
// is checked.
func (a *app) claim(ctx context.Context, c *api.Client, r api.Request, t target) error {
	if err := outcome(r); err != nil {
		return err
	}
	k, err := a.keyOf(c.Server, r.ID)
	if err != nil {
		return err
	}
	if k == nil {
		if r.Ask.KeyHash != "" {
			return &failure{exit: exitOther, code: "no-local-key", what: "the key of " + r.ID + " is not on this machine",
				why: "it was made where the request was made, and never leaves that machine", next: "claim it there, or open a new request here"}
		}
		if k, err = a.newKey(c.Server, a.now().Add(time.Duration(r.Ask.TTLSeconds)*time.Second)); err != nil {
			return err
		}
		if err := k.belongTo(r); err != nil {
			return err
		}
	}
	files, err := a.files(r.ID, t)
	if err != nil {
		return err
	}
	csr, err := k.csr()
	if err != nil {
		return err
	}
	a.screen.status("waiting for the certificate")
	d, err := c.Claim(ctx, r.ID, csr)
	if err != nil {
		return err
	}
	a.seen(d.Request)
	chain, err := a.checkDelivery(ctx, c, k, r, d)
	if err != nil {
		return err
	}
	if err := a.pinCluster(c, r.Ask, caHash([]byte(d.Cluster.CA))); err != nil {
		return err
	}
	cert, again := d.Request.Certificate, styled("")
	if k.Serial == d.Request.Certificate.Serial {
		again = " (the same as before)"
	}
	a.screen.note("%s issued%s  serial %s   until %s   ledger #%d, proof ok", a.screen.green("✓"), again, cert.Serial,
		a.when(cert.NotAfter), cert.LedgerIndex)
	if d.Warning != "" {
		a.screen.note("%s %s", a.screen.yellow("!"), d.Warning)
	}
	k.Until, k.Claimed, k.Cluster, k.Profile, k.Serial = cert.NotAfter, true, d.Cluster, r.Ask.Profile, cert.Serial
	a.settled[r.ID] = true
	for _, f := range files {
		if !slices.Contains(k.Files, f) {
			k.Files = append(k.Files, f)
		}
	}
	if err := k.save(); err != nil {
		return fmt.Errorf("keeping the key of %s: %w", r.ID, err)
	}
	if err := a.deliver(d, k, chain, files); err != nil {
		return err
	}
	return a.checkAccess(ctx, r, d.Cluster, chain, k.Key)
}

// files are the absolute names of what will be written, checked before the claim: a grant must not be spent on a full stop.
func (a *app) files(id string, t target) ([]string, error) {
	base := t.out
	if a.json() || base == "-" {
		if a.output == "pem" || a.json() && base != "" {
			return nil, usage("-o %s with --out %s is not possible", a.output, base)
		}
		if a.outTerminal() && !t.force {
			return nil, &failure{exit: exitUsage, code: "key-on-screen", what: "this would print a private key on the screen",
				next: "send it into a file or another program, or give --force"}
		}
		return nil, nil
	}
	if base == "" {
		dir, err := a.runtimeDir()
		if err != nil {
			return nil, err
		}
		base = filepath.Join(dir, id)
		if a.output != "pem" {
			base += ".kubeconfig"
		}
	}
	base, err := filepath.Abs(base)
	if err != nil {
		return nil, fmt.Errorf("finding %s: %w", t.out, err)
	}
	files := []string{base}
	if a.output == "pem" {
		files = []string{base + ".key", base + ".crt", base + ".ca.crt"}
	}
	for _, f := range files {
		if f == filepath.Join(a.env("HOME"), ".kube", "config") {
			return nil, usage("%s is yours: this program never touches it", f)
		}
		of, err := owner(f)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			if info, err := os.Stat(filepath.Dir(f)); err != nil || !info.IsDir() {
				return nil, usage("%s is not a directory", filepath.Dir(f))
			}
		case err != nil:
			return nil, usage("%v", err)
		case of == "" && !t.force:
			return nil, &failure{exit: exitOther, code: "file-exists", what: f + " exists", why: "this program did not write it",
				next: "choose another --out, or give --force"}
		}
	}
	return files, nil
}

const lied = "VERIFICATION FAILED: the server is lying, or somebody in between"

// lie is a failed check of what the server says.
func lie(code, why string, args ...any) *failure {
	return &failure{exit: exitVerify, code: code, what: lied, why: fmt.Sprintf(why, args...),
		next: "nothing was written. Do not use this server; tell the people who run it, and keep this output"}
}

// checkDelivery believes nothing that it can check: the certificate is for our key and says what was approved, the ledger
// holds exactly it under the key that this machine trusts, and that ledger continues the one seen before. It returns the PEM
// of certificate and chain.
func (a *app) checkDelivery(ctx context.Context, c *api.Client, k *kept, r api.Request, d api.Delivery) (string, error) {
	block, rest := pem.Decode([]byte(d.Certificate))
	if block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) > 0 {
		return "", lie("certificate", "what it delivered is no certificate")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", lie("certificate", "what it delivered cannot be parsed: %v", err)
	}
	if bad := a.checkCertificate(cert, k, r); len(bad) > 0 {
		return "", lie("certificate", "the certificate is not what was approved: %s", strings.Join(bad, "; "))
	}
	if d.Request.ID != r.ID || d.Request.Certificate == nil || d.Cluster.ID != r.Ask.Cluster || d.Cluster.Server != r.Ask.Server {
		return "", lie("delivery", "what it delivered is for another request or another cluster")
	}
	if d.Cluster.Way != r.Ask.Way {
		return "", lie("cluster-way", "the way to %s that it delivered (proxy, name in the certificate) is not that of the "+
			"request", r.Ask.Cluster)
	}
	if r.Ask.CAHash != "" && caHash([]byte(d.Cluster.CA)) != r.Ask.CAHash {
		return "", lie("cluster-ca", "the authorities it delivered for %s are not those that the request was made for", r.Ask.Cluster)
	}
	chain := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
	for rest := []byte(d.Chain); len(bytes.TrimSpace(rest)) > 0; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil || b.Type != "CERTIFICATE" {
			return "", lie("certificate", "the chain it delivered cannot be read")
		}
		chain += string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: b.Bytes}))
	}

	ev, err := eventIn(d.Issued, r.ID)
	if err != nil {
		return "", lie("proof", "the ledger entry it shows: %v", err)
	}
	issued, ok := ev.(breakglass.Issued)
	if !ok || !bytes.Equal(issued.Certificate, cert.Raw) {
		return "", lie("proof", "the ledger entry it shows is about another certificate")
	}
	proof, err := ledger.ParseProof([]byte(d.Proof))
	if err != nil {
		return "", lie("proof", "its ledger proof: %v", err)
	}
	if proof.Index != d.Request.Certificate.LedgerIndex {
		return "", lie("proof", "its ledger proof is of another entry")
	}
	return chain, a.checkLedger(ctx, c, func(v note.Verifier) ([]byte, error) { return proof.Note, ledger.VerifyProof(d.Issued, proof, v) })
}

// caHash is the hash of a bundle as requests have it: empty for none.
func caHash(bundle []byte) string {
	if len(bundle) == 0 {
		return ""
	}
	return breakglass.CAHash(bundle)
}

// checkCertificate compares the certificate with what was approved, as far as a client can.
func (a *app) checkCertificate(cert *x509.Certificate, k *kept, r api.Request) []string {
	bad := breakglass.LintCertificate(cert, breakglass.CommonName(r.Ask.By.Person, r.ID), r.Ask.Rights.Group)
	if !k.key.PublicKey.Equal(cert.PublicKey) {
		bad = append(bad, "it is for another key")
	}
	if now := a.now(); cert.NotAfter.After(now.Add(time.Duration(r.Ask.TTLSeconds)*time.Second+breakglass.MaxSkew)) ||
		!now.Before(cert.NotAfter) {
		bad = append(bad, fmt.Sprintf("it ends at %s", cert.NotAfter.UTC().Format(time.RFC3339)))
	}
	return bad
}

// eventIn decodes the event in the bytes of a ledger leaf, which must belong to a request.
func eventIn(leaf []byte, request string) (record.Event, error) {
	e, err := ledger.ParseLeaf(leaf)
	if err != nil {
		return nil, err
	}
	if e.Stream != request {
		return nil, fmt.Errorf("it is about %s, not about %s", e.Stream, request)
	}
	return breakglass.Decode(e)
}

// checkLedger checks something that is proven under a signed checkpoint: by the key that this machine trusts, and under a
// checkpoint of the ledger that it saw before. It remembers both. A key that was never seen is trusted the first time.
func (a *app) checkLedger(ctx context.Context, c *api.Client, proven func(note.Verifier) (checkpoint []byte, err error)) error {
	t, err := a.trustFor(c.Server)
	if err != nil {
		return err
	}
	first := t.verifier == nil
	if first {
		if t.Key, err = c.LedgerKey(ctx); err != nil {
			return err
		}
		if t.verifier, err = note.NewVerifier(t.Key); err != nil {
			return lie("ledger-key", "its ledger key cannot be read: %v", err)
		}
	}
	signed, err := proven(t.verifier)
	if e := (*api.Error)(nil); errors.As(err, &e) || ctx.Err() != nil {
		return err
	}
	if err != nil {
		if now, kerr := c.LedgerKey(ctx); kerr == nil && now != t.Key {
			return lie("ledger-key", "the ledger's key has changed: this machine trusts %s, the server now shows %s (%v). If the people who run "+
				"it say that this is right, remove %s or give the new one with --ledger-key", t.Key, now, err, t.path)
		}
		return lie("proof", "%v", err)
	}
	cp, err := ledger.ParseCheckpoint(signed, t.verifier)
	if err != nil {
		return lie("proof", "%v", err)
	}
	if t.Checkpoint != "" {
		if err := continues(ctx, c, t, cp); err != nil {
			return err
		}
	}
	if first {
		a.screen.note("%s first contact: from now on this machine trusts the ledger key %s; compare it with the one you "+
			"were given", a.screen.yellow("!"), t.Key)
	}
	if old, err := ledger.ParseCheckpoint([]byte(t.Checkpoint), t.verifier); err != nil || old.Size < cp.Size {
		t.Checkpoint = string(signed)
	}
	if err := writeJSON(t.path, t); err != nil {
		return fmt.Errorf("remembering the ledger's checkpoint: %w", err)
	}
	return nil
}

// continues checks that the checkpoint now and the one seen before are of one ledger, whichever is the greater: another run
// of this program may have seen a later one meanwhile.
func continues(ctx context.Context, c *api.Client, t trust, now ledger.Checkpoint) error {
	before, err := ledger.ParseCheckpoint([]byte(t.Checkpoint), t.verifier)
	if err != nil {
		return &failure{exit: exitVerify, what: "what is known of the server cannot be read", why: t.path + " is damaged: " + err.Error(),
			next: "find out why before you remove it"}
	}
	small, large := before, now
	if small.Size > large.Size {
		small, large = large, small
	}
	hashes, err := c.Consistency(ctx, small.Size, large.Size)
	if err != nil && (api.Temporary(err) || ctx.Err() != nil) {
		return err
	}
	if err == nil {
		err = ledger.VerifyConsistency(hashes, small, large)
	}
	if err != nil {
		f := lie("ledger-forked", "its ledger (%d entries) is not the one that this machine saw before (%d entries): it was rolled back or "+
			"rewritten (%v)", now.Size, before.Size, err)
		f.next += ". If it was restored from a backup, have two of the people who run it tell you so, each by themselves and not over this " +
			"server; then remove " + t.path
		return f
	}
	return nil
}

// credential is the JSON form of what a claim gives.
type credential struct {
	api.Meta
	Request     api.Request `json:"request"`
	Certificate string      `json:"certificate"` // PEM, with its chain
	PrivateKey  string      `json:"privateKey"`  // PEM
	Cluster     api.Cluster `json:"cluster"`
	Proof       string      `json:"proof"`
	Issued      []byte      `json:"issued"`
	Warning     string      `json:"warning,omitempty"`
}

// deliver writes the checked certificate in the form that was asked for.
func (a *app) deliver(d api.Delivery, k *kept, chain string, files []string) error {
	id := d.Request.ID
	head := fmt.Sprintf("%s%s until %s; the key in it is removed by the next run after that\n", marker, id,
		d.Request.Certificate.NotAfter.UTC().Format(time.RFC3339))
	switch {
	case a.json():
		return a.printJSON(credential{Meta: api.Meta{APIVersion: api.Version, Kind: "Credential"}, Request: d.Request, Certificate: chain,
			PrivateKey: k.Key, Cluster: d.Cluster,
			Proof: d.Proof, Issued: d.Issued, Warning: d.Warning})
	case a.output == "pem":
		for i, text := range []string{k.Key, chain, d.Cluster.CA} {
			if err := writePrivate(files[i], []byte(head+text)); err != nil {
				return fmt.Errorf("writing %s: %w", files[i], err)
			}
			if _, err := fmt.Fprintln(a.out, files[i]); err != nil {
				return err
			}
		}
		return nil
	}
	config := head + kubeconfig(id, d.Cluster, chain, k.Key)
	if len(files) == 0 {
		_, err := fmt.Fprint(a.out, config)
		return err
	}
	if err := writePrivate(files[0], []byte(config)); err != nil {
		return fmt.Errorf("writing %s: %w", files[0], err)
	}
	if a.outTerminal() { // nothing evaluates what is printed: say how to use it, here and elsewhere
		a.screen.note("Use it, in this terminal or another:  eval \"$(%s)\"   or:", a.typed("claim", nil, id))
	}
	_, err := fmt.Fprintf(a.out, "export KUBECONFIG=%s\n", text.Quote(files[0]))
	return err
}

// kubeconfig writes a kubeconfig with everything in it. JSON strings are YAML strings, so nothing in it needs other quoting.
func kubeconfig(id string, cl api.Cluster, certificate, key string) string {
	q := func(s string) string {
		b, err := json.Marshal(s)
		if err != nil {
			panic(err) // strings always can
		}
		return string(b)
	}
	b64 := func(s string) string {
		b, err := json.Marshal([]byte(s))
		if err != nil {
			panic(err) // bytes always can
		}
		return string(b)
	}
	name := q("breakglass-" + cl.ID)
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: v1\nkind: Config\ncurrent-context: %s\nclusters:\n- name: %s\n  cluster:\n    server: %s\n", name, q(cl.ID),
		q(cl.Server))
	writeWay(&b, cl.Way)
	if cl.CA != "" {
		fmt.Fprintf(&b, "    certificate-authority-data: %s\n", b64(cl.CA))
	}
	fmt.Fprintf(&b, "users:\n- name: %s\n  user:\n    client-certificate-data: %s\n    client-key-data: %s\n", q(id), b64(certificate),
		b64(key))
	fmt.Fprintf(&b, "contexts:\n- name: %s\n  context:\n    cluster: %s\n    user: %s\n", name, q(cl.ID), q(id))
	return b.String()
}

// writeWay writes what a cluster of a kubeconfig needs beside its address.
func writeWay(b *strings.Builder, w breakglass.Way) {
	if w.ProxyURL != "" {
		fmt.Fprintf(b, "    proxy-url: %q\n", w.ProxyURL)
	}
	if w.TLSServerName != "" {
		fmt.Fprintf(b, "    tls-server-name: %q\n", w.TLSServerName)
	}
}

// tombstone is what is left of a kubeconfig: the same cluster, and a user that says what became of the access. It has no key.
func tombstone(k *kept, now time.Time, how string) string {
	program, err := os.Executable()
	if err != nil {
		program = "breakglass"
	}
	q := func(s string) string {
		b, err := json.Marshal(s)
		if err != nil {
			panic(err) // strings always can
		}
		return string(b)
	}
	name, user := q("breakglass-"+k.Cluster.ID), q(k.Request)
	var b strings.Builder
	fmt.Fprintf(&b, "%s%s over since %s; it has no key any more\n", marker, k.Request, now.UTC().Format(time.RFC3339))
	fmt.Fprintf(&b, "apiVersion: v1\nkind: Config\ncurrent-context: %s\nclusters:\n- name: %s\n  cluster:\n    server: %s\n", name,
		q(k.Cluster.ID), q(k.Cluster.Server))
	writeWay(&b, k.Cluster.Way)
	if k.Cluster.CA != "" {
		fmt.Fprintf(&b, "    certificate-authority-data: %s\n", q(base64.StdEncoding.EncodeToString([]byte(k.Cluster.CA))))
	}
	fmt.Fprintf(&b, "users:\n- name: %s\n  user:\n    exec:\n      apiVersion: client.authentication.k8s.io/v1\n      interactiveMode: "+
		"Never\n", user)
	fmt.Fprintf(&b, "      command: %s\n      args: [ended, --, %s, %s, %s, %s]\n", q(program), user, q(k.Cluster.ID), q(k.Profile), q(how))
	fmt.Fprintf(&b, "contexts:\n- name: %s\n  context:\n    cluster: %s\n    user: %s\n", name, q(k.Cluster.ID), user)
	return b.String()
}

// endedCommand is what a tombstone runs: kubectl prints what it says, and ends.
func (a *app) endedCommand() *cobra.Command {
	return &cobra.Command{Use: "ended ID CLUSTER PROFILE HOW", Hidden: true, Args: args(4, 4, "what a kubeconfig of ours gives"),
		RunE: func(_ *cobra.Command, args []string) error {
			return &failure{exit: exitExpired, code: "access-ended",
				what: fmt.Sprintf("your access to %s is over: %s %s", args[1], args[0], args[3]),
				next: "ask again: " + command("request", []string{"--cluster=" + args[1], "--profile=" + args[2]}) +
					` --reason "…", and use the kubeconfig that it writes`}
		}}
}
