// Package exported verifies an exported ledger and reads from it who had access. It asks no server.
package exported

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
	"github.com/breakglassd/breakglass/internal/cli/exit"
	"github.com/breakglassd/breakglass/internal/cli/terminal"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/text"
	"github.com/breakglassd/breakglass/internal/verify"
)

// Export is an export and what its verification found. Nothing in it is a fact unless sound says so.
type Export struct {
	dir      string
	Archive  *ledger.Archive
	Report   ledger.Report
	Auditor  *verify.Auditor
	audit    verify.Report
	problems []string // of both
	anchors  int
	Last     time.Time // of the last entry: the time as of which the export speaks
	took     time.Duration
}

// Open verifies an export. The error is for what is not one.
func Open(ctx context.Context, dir string, verifier note.Verifier, since []string) (*Export, error) {
	x := &Export{dir: filepath.Clean(dir), Auditor: verify.NewAuditor(), anchors: len(since)}
	info, err := os.Stat(x.dir)
	switch {
	case err != nil:
		return nil, exit.Usage("%v", err)
	case !info.IsDir():
		return nil, WrongFile(x.dir, nil)
	}
	if err := isExport(x.dir); err != nil {
		return nil, err
	}
	anchors, err := readAnchors(since, verifier)
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	if x.Report, err = ledger.VerifyExport(ctx, x.dir, verifier, anchors...); err != nil {
		return nil, err
	}
	if x.Archive, err = ledger.OpenExport(x.dir); err == nil {
		err = x.Archive.Entries(ctx, func(e ledger.Entry) error {
			x.Auditor.Add(e)
			x.Last = e.Time
			return nil
		})
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	x.audit, x.took = x.Auditor.Report(), time.Since(begin)
	x.problems = slices.Concat(x.Report.Problems, x.audit.Problems)
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
			return nil, exit.Usage("checkpoint: %v", err)
		}
		cp, err := ledger.ParseKept(b, verifier)
		if errors.Is(err, ledger.ErrNoCheckpoint) {
			f := exit.Usage("--since %s: %v", f, err)
			f.Next = "--since takes the file \"checkpoint\" of an earlier export, or server-….json of the state directory"
			return nil, f
		}
		if err != nil {
			return nil, &exit.Error{Exit: exit.Unverified, Code: "checkpoint", What: "VERIFICATION FAILED: the checkpoint " + f +
				" is not this ledger's",
				Why: err.Error(), Next: "keep it as evidence, and find out where it comes from; is --key the right one?"}
		}
		out = append(out, cp)
	}
	return out, nil
}

// Sound is nil for an export that is what was logged.
func (x *Export) Sound(name string, all bool) error {
	if x.audit.Newer && len(x.Report.Problems) == 0 {
		return &exit.Error{Exit: exit.Newer, What: "made by a newer release of " + name,
			Why:  "every hash and the signature are right, and some entries are of a kind that this release does not know",
			Next: "verify it with that release"}
	}
	n := len(x.problems)
	if n == 0 {
		return nil
	}
	f := &exit.Error{Exit: exit.Unverified, What: "VERIFICATION FAILED: " + terminal.Counted(n, "problem"),
		Next: "keep this export as evidence, and compare it with others and with checkpoints kept elsewhere"}
	shown, more := x.problems, ""
	switch {
	case all:
	case x.Report.Cause != "":
		shown, more = x.problems[:1], fmt.Sprintf("%d more follow from it (--all)", n-1)
	case n > shownProblems:
		shown, more = x.problems[:shownProblems], fmt.Sprintf("and %d more (--all)", n-shownProblems)
	}
	if n == 1 {
		more = ""
	}
	f.Why = strings.TrimSpace(strings.Join(shown, "\n") + "\n" + more)
	return f
}

// Verification is the JSON form of what a verification found.
type Verification struct {
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
		return other(dir, "the evidence bundle of a recertification", terminal.Command("recert verify", nil, dir))
	}
	return other(dir, "not an export of a ledger: it has no checkpoint, no tile and no texts.jsonl in it", "")
}

// other is a file of another kind.
func other(path, what, command string) *exit.Error {
	f := exit.Usage("%s is %s", path, what)
	f.Code, f.Next = "wrong-file", "give the directory that breakglassd ledger export wrote, or the JSON of breakglass show ID --proof"
	if command != "" {
		f.Next = command
	}
	return f
}

