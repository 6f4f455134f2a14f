package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/finding"
)

// careful is added to the kit's policy by scripts about what follows a grant.
const careful = "\nresponders: [security]\nclosing: {within: 1h, raiseQuorum: true}\n"

// after is what scripts about what follows a grant decide: how the cluster's API servers answer, and what is found.
type after struct {
	mu      sync.Mutex
	answers map[string]string // server → "no", "yes" or why it cannot be asked
	items   []breakglass.Residue
}

func newAfter() *after { return &after{answers: map[string]string{"https://a:6443": "no"}} }

func (x *after) Ask(context.Context, breakglass.Access) []breakglass.Answer {
	x.mu.Lock()
	defer x.mu.Unlock()
	var out []breakglass.Answer
	for _, server := range []string{"https://a:6443", "https://b:6443"} {
		switch said := x.answers[server]; said {
		case "":
		case "no":
			out = append(out, breakglass.Answer{Server: server, No: true, By: breakglass.RefusedByRBAC})
		case "yes":
			out = append(out, breakglass.Answer{Server: server, Problem: breakglass.StillAllowed("").Problem})
		default:
			out = append(out, breakglass.Answer{Server: server, Problem: said, Silent: true})
		}
	}
	return out
}

func (x *after) Before(context.Context, breakglass.Access) error { return nil }

func (x *after) Examine(context.Context, *breakglass.Request, bool) (breakglass.SessionReported, breakglass.Swept, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	at := time.Date(2026, 11, 22, 3, 4, 5, 0, time.UTC)
	return breakglass.SessionReported{Source: breakglass.SourceAudit, Digest: strings.Repeat("0", 64), Events: 7, First: at,
			Last: at.Add(time.Minute),
			From: []string{"10.1.2.3"}, Reads: 4, Writes: 2, Refused: 1, SecretsRead: 1, Streams: 1, StillOpen: 1},
		breakglass.Swept{Items: x.items, Sources: []string{"audit"}, Gaps: []string{"pods: the daemon may not list them"}}, nil
}

// Report implements api.Sessions with what a hostile client could have put there.
func (x *after) Report(_ context.Context, r *breakglass.Request, format string) ([]byte, error) {
	return []byte(format + " report of " + r.ID + "\nuser agent \x1b[2Jkubectl\u202e\n"), nil
}

// Import implements api.Importer: one event a line.
func (x *after) Import(_ context.Context, _, _ string, file io.Reader) (api.ImportResult, error) {
	res := api.ImportResult{Digest: strings.Repeat("1", 64)}
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if !bytes.HasPrefix(lines.Bytes(), []byte("{")) {
			res.Unreadable++
			continue
		}
		res.Events++
		if bytes.Contains(lines.Bytes(), []byte("breakglass:")) {
			res.Kept++
		}
	}
	return res, lines.Err()
}

// server says how an API server answers from now on: server NAME no|yes|WHY.
func server(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: server NAME no|yes|WHY")
	}
	x := worldOf(ts).after
	x.mu.Lock()
	defer x.mu.Unlock()
	x.answers["https://"+args[0]+":6443"] = args[1]
}

// leaves says what a sweep finds from now on: leaves [OBJECT].
func leaves(ts *testscript.TestScript, neg bool, args []string) {
	x := worldOf(ts).after
	x.mu.Lock()
	defer x.mu.Unlock()
	x.items = nil
	for _, object := range args {
		x.items = append(x.items, breakglass.Residue{Rule: "clusterrolebinding-created", Severity: finding.Critical, Object: object,
			What:  "a new binding gives rights",
			Found: "audit", Exists: "yes", Undo: "kubectl delete clusterrolebinding evil"})
	}
}

// found records a finding: found SEVERITY TEXT.
func found(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 && len(args) != 3 {
		ts.Fatalf("usage: found SEVERITY TEXT [KEY]")
	}
	key := "test/" + args[1]
	if len(args) == 3 {
		key = args[2]
	}
	ts.Check(worldOf(ts).sys.Service.Findings.Find(context.Background(), finding.Opened{Key: key, Check: "test", Cluster: "c1",
		Severity: finding.Severity(args[0]), What: args[1], Next: "look at it"}))
}

// granted makes a grant of alice's with a certificate and sets ID: granted PROFILE.
func granted(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: granted PROFILE")
	}
	ts.Setenv("ID", worldOf(ts).grant(args[0]))
}
