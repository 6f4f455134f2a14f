package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/text"
)

func (a *app) ledgerCommand() *cobra.Command {
	return group(&cobra.Command{Use: "ledger", Short: "Check and read the ledger, offline"}, a.verifyCommand(), a.readingList(),
		a.readingShow())
}

// anchored is which ledger an export must be of.
type anchored struct {
	key   string
	since []string
}

func (n *anchored) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&n.key, "key", "", "the ledger's public key, or a `file` with it")
	cmd.Flags().StringArrayVar(&n.since, "since", nil, "`file` with a checkpoint kept earlier, of which the export must be a continuation: "+
		"that of an\nearlier export, or what this program keeps of a server in its state directory; may be repeated")
}

func (a *app) verifyCommand() *cobra.Command {
	var of anchored
	var all bool
	cmd := &cobra.Command{Use: "verify EXPORT",
		Short: "Verify an exported ledger, or one certificate's proof, with nothing but the public key",
		Args:  args(1, 1, "one exported directory or .json file"),
		Long: "Verifies an export of the ledger: every hash, the signed checkpoint, and that everything in it could have happened, above\nall " +
			"that every certificate had its approvals. Given the JSON that show --proof or claim -o json printed, it verifies the proof of that\n" +
			"certificate, and that nothing else in the file was changed. No server is asked.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.formats("json"); err != nil {
				return err
			}
			verifier, err := a.verifier(of.key)
			if err != nil {
				return err
			}
			info, err := os.Stat(args[0])
			if err != nil {
				return usage("%v", err)
			}
			if !info.IsDir() {
				return a.verifyCredential(args[0], verifier)
			}
			x, err := a.openExport(cmd.Context(), args[0], verifier, of.since)
			if err != nil {
				return err
			}
			return a.reportExport(x, all)
		}}
	of.flags(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "print every problem")
	return cmd
}

// verification is the JSON form of what a verification found.
type verification struct {
	api.Meta
	Ledger       string   `json:"ledger"`
	Size         int64    `json:"size"`
	Root         string   `json:"root"`
	Requests     int      `json:"requests"`
	Certificates int      `json:"certificates"`
	Orphans      int      `json:"orphans"` // signed and never delivered; not among Certificates
	Approvals    int      `json:"approvals"`
	Signed       int      `json:"signedApprovals"`
	Unagreed     int      `json:"unagreedApprovals"` // under an access policy that no two people agreed to
	Refusals     int      `json:"refusals"`
	Erased       int      `json:"erasedTexts"`
	Cause        string   `json:"cause,omitempty"` // the problem that the others follow from
	Problems     []string `json:"problems"`
}

// verifier is the public key that --key or the configuration names, for what is verified offline.
func (a *app) verifier(key string) (note.Verifier, error) {
	if key = cmp.Or(key, a.conf.LedgerKey); key == "" {
		return nil, usage("which ledger? give its public key with --key")
	}
	text, err := readLedgerKey(key)
	if err != nil {
		return nil, err
	}
	v, err := note.NewVerifier(text)
	if err != nil {
		return nil, usage("ledger key: %v", err)
	}
	return v, nil
}

// exported is an export and what its verification found. Nothing in it is a fact unless sound says so.
type exported struct {
	dir      string
	archive  *ledger.Archive
	report   ledger.Report
	auditor  *breakglass.Auditor
	audit    breakglass.AuditReport
	problems []string // of both
	anchors  int
	last     time.Time // of the last entry: the time as of which the export speaks
	took     time.Duration
}

