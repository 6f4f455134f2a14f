package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/bgtest"
	"github.com/breakglassd/breakglass/internal/campaign"
	"github.com/breakglassd/breakglass/internal/doors"
	"github.com/breakglassd/breakglass/internal/inventory"
	"github.com/breakglassd/breakglass/internal/recert"
)

const reviewed = "responders: [security]\nrecertification: {reviewers: [sre, security], adminReviewers: 2, deadline: 14d}\n"

// newReviewed is a daemon whose campaigns are about a cluster with so many bindings.
func newReviewed(t *testing.T, bindings int) *daemon {
	t.Helper()
	d := &daemon{System: bgtest.New(t, bgtest.Options{Policy: bgtest.Policy() + reviewed}), log: &lockedBuffer{}}
	campaigns, err := recert.New(recert.Config{Domain: d.Service, Campaigns: d.Campaigns, Ledger: d.Ledger, Signer: d.Signer(),
		Dir:      filepath.Join(d.Dir, "recert"),
		Clusters: []string{"c1"},
		Scan: func(context.Context, string) (*inventory.Snapshot, *doors.Analysis, error) {
			snap, judged := &inventory.Snapshot{Cluster: "c1", At: time.Now().UTC()}, &doors.Analysis{Cluster: "c1"}
			for n := range bindings {
				subject := inventory.Subject{Kind: inventory.User, Name: fmt.Sprintf("somebody-with-a-long-name-%d@subsidiary.example.com", n)}
				via := inventory.Ref{Kind: "RoleBinding", Namespace: "shop", Name: fmt.Sprintf("binding-for-somebody-with-a-long-name-%d", n)}
				snap.Bindings = append(snap.Bindings, inventory.Binding{Namespace: via.Namespace, Name: via.Name,
					Subjects: []inventory.Subject{subject}})
				judged.Powers = append(judged.Powers, inventory.Power{Subject: subject, Rights: []string{"secrets-read@shop", "pods-create@shop",
					"pods-exec@shop"}, Severity: inventory.High, Via: []inventory.Ref{via},
					Path: inventory.Path{{From: "user " + subject.Name, Via: "RoleBinding shop/" + via.Name, Can: "read secrets in shop",
						To: "every token in shop"}}})
			}
			return snap, judged, nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	d.serve(t, "127.0.0.1:0", func(c *api.Config) { c.Recert = campaigns })
	return d
}

// A campaign of the size that ten thousand bindings make goes through the API: every answer is whole.
func TestBigCampaignGoesThroughTheAPI(t *testing.T) {
	const most = 16 << 20 // what a client takes of any other answer
	bindings := 15_000
	if testing.Short() { // with the race detector, where the size proves nothing more
		bindings = 300
	}
	d := newReviewed(t, bindings)
	carol := d.as(t, "carol")
	c := must(carol.StartCampaign(t.Context()))(t)
	if c.Counts.Items < bindings {
		t.Fatalf("%d items", c.Counts.Items)
	}
	x := must(carol.CampaignItems(t.Context(), "", false))(t)
	if len(x.Items) != c.Counts.Items {
		t.Errorf("%d items of %d came", len(x.Items), c.Counts.Items)
	}
	text := must(carol.CampaignReport(t.Context(), c.ID, api.FormatJSON))(t)
	if len(text) <= most && !testing.Short() {
		t.Fatalf("the report is of %d bytes: too short to prove anything", len(text))
	}
	var r recert.Report
	if err := json.Unmarshal([]byte(text), &r); err != nil || len(r.Items) != c.Counts.Items {
		t.Errorf("the report has %d items of %d (%v)", len(r.Items), c.Counts.Items, err)
	}
	for _, format := range []string{api.FormatHTML, api.FormatMarkdown, api.FormatCSV, api.FormatText, api.FormatJSON} {
		var b bytes.Buffer
		if err := carol.WriteCampaignReport(t.Context(), c.ID, format, &b); err != nil {
			t.Errorf("%s: %v", format, err)
		}
		whole := map[string]string{api.FormatHTML: "</html>\n", api.FormatJSON: "}\n"}[format]
		if s := b.String(); !strings.HasSuffix(s, whole) || !strings.Contains(s, fmt.Sprintf("somebody-with-a-long-name-%d@", bindings-1)) {
			t.Errorf("%s is not whole: %d bytes", format, b.Len())
		}
	}
	bundle := must(carol.CampaignBundle(t.Context(), c.ID))(t)
	file := filepath.Join(t.TempDir(), "b.tar.gz")
	if err := os.WriteFile(file, bundle.Data, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := recert.OpenBundle(file); err != nil {
		t.Error(err)
	}
}

// More words than a session may make calls at once.
func TestManyWordsAreSaidInManyCalls(t *testing.T) {
	d := newReviewed(t, 300)
	carol := d.as(t, "carol")
	c := must(carol.StartCampaign(t.Context()))(t)
	x := must(carol.CampaignItems(t.Context(), c.ID, true))(t)
	i := x.Items[0]
	for range 60 { // the burst of a session
		if _, err := carol.Whoami(t.Context()); err != nil {
			break
		}
	}
	after := must(carol.DecideItems(t.Context(), c.ID, api.CampaignAnswer{Verdict: campaign.VerdictKeep, Reason: "on call",
		Items: []campaign.Judged{{ID: i.ID, Digest: i.Digest}}}))(t)
	if after.ForMe != c.ForMe-1 {
		t.Errorf("%d items wait, want %d", after.ForMe, c.ForMe-1)
	}
}

// server answers everything in one way; clients of it are signed in.
func server(t *testing.T, answer http.HandlerFunc) *api.Client {
	t.Helper()
	s := httptest.NewServer(answer)
	t.Cleanup(s.Close)
	return &api.Client{Server: s.URL, HTTP: s.Client(), SignedIn: api.SignIn{Token: "x"},
		Keys: func(context.Context) ([]ssh.Signer, error) { return nil, errors.New("none") }}
}

func TestAnswersAreWholeOrAnError(t *testing.T) {
	c := server(t, func(w http.ResponseWriter, _ *http.Request) {
		chunk := bytes.Repeat([]byte(" "), 1<<20)
		for range 17 {
			_, _ = w.Write(chunk)
		}
	})
	_, err := c.Whoami(t.Context())
	wantError(t, err, api.ClassInternal, api.CodeTooLong)
	key, err := c.LedgerKey(t.Context())
	if wantError(t, err, api.ClassInternal, api.CodeTooLong); key != "" {
		t.Errorf("%d bytes of an answer that was cut came as the whole of it", len(key))
	}

	c = server(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "half a rep")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	wantError(t, c.WriteCampaignReport(t.Context(), "", api.FormatText, io.Discard), "unavailable", api.CodeUnreachable)

	c = server(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "a whole report") })
	wantError(t, c.WriteCampaignReport(t.Context(), "", api.FormatText, fullDisk{}), api.ClassInternal, "write")
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }
