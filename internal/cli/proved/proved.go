// Package proved checks what a server or a file says of a request and of its certificate against the proofs of the ledger.
package proved

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/cli/exit"
	"github.com/breakglassd/breakglass/internal/cli/machine"
	"github.com/breakglassd/breakglass/internal/cli/terminal"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
	"github.com/breakglassd/breakglass/internal/verify"
)

// Checker believes of what one server says only what its ledger proves, by the key that this machine trusts.
type Checker struct {
	Client *api.Client
	Store  *machine.Store
	Screen *terminal.Screen // says that a key is trusted from now on
	Now    func() time.Time // the server's clock
}

// Recorded returns a request that the server has told of as the ledger has it, and its proven history. The server's word lends the names
// of people and tells the time; everything else is read from leaves whose place in the ledger is proven by the key that this machine
// trusts, and texts are those that the leaves commit to. What was recorded after the last entry shown can be kept back, but nothing can
// be changed, left out in between or made up.
func (x Checker) Recorded(ctx context.Context, said api.Request) (api.Request, api.History, error) {
	h, err := x.Client.History(ctx, said.ID)
	if err != nil {
		return api.Request{}, h, err
	}
	if h.ID != said.ID || len(h.Entries) == 0 {
		return api.Request{}, h, exit.Lie("record", "it shows no record of %s", said.ID)
	}
	if h.Checkpoint == "" {
		return api.Request{}, h, &exit.Error{Exit: exit.Unverified, Code: "no-proof", What: "the server proves nothing",
			Why:  "it does not prove what it shows of " + said.ID + ": it is older than this program, or not the server",
			Next: "use the program of the server's release, or have the server brought up to date"}
	}
	var entries []ledger.Entry
	err = x.CheckLedger(ctx, func(v note.Verifier) ([]byte, error) {
		var err error
		entries, err = Entries(h, v)
		return []byte(h.Checkpoint), err
	})
	if err != nil {
		return api.Request{}, h, err
	}
	folded, err := breakglass.Fold(entries, true)
	if errors.Is(err, record.ErrNewerRelease) {
		return api.Request{}, h, &exit.Error{Exit: exit.Other, Code: "newer-release", What: "this program is older than the server",
			Why: err.Error(), Next: "install the release that the server runs"}
	}
	if err != nil {
		return api.Request{}, h, exit.Lie("record", "what it shows could not have happened: %v", err)
	}
	if said.Digest != "" && said.Digest != folded.Digest {
		return api.Request{}, h, exit.Lie("digest", "the digest it tells is not that of the record of %s", said.ID)
	}
	r := api.NewRequest(folded, &policy.Policy{}, x.Now())
	r.Names, r.NotTold = said.Names, said.NotTold
	return r, h, nil
}

// Entries checks every entry of a history against its leaf, the leaf's texts, and its place in the ledger of the history's
// checkpoint.
func Entries(h api.History, v note.Verifier) ([]ledger.Entry, error) {
	var out []ledger.Entry
	for i, x := range h.Entries {
		e, err := ledger.ParseLeaf(x.Leaf)
		if err != nil {
			return nil, err
		}
		if e.Stream != h.ID || e.StreamSeq != int64(i)+1 || i > 0 && x.Index <= out[i-1].Seq {
			return nil, fmt.Errorf("entry %d of %s is %s number %d", i+1, h.ID, e.Stream, e.StreamSeq)
		}
		p, err := x.Proof(h.Checkpoint)
		if err != nil {
			return nil, err
		}
		if err := ledger.VerifyProof(x.Leaf, p, v); err != nil {
			return nil, err
		}
		if _, err := ledger.CheckTexts(x.Leaf, x.Texts, x.Salts); err != nil {
			return nil, fmt.Errorf("entry %d: %w", x.Index, err)
		}
		e.Seq, e.Texts = x.Index, x.Texts
		out = append(out, e)
	}
	return out, nil
}

// CheckDelivery believes nothing that it can check: the certificate is for our key and says what was approved, the ledger
// holds exactly it under the key that this machine trusts, and that ledger continues the one seen before. It returns the PEM
// of certificate and chain.
func (x Checker) CheckDelivery(ctx context.Context, k *machine.Key, r api.Request, d api.Delivery) (string, error) {
	block, rest := pem.Decode([]byte(d.Certificate))
	if block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) > 0 {
		return "", exit.Lie("certificate", "what it delivered is not a certificate")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", exit.Lie("certificate", "what it delivered cannot be parsed: %v", err)
	}
	if bad := x.checkCertificate(cert, k, r); len(bad) > 0 {
		return "", exit.Lie("certificate", "the certificate is not what was approved: %s", strings.Join(bad, "; "))
	}
	if d.Request.ID != r.ID || d.Request.Certificate == nil || d.Cluster.ID != r.Ask.Cluster || d.Cluster.Server != r.Ask.Server {
		return "", exit.Lie("delivery", "what it delivered is for another request or another cluster")
	}
	if d.Cluster.Way != r.Ask.Way {
		return "", exit.Lie("cluster-way", "the way to %s that it delivered (proxy, name in the certificate) is not that of the "+
			"request", r.Ask.Cluster)
	}
	if r.Ask.CAHash != "" && CAHash([]byte(d.Cluster.CA)) != r.Ask.CAHash {
		return "", exit.Lie("cluster-ca", "the authorities it delivered for %s are not those that the request was made for", r.Ask.Cluster)
	}
	chain := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
	for rest := []byte(d.Chain); len(bytes.TrimSpace(rest)) > 0; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil || b.Type != "CERTIFICATE" {
			return "", exit.Lie("certificate", "the chain it delivered cannot be read")
		}
		chain += string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: b.Bytes}))
	}

	ev, err := EventIn(d.Issued, r.ID)
	if err != nil {
		return "", exit.Lie("proof", "the ledger entry it shows: %v", err)
	}
	issued, ok := ev.(breakglass.Issued)
	if !ok || !bytes.Equal(issued.Certificate, cert.Raw) {
		return "", exit.Lie("proof", "the ledger entry it shows is about another certificate")
	}
	proof, err := ledger.ParseProof([]byte(d.Proof))
	if err != nil {
		return "", exit.Lie("proof", "its ledger proof: %v", err)
	}
	if proof.Index != d.Request.Certificate.LedgerIndex {
		return "", exit.Lie("proof", "its ledger proof is of another entry")
	}
	return chain, x.CheckLedger(ctx, func(v note.Verifier) ([]byte, error) { return proof.Note, ledger.VerifyProof(d.Issued, proof, v) })
}