// openExport verifies an export. The error is for what is not one.
func (a *app) openExport(ctx context.Context, dir string, verifier note.Verifier, since []string) (*exported, error) {
	x := &exported{dir: filepath.Clean(dir), auditor: breakglass.NewAuditor(), anchors: len(since)}
	info, err := os.Stat(x.dir)
	switch {
	case err != nil:
		return nil, usage("%v", err)
	case !info.IsDir():
		return nil, wrongFile(x.dir, nil)
	}
	if err := isExport(x.dir); err != nil {
		return nil, err
	}
	anchors, err := readAnchors(since, verifier)
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	if x.report, err = ledger.VerifyExport(ctx, x.dir, verifier, anchors...); err != nil {
		return nil, err
	}
	if x.archive, err = ledger.OpenExport(x.dir); err == nil {
		err = x.archive.Entries(ctx, func(e ledger.Entry) error {
			x.auditor.Add(e)
			x.last = e.Time
			return nil
		})
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	x.audit, x.took = x.auditor.Report(), time.Since(begin)
	x.problems = slices.Concat(x.report.Problems, x.audit.Problems)
	if err != nil && len(x.problems) == 0 {
		x.problems = append(x.problems, err.Error())
	}
	return x, nil
}

// readAnchors reads checkpoints that were kept earlier.
func readAnchors(files []string, verifier note.Verifier) ([]ledger.Checkpoint, error) {
	var out []ledger.Checkpoint
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, usage("checkpoint: %v", err)
		}
		cp, err := ledger.ParseKept(b, verifier)
		if errors.Is(err, ledger.ErrNoCheckpoint) {
			f := usage("--since %s: %v", f, err)
			f.next = "--since takes the file \"checkpoint\" of an earlier export, or server-….json of the state directory"
			return nil, f
		}
		if err != nil {
			return nil, &failure{exit: exitVerify, code: "checkpoint", what: "VERIFICATION FAILED: the checkpoint " + f + " is not this ledger's",
				why: err.Error(), next: "keep it as evidence, and find out where it comes from; is --key the right one?"}
		}
		out = append(out, cp)
	}
	return out, nil
}

// shownProblems is how many problems are printed without --all.
const shownProblems = 20

// sound is nil for an export that is what was logged.
func (x *exported) sound(name string, all bool) error {
	if x.audit.Newer && len(x.report.Problems) == 0 {
		return &failure{exit: exitNewer, what: "made by a newer release of " + name,
			why:  "every hash and the signature are right, and some entries are of a kind that this release does not know",
			next: "verify it with that release"}
	}
	n := len(x.problems)
	if n == 0 {
		return nil
	}
	f := &failure{exit: exitVerify, what: "VERIFICATION FAILED: " + counted(n, "problem"),
		next: "keep this export as evidence, and compare it with others and with checkpoints kept elsewhere"}
	shown, more := x.problems, ""
	switch {
	case all:
	case x.report.Cause != "":
		shown, more = x.problems[:1], fmt.Sprintf("%d more follow from it (--all)", n-1)
	case n > shownProblems:
		shown, more = x.problems[:shownProblems], fmt.Sprintf("and %d more (--all)", n-shownProblems)
	}
	if n == 1 {
		more = ""
	}
	f.why = strings.TrimSpace(strings.Join(shown, "\n") + "\n" + more)
	return f
}

