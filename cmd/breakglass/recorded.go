package main

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/note"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
)

// get returns a request as the ledger has it. What people decide on and what a claim believes comes from here: the server's word
// chooses the request, lends the names of people, and tells the time; everything else is read from leaves whose place in the ledger
// is proven by the key that this machine trusts, and texts are those that the leaves commit to. What was recorded after the last
// entry shown can be kept back, but nothing can be changed, left out in between or made up.
func (a *app) get(ctx context.Context, c *api.Client, id string) (api.Request, error) {
	said, err := c.Get(ctx, id)
	if err != nil {
		return api.Request{}, err
	}
	r, _, err := a.recorded(ctx, c, a.seen(said))
	return r, err
}

// recorded is get for a request that the server has told of already. It returns the proven history too.
func (a *app) recorded(ctx context.Context, c *api.Client, said api.Request) (api.Request, api.History, error) {
	h, err := c.History(ctx, said.ID)
	if err != nil {
		return api.Request{}, h, err
	}
	if h.ID != said.ID || len(h.Entries) == 0 {
		return api.Request{}, h, lie("record", "it shows no record of %s", said.ID)
	}
	if h.Checkpoint == "" {
		return api.Request{}, h, &failure{exit: exitVerify, code: "no-proof", what: "the server proves nothing",
			why:  "it does not prove what it shows of " + said.ID + ": it is older than this program, or not the server",
			next: "use the program of the server's release, or have the server brought up to date"}
	}
	var entries []ledger.Entry
	err = a.checkLedger(ctx, c, func(v note.Verifier) ([]byte, error) {
		var err error
		entries, err = provenEntries(h, v)
		return []byte(h.Checkpoint), err
	})
	if err != nil {
		return api.Request{}, h, err
	}
	folded, err := breakglass.Fold(entries)
	if errors.Is(err, record.ErrNewerRelease) {
		return api.Request{}, h, &failure{exit: exitOther, code: "newer-release", what: "this program is older than the server",
			why: err.Error(), next: "install the release that the server runs"}
	}
	if err != nil {
		return api.Request{}, h, lie("record", "what it shows could not have happened: %v", err)
	}
	if said.Digest != "" && said.Digest != folded.Digest {
		return api.Request{}, h, lie("digest", "the digest it tells is not that of the record of %s", said.ID)
	}
	r := api.NewRequest(folded, &policy.Policy{}, a.now())
	r.Names, r.NotTold = said.Names, said.NotTold
	return r, h, nil
}

// provenEntries checks every entry of a history against its leaf, the leaf's texts, and its place in the ledger of the history's
// checkpoint.
func provenEntries(h api.History, v note.Verifier) ([]ledger.Entry, error) {
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

// clusterPin is how this machine knew a cluster when it last asked for it or claimed there.
type clusterPin struct {
	Server string `json:"server"`
	CAHash string `json:"caHash,omitempty"`
	breakglass.Way
}

// pinCluster remembers how a cluster is known, and says when that has changed. The request's record, which approvers have seen, has
// the address, and since its second number the hash of the authorities too; caHash is that of what was delivered, if something was.
func (a *app) pinCluster(c *api.Client, ask breakglass.Requested, caHash string) error {
	t, err := a.trustFor(c.Server)
	if err != nil {
		return err
	}
	is := clusterPin{Server: ask.Server, CAHash: caHash, Way: ask.Way}
	was, known := t.Clusters[ask.Cluster]
	if known && was == is {
		return nil
	}
	if known && was.Server != is.Server {
		a.screen.note("%s %s has another address than before: %s, it was %s. Everything you send goes there: ask the people who run it, "+
			"if you did not expect this",
			a.screen.yellow("!"), ask.Cluster, is.Server, was.Server)
	}
	if known && was.CAHash != is.CAHash {
		a.screen.note("%s %s is known by other authorities than before (SHA-256 of its CA bundle: %s, it was %s): ask the people who run "+
			"it, if you did not expect this",
			a.screen.yellow("!"), ask.Cluster, hashWords(is.CAHash), hashWords(was.CAHash))
	}
	if known && was.Way != is.Way {
		a.screen.note("%s %s is reached another way than before: %s, it was %s. Everything you send goes there: ask the people who run it, if "+
			"you did not expect this", a.screen.yellow("!"), ask.Cluster, wayWords(is.Way), wayWords(was.Way))
	}
	if t.Clusters == nil {
		t.Clusters = map[string]clusterPin{}
	}
	t.Clusters[ask.Cluster] = is
	if err := writeJSON(t.path, t); err != nil {
		return fmt.Errorf("remembering how the cluster is known: %w", err)
	}
	return nil
}

func wayWords(w breakglass.Way) string {
	out := "without a proxy of its own"
	if w.ProxyURL != "" {
		out = "through " + w.ProxyURL
	}
	if w.TLSServerName != "" {
		out += ", known as " + w.TLSServerName
	}
	return out
}

func hashWords(h string) string {
	if h == "" {
		return "none, the system's own"
	}
	return h[:min(len(h), 16)] + "…"
}