// WrongFile says what a file is that is none of a ledger's, and which command reads it. The content is read if it is not given.
func WrongFile(path string, content []byte) *exit.Error {
	if content == nil {
		f, err := os.Open(path)
		if err != nil {
			return exit.Usage("%v", err)
		}
		defer f.Close()
		if content, err = io.ReadAll(io.LimitReader(f, 1<<20)); err != nil {
			return exit.Usage("%v", err)
		}
	}
	var is struct {
		api.Meta
		Checkpoint string `json:"checkpoint"`
	}
	err := json.Unmarshal(content, &is)
	switch {
	case bytes.HasPrefix(content, []byte("\x1f\x8b")):
		return other(path, "compressed, as the evidence bundle of a recertification is", terminal.Command("recert verify", nil, path))
	case bytes.HasPrefix(content, []byte("SQLite format 3\x00")):
		return other(path, "a database, as the daemon's ledger is", text.Command("breakglassd ledger verify",
			[]string{"--db=" + path, "--key=KEY"}))
	case err == nil && is.Kind == "Credential", err == nil && is.Kind == "CertificateProof":
		return other(path, "the proof of one certificate", terminal.Command("ledger verify", nil, path))
	case err == nil && is.Kind != "":
		return other(path, "a "+is.Kind+", which proves nothing", "")
	case err == nil && is.Checkpoint != "", err != nil && bytes.Contains(content, []byte("\n\n\u2014 ")):
		return other(path, "a checkpoint", terminal.Command("ledger verify", []string{"--since=" + path}, "EXPORT"))
	}
	return other(path, "neither an export of a ledger nor a proof", "")
}

// shownProblems is how many problems are printed without --all.
const shownProblems = 20

// JSON is what a verification found, for programs.
func (x *Export) JSON() Verification {
	audit := x.audit
	return Verification{Meta: api.Meta{APIVersion: api.Version, Kind: "Verification"}, Ledger: x.Report.Origin,
		Size: x.Report.Size, Root: x.Report.Root.String(),
		Requests: audit.Requests, Certificates: audit.Certificates, Orphans: audit.Orphans, Approvals: audit.Approvals, Signed: audit.Signed,
		Unagreed: audit.Unagreed, Refusals: audit.Refusals,
		Erased: x.Report.Erased, Cause: x.Report.Cause, Problems: append([]string{}, x.problems...)}
}

// Summary says what an export holds.
func (x *Export) Summary() string {
	audit := x.audit
	s := terminal.Format("%s   %d entries in %d streams   %s\n", cmp.Or(x.Report.Origin, x.dir), x.Report.Entries, x.Report.Streams,
		x.took.Round(time.Millisecond)) +
		terminal.Format("%d requests, %d certificates (%d never delivered), %d approvals of which %d are signed with an SSH key, %d refused "+
			"commands, "+
			"%d erased texts\n",
			audit.Requests, audit.Certificates+audit.Orphans, audit.Orphans, audit.Approvals, audit.Signed, audit.Refusals, x.Report.Erased)
	if audit.Repeated > 0 {
		s += terminal.Format("%d approvals were given again in an earlier release after they were taken back: it cannot be told\n"+
			"whether they were "+
			"signed again\n", audit.Repeated)
	}
	return s
}

// Agreed is nil when every approval rests on an access policy that two people agreed to.
func (x *Export) Agreed() error {
	if x.audit.Unagreed == 0 {
		return nil
	}
	return &exit.Error{Exit: exit.Unagreed, What: fmt.Sprintf("NOT AGREED TO: %s on an access policy that only an operator put in force",
		resting(x.audit.Unagreed)),
		Why: "every hash and the signature are right; that these approvals are by the right people is that operator's word alone",
		Next: "two people of the team that signs changes look at it: breakglass policy show\nand confirm it if it was meant: " +
			"breakglass policy approve DIGEST"}
}

// Checked says what is proven of an export that is sound and agreed.
func (x *Export) Checked() string {
	s := ""
	if x.anchors > 0 {
		s = terminal.Format("✓ a continuation of %s kept earlier\n", terminal.Counted(x.anchors, "checkpoint"))
	}
	return s + "✓ every hash, and the checkpoint's signature\n" +
		"✓ every certificate was approved by enough people, none of them the requester\n"
}