// reportExport says what a verification found.
func (a *app) reportExport(x *exported, all bool) error {
	audit := x.audit
	if a.json() {
		if err := a.printJSON(verification{Meta: api.Meta{APIVersion: api.Version, Kind: "Verification"}, Ledger: x.report.Origin,
			Size: x.report.Size, Root: x.report.Root.String(),
			Requests: audit.Requests, Certificates: audit.Certificates, Orphans: audit.Orphans, Approvals: audit.Approvals, Signed: audit.Signed,
			Unagreed: audit.Unagreed, Refusals: audit.Refusals,
			Erased: x.report.Erased, Cause: x.report.Cause, Problems: append([]string{}, x.problems...)}); err != nil {
			return err
		}
	} else {
		a.data("%s   %d entries in %d streams   %s\n", cmp.Or(x.report.Origin, x.dir), x.report.Entries, x.report.Streams,
			x.took.Round(time.Millisecond))
		a.data("%d requests, %d certificates (%d never delivered), %d approvals of which %d are signed with an SSH key, %d refused commands, "+
			"%d erased texts\n",
			audit.Requests, audit.Certificates+audit.Orphans, audit.Orphans, audit.Approvals, audit.Signed, audit.Refusals, x.report.Erased)
		if audit.Repeated > 0 {
			a.data("%d approvals were given again in an earlier release after they were taken back: it cannot be told\nwhether they were signed "+
				"again\n", audit.Repeated)
		}
	}
	if err := x.sound(a.name, all); err != nil {
		return err
	}
	if audit.Unagreed > 0 {
		return &failure{exit: exitUnagreed, what: fmt.Sprintf("NOT AGREED TO: %s on an access policy that only an operator put in force",
			resting(audit.Unagreed)),
			why: "every hash and the signature are right; that these approvals are by the right people is that operator's word alone",
			next: "two people of the team that signs changes look at it, breakglass policy show, and confirm it if it was meant, breakglass " +
				"policy approve DIGEST"}
	}
	if !a.json() {
		if x.anchors > 0 {
			a.data("✓ a continuation of %s kept earlier\n", counted(x.anchors, "checkpoint"))
		}
		a.data("✓ every hash, and the checkpoint's signature\n✓ every certificate was approved by enough people, none of them the requester\n")
	}
	return nil
}

func resting(approvals int) string {
	if approvals == 1 {
		return "1 approval rests"
	}
	return fmt.Sprintf("%d approvals rest", approvals)
}

// isExport says why a directory is no export of a ledger. One of which only parts are left is a damaged one.
func isExport(dir string) error {
	if ledger.IsExport(dir) {
		return nil
	}
	if _, err := os.Lstat(filepath.Join(dir, "MANIFEST.sha256")); err == nil {
		return other(dir, "the evidence bundle of a recertification", command("recert verify", nil, dir))
	}
	return other(dir, "no export of a ledger: it has no checkpoint, no tile and no texts.jsonl in it", "")
}

// other is a file of another kind.
func other(path, what, command string) *failure {
	f := usage("%s is %s", path, what)
	f.code, f.next = "wrong-file", "give the directory that breakglassd ledger export wrote, or the JSON of breakglass show ID --proof"
	if command != "" {
		f.next = command
	}
	return f
}

// wrongFile says what a file is that is none of a ledger's, and which command reads it. The content is read if it is not given.
func wrongFile(path string, content []byte) *failure {
	if content == nil {
		f, err := os.Open(path)
		if err != nil {
			return usage("%v", err)
		}
		defer f.Close()
		if content, err = io.ReadAll(io.LimitReader(f, 1<<20)); err != nil {
			return usage("%v", err)
		}
	}
	var is struct {
		api.Meta
		Checkpoint string `json:"checkpoint"`
	}
	err := json.Unmarshal(content, &is)
	switch {
	case bytes.HasPrefix(content, []byte("\x1f\x8b")):
		return other(path, "compressed, as the evidence bundle of a recertification is", command("recert verify", nil, path))
	case bytes.HasPrefix(content, []byte("SQLite format 3\x00")):
		return other(path, "a database, as the daemon's ledger is", text.Command("breakglassd ledger verify",
			[]string{"--db=" + path, "--key=KEY"}))
	case err == nil && is.Kind == "Credential", err == nil && is.Kind == "CertificateProof":
		return other(path, "the proof of one certificate", command("ledger verify", nil, path))
	case err == nil && is.Kind != "":
		return other(path, "a "+is.Kind+", which proves nothing", "")
	case err == nil && is.Checkpoint != "", err != nil && bytes.Contains(content, []byte("\n\n\u2014 ")):
		return other(path, "a checkpoint", command("ledger verify", []string{"--since=" + path}, "EXPORT"))
	}
	return other(path, "neither an export of a ledger nor a proof", "")
}

