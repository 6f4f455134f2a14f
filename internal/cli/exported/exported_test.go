package exported

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/breakglass"
)

// Whoever gives the wrong file is told what it is, and which command reads it.
func TestWrongFileIsNamed(t *testing.T) {
	for content, want := range map[string]string{
		"\x1f\x8b":                         "breakglass recert verify f",
		"SQLite format 3\x00":              "breakglassd ledger verify --db=f --key=KEY",
		`{"kind": "CertificateProof"}`:     "breakglass ledger verify f",
		`{"kind": "Request"}`:              "breakglass show ID --proof",
		`{"checkpoint": "x"}`:              "breakglass ledger verify --since=f EXPORT",
		"origin\n3\nhash\n\n\u2014 signed": "breakglass ledger verify --since=f EXPORT",
		"poem":                             "breakglass show ID --proof",
	} {
		f := WrongFile("f", []byte(content))
		if !strings.Contains(f.Next, want) || f.Code != "wrong-file" {
			t.Errorf("%q: %+v, want %s", content, f, want)
		}
	}
	dir := t.TempDir()
	if err := isExport(dir); err == nil || !strings.Contains(err.Error(), "not an export of a ledger") {
		t.Errorf("an empty directory: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "MANIFEST.sha256"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := isExport(dir); err == nil || !strings.Contains(err.Error(), "evidence bundle") {
		t.Errorf("a bundle: %v", err)
	}
}

// A spreadsheet takes no reason for a formula, and what is not known of a session is not written as none.
func TestTableOfGrantsIsSafeAndHonest(t *testing.T) {
	var b bytes.Buffer
	r := api.Request{ID: "bg-7k3m-9qx", Reason: "=1+1", RequestedAt: time.Unix(0, 0)}
	r.Session = &breakglass.SessionReported{Source: breakglass.SourceNone}
	if err := (Reading{Grants: []api.Request{r}}).CSV(&b); err != nil {
		t.Fatal(err)
	}
	row := strings.Split(b.String(), "\n")[1]
	if !strings.Contains(row, ",'=1+1,1970-01-01 00:00:00Z,") || !strings.Contains(row, ",,,,,,,") {
		t.Error(row)
	}
}
