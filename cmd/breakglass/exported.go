package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/text"
)

// ledgerExport is an export and what its verification found. Nothing in it is a fact unless sound says so.
type ledgerExport struct {
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
func openExport(ctx context.Context, dir string, verifier note.Verifier, since []string) (*ledgerExport, error) {
	x := &ledgerExport{dir: filepath.Clean(dir), auditor: breakglass.NewAuditor(), anchors: len(since)}
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

// sound is nil for an export that is what was logged.
func (x *ledgerExport) sound(name string, all bool) error {
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

// shownProblems is how many problems are printed without --all.
const shownProblems = 20

// json is what a verification found, for programs.
func (x *ledgerExport) json() verification {
	audit := x.audit
	return verification{Meta: api.Meta{APIVersion: api.Version, Kind: "Verification"}, Ledger: x.report.Origin,
		Size: x.report.Size, Root: x.report.Root.String(),
		Requests: audit.Requests, Certificates: audit.Certificates, Orphans: audit.Orphans, Approvals: audit.Approvals, Signed: audit.Signed,
		Unagreed: audit.Unagreed, Refusals: audit.Refusals,
		Erased: x.report.Erased, Cause: x.report.Cause, Problems: append([]string{}, x.problems...)}
}

// summary says what an export holds.
func (x *ledgerExport) summary() string {
	audit := x.audit
	s := format("%s   %d entries in %d streams   %s\n", cmp.Or(x.report.Origin, x.dir), x.report.Entries, x.report.Streams,
		x.took.Round(time.Millisecond)) +
		format("%d requests, %d certificates (%d never delivered), %d approvals of which %d are signed with an SSH key, %d refused commands, "+
			"%d erased texts\n",
			audit.Requests, audit.Certificates+audit.Orphans, audit.Orphans, audit.Approvals, audit.Signed, audit.Refusals, x.report.Erased)
	if audit.Repeated > 0 {
		s += format("%d approvals were given again in an earlier release after they were taken back: it cannot be told\nwhether they were "+
			"signed again\n", audit.Repeated)
	}
	return s
}

// agreed is nil when every approval rests on an access policy that two people agreed to.
func (x *ledgerExport) agreed() error {
	if x.audit.Unagreed == 0 {
		return nil
	}
	return &failure{exit: exitUnagreed, what: fmt.Sprintf("NOT AGREED TO: %s on an access policy that only an operator put in force",
		resting(x.audit.Unagreed)),
		why: "every hash and the signature are right; that these approvals are by the right people is that operator's word alone",
		next: "two people of the team that signs changes look at it: breakglass policy show\nand confirm it if it was meant: " +
			"breakglass policy approve DIGEST"}
}

// checked says what is proven of an export that is sound and agreed.
func (x *ledgerExport) checked() string {
	s := ""
	if x.anchors > 0 {
		s = format("✓ a continuation of %s kept earlier\n", counted(x.anchors, "checkpoint"))
	}
	return s + "✓ every hash, and the checkpoint's signature\n✓ every certificate was approved by enough people, none of them the requester\n"
}