// verifyCredential verifies what show --proof or claim -o json printed, when only that is at hand.
func (a *app) verifyCredential(path string, verifier note.Verifier) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return usage("%v", err)
	}
	p, err := checkCredential(b, verifier)
	if errors.Is(err, errNoProof) {
		return wrongFile(path, b)
	}
	if err == nil && len(p.changed) > 0 {
		err = errors.New("the ledger says otherwise than the file:\n" + strings.Join(p.changed, "\n"))
	}
	if err != nil {
		return &failure{exit: exitVerify, what: "VERIFICATION FAILED: " + path, why: err.Error(),
			next: "keep the file as evidence; a true one comes from: breakglass show ID --proof"}
	}
	if a.json() {
		return a.printJSON(struct {
			api.Meta
			Ledger      string    `json:"ledger"`
			Index       int64     `json:"index"`
			Request     string    `json:"request"`
			Person      string    `json:"person"`
			Serial      string    `json:"serial"`
			Fingerprint string    `json:"fingerprint"`
			NotBefore   time.Time `json:"notBefore"`
			NotAfter    time.Time `json:"notAfter"`
			Whole       bool      `json:"whole"` // all that the file says of the request is proved
		}{api.Meta{APIVersion: api.Version, Kind: "ProofVerification"}, verifier.Name(), p.index, p.id, p.person, p.issued.Serial,
			p.issued.Fingerprint, p.issued.NotBefore, p.issued.NotAfter, p.request != nil})
	}
	a.data("✓ certificate %s is entry #%d of %s\n", p.issued.Serial, p.index, verifier.Name())
	if p.request != nil {
		a.data("✓ all that the file says of %s is so in that ledger: its entries up to #%d are proven\n", p.id, p.last)
		a.data("  not proved: that nothing was recorded after them; names of people are the server's word\n\n")
		_, err := fmt.Fprint(a.out, a.describe(*p.request))
		return err
	}
	a.data("  proved      request %s of %s, serial, fingerprint %s, %s to %s\n", p.id, p.person, p.issued.Fingerprint,
		stamp(p.issued.NotBefore), stamp(p.issued.NotAfter))
	a.data("  not proved  everything else that the file says of the request; a file that proves it comes from: %s\n",
		command("show", []string{"--proof"}, p.id))
	return nil
}

// errNoProof says that a file is not what show --proof or claim -o json prints.
var errNoProof = errors.New("it is not what show --proof or claim -o json prints")

// proven is what the proof of a certificate proves.
type proven struct {
	issued  breakglass.Issued
	index   int64
	id      string // of the request
	person  string
	last    int64        // index of the last entry
	request *api.Request // from proven entries; nil: the file has none, as claim -o json prints it
	changed []string     // what the file says otherwise
}

// checkCredential verifies that the ledger of a key holds exactly the certificate of a credential, and compares what the file says
// of the request with what is proved.
func checkCredential(file []byte, verifier note.Verifier) (proven, error) {
	var p proven
	var c certificateProof
	if err := json.Unmarshal(file, &c); err != nil || c.Kind != "Credential" && c.Kind != "CertificateProof" {
		for _, kind := range []string{`"Credential"`, `"CertificateProof"`} {
			if err != nil && bytes.Contains(file, []byte(kind)) {
				return p, fmt.Errorf("it is damaged: %w", err)
			}
		}
		return p, errNoProof
	}
	block, _ := pem.Decode([]byte(c.Certificate))
	if block == nil {
		return p, errors.New("there is no certificate in it")
	}
	ev, err := eventIn(c.Issued, c.Request.ID)
	if err != nil {
		return p, err
	}
	var ok bool
	if p.issued, ok = ev.(breakglass.Issued); !ok || !bytes.Equal(p.issued.Certificate, block.Bytes) {
		return p, errors.New("its ledger entry is about another certificate")
	}
	proof, err := ledger.ParseProof([]byte(c.Proof))
	if err != nil {
		return p, err
	}
	if err := ledger.VerifyProof(c.Issued, proof, verifier); err != nil {
		return p, err
	}
	p.index, p.id = proof.Index, c.Request.ID
	if p.person, err = holder(p.issued, p.id); err != nil {
		return p, err
	}
	if len(c.Entries) == 0 {
		p.changed = p.compareCertificate(c.Request)
		return p, nil
	}
	entries, err := provenEntries(api.History{ID: p.id, Entries: c.Entries, Checkpoint: c.Checkpoint}, verifier)
	if err != nil {
		return p, err
	}
	folded, err := breakglass.Fold(entries)
	if err != nil {
		return p, err
	}
	if folded.Issued == nil || folded.IssuedSeq != p.index {
		return p, errors.New("its entries have another certificate")
	}
	r := api.NewRequest(folded, &policy.Policy{}, c.Request.AsOf)
	p.request, p.last = &r, entries[len(entries)-1].Seq
	p.changed, err = differences(file, r)
	return p, err
}