// CAHash is the hash of a bundle as requests have it: empty for none.
func CAHash(bundle []byte) string {
	if len(bundle) == 0 {
		return ""
	}
	return breakglass.CAHash(bundle)
}

// checkCertificate compares the certificate with what was approved, as far as a client can.
func (x Checker) checkCertificate(cert *x509.Certificate, k *machine.Key, r api.Request) []string {
	bad := breakglass.LintCertificate(cert, breakglass.CommonName(r.Ask.By.Person, r.ID), r.Ask.Rights.Group)
	if !k.Private.PublicKey.Equal(cert.PublicKey) {
		bad = append(bad, "it is for another key")
	}
	if now := x.Now(); cert.NotAfter.After(now.Add(time.Duration(r.Ask.TTLSeconds)*time.Second+record.MaxSkew)) ||
		!now.Before(cert.NotAfter) {
		bad = append(bad, fmt.Sprintf("it ends at %s", cert.NotAfter.UTC().Format(time.RFC3339)))
	}
	return bad
}

// EventIn decodes the event in the bytes of a ledger leaf, which must belong to a request.
func EventIn(leaf []byte, request string) (record.Event, error) {
	e, err := ledger.ParseLeaf(leaf)
	if err != nil {
		return nil, err
	}
	if e.Stream != request {
		return nil, fmt.Errorf("it is about %s, not about %s", e.Stream, request)
	}
	return verify.Decode(e)
}

// CheckLedger checks something that is proven under a signed checkpoint: by the key that this machine trusts, and under a
// checkpoint of the ledger that it saw before. It remembers both. A key that was never seen is trusted the first time.
func (x Checker) CheckLedger(ctx context.Context, proven func(note.Verifier) (checkpoint []byte, err error)) error {
	t, err := x.Store.Server(x.Client.Server)
	if err != nil {
		return err
	}
	first := t.Verifier == nil
	if first {
		if t.Key, err = x.Client.LedgerKey(ctx); err != nil {
			return err
		}
		if t.Verifier, err = note.NewVerifier(t.Key); err != nil {
			return exit.Lie("ledger-key", "its ledger key cannot be read: %v", err)
		}
	}
	signed, err := proven(t.Verifier)
	if e := (*api.Error)(nil); errors.As(err, &e) || ctx.Err() != nil {
		return err
	}
	if err != nil {
		if now, kerr := x.Client.LedgerKey(ctx); kerr == nil && now != t.Key {
			return exit.Lie("ledger-key", "the ledger's key has changed: this machine trusts %s, the server now shows %s (%v). If the people who "+
				"run "+
				"it say that this is right, remove %s or give the new one with --ledger-key", t.Key, now, err, t.Path)
		}
		return exit.Lie("proof", "%v", err)
	}
	cp, err := ledger.ParseCheckpoint(signed, t.Verifier)
	if err != nil {
		return exit.Lie("proof", "%v", err)
	}
	if t.Checkpoint != "" {
		if err := continues(ctx, x.Client, t, cp); err != nil {
			return err
		}
	}
	if first {
		x.Screen.Note("%s first contact: from now on this machine trusts the ledger key %s; compare it with the one you "+
			"were given", x.Screen.Yellow("!"), t.Key)
	}
	if old, err := ledger.ParseCheckpoint([]byte(t.Checkpoint), t.Verifier); err != nil || old.Size < cp.Size {
		t.Checkpoint = string(signed)
	}
	if err := machine.WriteJSON(t.Path, t); err != nil {
		return fmt.Errorf("remembering the ledger's checkpoint: %w", err)
	}
	return nil
}

// continues checks that the checkpoint now and the one seen before are of one ledger, whichever is the greater: another run
// of this program may have seen a later one meanwhile.
func continues(ctx context.Context, c *api.Client, t machine.Server, now ledger.Checkpoint) error {
	before, err := ledger.ParseCheckpoint([]byte(t.Checkpoint), t.Verifier)
	if err != nil {
		return &exit.Error{Exit: exit.Unverified, What: "what is known of the server cannot be read", Why: t.Path + " is damaged: " + err.Error(),
			Next: "find out why before you remove it"}
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
		f := exit.Lie("ledger-forked", "its ledger (%d entries) is not the one that this machine saw before (%d entries): it was rolled back or "+
			"rewritten (%v)", now.Size, before.Size, err)
		f.Next += ". If it was restored from a backup, have two of the people who run it tell you so, each by themselves and not over this " +
			"server; then remove " + t.Path
		return f
	}
	return nil
}
