package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/cli/exit"
	"github.com/breakglassd/breakglass/internal/cli/kubeconfig"
	"github.com/breakglassd/breakglass/internal/cli/machine"
	"github.com/breakglassd/breakglass/internal/cli/proved"
	"github.com/breakglassd/breakglass/internal/cli/terminal"
	"github.com/breakglassd/breakglass/internal/text"
)

// target is where a certificate goes.
type target struct {
	out   string // --out
	force bool
}

func (t *target) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&t.out, "out", "",
		"`file` for the kubeconfig (- for standard output); with -o pem the beginning of the files' names")
	cmd.Flags().BoolVar(&t.force, "force", false, "replace files that this program did not write")
}

func (a *app) claimCommand() *cobra.Command {
	var t target
	cmd := &cobra.Command{Use: "claim ID", Short: "Claim the certificate of an approved request", Args: one(),
		ValidArgsFunction: a.completeIDs(api.FilterMine),
		Long: "Claims the certificate of an approved request for a key on this machine, checks the ledger's proof of it, and writes a\n" +
			"kubeconfig. Then it asks the cluster whether it accepts the certificate. With the same key you can claim again while the\n" +
			"certificate is valid, and get the same one.",
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
	if err := exit.Outcome(r); err != nil {
		return err
	}
	k, err := a.store.KeyOf(c.Server, r.ID)
	if err != nil {
		return err
	}
	if k == nil {
		if r.Ask.KeyHash != "" {
			return &exit.Error{Exit: exit.Other, Code: "no-local-key", What: "the key of " + r.ID + " is not on this machine",
				Why: "it was made where the request was made, and never leaves that machine", Next: "claim it there, or open a new request here"}
		}
		if k, err = a.store.NewKey(c.Server, a.now().Add(time.Duration(r.Ask.TTLSeconds)*time.Second)); err != nil {
			return err
		}
		if err := k.BelongTo(r); err != nil {
			return err
		}
	}
	files, err := a.files(r.ID, t)
	if err != nil {
		return err
	}
	csr, err := k.CSR()
	if err != nil {
		return err
	}
	a.screen.Status("waiting for the certificate")
	d, err := c.Claim(ctx, r.ID, csr)
	if err != nil {
		return err
	}
	a.seen(d.Request)
	chain, err := a.proof(c).CheckDelivery(ctx, k, r, d)
	if err != nil {
		return err
	}
	if err := a.pinCluster(c, r.Ask, proved.CAHash([]byte(d.Cluster.CA))); err != nil {
		return err
	}
	cert, again := d.Request.Certificate, terminal.Styled("")
	if k.Serial == d.Request.Certificate.Serial {
		again = " (the same as before)"
	}
	a.screen.Note("%s issued%s  serial %s   until %s   ledger #%d, proof ok", a.screen.Green("✓"), again, cert.Serial,
		a.view().When(cert.NotAfter), cert.LedgerIndex)
	if d.Warning != "" {
		a.screen.Note("%s %s", a.screen.Yellow("!"), d.Warning)
	}
	k.Until, k.Claimed, k.Cluster, k.Profile, k.Serial = cert.NotAfter, true, d.Cluster, r.Ask.Profile, cert.Serial
	a.settled[r.ID] = true
	for _, f := range files {
		if !slices.Contains(k.Files, f) {
			k.Files = append(k.Files, f)
		}
	}
	if err := k.Save(); err != nil {
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
			return nil, exit.Usage("-o %s with --out %s is not possible", a.output, base)
		}
		if a.outTerminal() && !t.force {
			return nil, &exit.Error{Exit: exit.BadUsage, Code: "key-on-screen", What: "this would print a private key on the screen",
				Next: "send it into a file or another program, or give --force"}
		}
		return nil, nil
	}
	if base == "" {
		dir, err := a.store.RuntimeDir()
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
			return nil, exit.Usage("%s is yours: this program never touches it", f)
		}
		of, err := machine.Owner(f)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			if info, err := os.Stat(filepath.Dir(f)); err != nil || !info.IsDir() {
				return nil, exit.Usage("%s is not a directory", filepath.Dir(f))
			}
		case err != nil:
			return nil, exit.Usage("%v", err)
		case of == "" && !t.force:
			return nil, &exit.Error{Exit: exit.Other, Code: "file-exists", What: f + " exists", Why: "this program did not write it",
				Next: "choose another --out, or give --force"}
		}
	}
	return files, nil
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
func (a *app) deliver(d api.Delivery, k *machine.Key, chain string, files []string) error {
	id := d.Request.ID
	head := fmt.Sprintf("%s%s until %s; the key in it is removed by the next run after that\n", machine.Marker, id,
		d.Request.Certificate.NotAfter.UTC().Format(time.RFC3339))
	switch {
	case a.json():
		return a.printJSON(credential{Meta: api.Meta{APIVersion: api.Version, Kind: "Credential"}, Request: d.Request, Certificate: chain,
			PrivateKey: k.Key, Cluster: d.Cluster,
			Proof: d.Proof, Issued: d.Issued, Warning: d.Warning})
	case a.output == "pem":
		for i, text := range []string{k.Key, chain, d.Cluster.CA} {
			if err := machine.WritePrivate(files[i], []byte(head+text)); err != nil {
				return fmt.Errorf("writing %s: %w", files[i], err)
			}
			if _, err := fmt.Fprintln(a.out, files[i]); err != nil {
				return err
			}
		}
		return nil
	}
	config := head + kubeconfig.Write(id, d.Cluster, chain, k.Key)
	if len(files) == 0 {
		_, err := fmt.Fprint(a.out, config)
		return err
	}
	if err := machine.WritePrivate(files[0], []byte(config)); err != nil {
		return fmt.Errorf("writing %s: %w", files[0], err)
	}
	if a.outTerminal() { // nothing evaluates what is printed: say how to use it, here and elsewhere
		a.screen.Note("Use it, in this terminal or another:  eval \"$(%s)\"   or:", a.typed("claim", nil, id))
	}
	_, err := fmt.Fprintf(a.out, "export KUBECONFIG=%s\n", text.Quote(files[0]))
	return err
}