// holder is the person in a certificate's name.
func holder(x breakglass.Issued, request string) (string, error) {
	cert, err := x509.ParseCertificate(x.Certificate)
	if err != nil {
		return "", err
	}
	person, ok := strings.CutPrefix(strings.TrimSuffix(cert.Subject.CommonName, ":"+request), policy.CommonNamePrefix)
	if !ok || breakglass.CommonName(person, request) != cert.Subject.CommonName {
		return "", fmt.Errorf("its certificate is for %.100q, which is not of %s", cert.Subject.CommonName, request)
	}
	return person, nil
}

// compareCertificate says what a file that has no entries says otherwise than the certificate.
func (p *proven) compareCertificate(r api.Request) []string {
	var out []string
	differ := func(what string, said, is any) {
		if !reflect.DeepEqual(said, is) {
			out = append(out, fmt.Sprintf("%s is %.100q and not %.100q", what, fmt.Sprint(is), fmt.Sprint(said)))
		}
	}
	differ("request.ask.by.person", r.Ask.By.Person, p.person)
	if x := r.Certificate; x != nil {
		differ("request.certificate.commonName", x.CommonName, breakglass.CommonName(p.person, p.id))
		differ("request.certificate.serial", x.Serial, p.issued.Serial)
		differ("request.certificate.fingerprint", x.Fingerprint, p.issued.Fingerprint)
		differ("request.certificate.notBefore", x.NotBefore.UTC(), p.issued.NotBefore.UTC())
		differ("request.certificate.notAfter", x.NotAfter.UTC(), p.issued.NotAfter.UTC())
		differ("request.certificate.ledgerIndex", x.LedgerIndex, p.index)
	}
	return out
}

// differences says where a file's "request" is not the one that its entries make. What only a server can say is left out: names of
// people, and whether Slack has been told.
func differences(content []byte, is api.Request) ([]string, error) {
	var file struct {
		Request map[string]any `json:"request"`
	}
	if err := json.Unmarshal(content, &file); err != nil {
		return nil, err
	}
	b, err := json.Marshal(is)
	if err != nil {
		return nil, err
	}
	var proved map[string]any
	if err := json.Unmarshal(b, &proved); err != nil {
		return nil, err
	}
	for _, servers := range []string{"names", "notTold"} {
		delete(file.Request, servers)
		delete(proved, servers)
	}
	var out []string
	var walk func(at string, said, is any)
	walk = func(at string, said, is any) {
		a, object := said.(map[string]any)
		b, too := is.(map[string]any)
		x, list := said.([]any)
		y, alike := is.([]any)
		switch {
		case object && too:
			for k := range a { // what it leaves out, perhaps because its release knew less, is not changed; shown is what is proved
				walk(at+"."+k, a[k], b[k])
			}
		case list && alike && len(x) == len(y):
			for i := range x {
				walk(fmt.Sprintf("%s[%d]", at, i), x[i], y[i])
			}
		case !reflect.DeepEqual(said, is):
			words := func(x any) string {
				b, err := json.Marshal(x)
				if err != nil {
					panic(err) // it came from JSON
				}
				return text.Cut(string(b), 100)
			}
			out = append(out, at+" is "+words(is)+" and not "+words(said))
		}
	}
	walk("request", file.Request, proved)
	slices.Sort(out)
	return out, nil
}