// endedCommand is what a tombstone runs: kubectl prints what it says, and ends.
func (a *app) endedCommand() *cobra.Command {
	return &cobra.Command{Use: "ended ID CLUSTER PROFILE HOW", Hidden: true, Args: args(4, 4, "what a kubeconfig of ours gives"),
		RunE: func(_ *cobra.Command, args []string) error {
			return &exit.Error{Exit: exit.Expired, Code: "access-ended",
				What: fmt.Sprintf("your access to %s has ended: %s %s", args[1], args[0], args[3]),
				Next: "ask again: " + terminal.Command("request", []string{"--cluster=" + args[1], "--profile=" + args[2]}) +
					` --reason "…", and use the kubeconfig that it writes`}
		}}
}

// checkAccess asks the cluster, at the address and with the authorities of the kubeconfig, whom it takes the new certificate for.
// That needs no right. A cluster that does not answer proves nothing, and is no error.
func (a *app) checkAccess(ctx context.Context, r api.Request, cl api.Cluster, chain, key string) error {
	a.screen.Status("asking %s whether it accepts the certificate", cl.ID)
	me := breakglass.CommonName(r.Ask.By.Person, r.ID)
	kept := "what was written stays: it works once that is fixed"
	user, err := kubeconfig.WhoAmI(ctx, cl, chain, key)
	switch {
	case errors.Is(err, kubeconfig.ErrNotTrusted):
		return &exit.Error{Exit: exit.Unreachable, Code: "certificate-not-accepted", What: cl.ID + " answers 401 to the new certificate",
			Why:  "its API servers do not trust the break-glass CA yet, or a proxy before them ends TLS",
			Next: "tell an operator: breakglassd doctor\n" + kept}
	case err != nil:
		a.screen.Note("%s cannot tell whether %s accepts it: %v", a.screen.Yellow("!"), cl.ID, err)
		return nil
	case user != me:
		return &exit.Error{Exit: exit.Unreachable, Code: "taken-for-another", What: fmt.Sprintf("%s says that you are %.200q, not %s", cl.ID,
			user,
			me),
			Why:  "the certificate does not reach its API servers: a proxy in between ends TLS",
			Next: "tell an operator: breakglassd doctor\n" + kept}
	}
	a.screen.Note("%s %s accepts it: you are %s", a.screen.Green("✓"), cl.ID, me)
	return nil
}
