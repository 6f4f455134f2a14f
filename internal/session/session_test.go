package session_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/finding"
	"github.com/breakglassd/breakglass/internal/session"
)

const (
	alice = "breakglass:alice:bg-7k2m-q9x"
	print = "aa11"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

var grant = session.Grant{Request: "bg-7k2m-q9x", Cluster: "prod", User: alice, Fingerprint: print, From: noon,
	Until: noon.Add(30 * time.Minute), Audited: true}

// event is a completed get of a pod by alice, at a minute after noon, changed by edits.
func event(minute int, edits ...func(*session.Event)) session.Event {
	at := noon.Add(time.Duration(minute) * time.Minute)
	e := session.Event{AuditID: fmt.Sprint("id", minute), Stage: session.StageComplete, Level: "Metadata", Received: at,
		At: at.Add(time.Millisecond), Verb: "get", User: alice,
		Fingerprint: print, Sources: []string{"198.51.100.1", "192.0.2.7"}, Agent: "kubectl", URI: "/api/v1/namespaces/shop/pods/web", Code: 200,
		Decision: "allow",
		Object:   &session.Object{Resource: "pods", Namespace: "shop", Name: "web"}}
	for _, edit := range edits {
		edit(&e)
	}
	return e
}

func on(verb, resource, subresource string) func(*session.Event) {
	return func(e *session.Event) { e.Verb, e.Object.Resource, e.Object.Subresource = verb, resource, subresource }
}

func stage(s string, minute int) func(*session.Event) {
	return func(e *session.Event) { e.Stage, e.At = s, noon.Add(time.Duration(minute)*time.Minute) }
}

func code(n int) func(*session.Event) { return func(e *session.Event) { e.Code = n } }

func one(t *testing.T, s session.Session, is func(session.Line) bool) session.Line {
	t.Helper()
	if n := slices.IndexFunc(s.Timeline, is); n >= 0 {
		return s.Timeline[n]
	}
	t.Fatalf("got timeline %+v, without the line that is wanted", s.Timeline)
	return session.Line{}
}

func TestSameRequestsAreOneLineAndNothingIsLost(t *testing.T) {
	s := session.Build([]session.Event{event(1), event(3), event(2), event(4, code(404)),
		event(5, func(e *session.Event) { e.Object.Name = "db" })}, grant)
	if len(s.Timeline) != 3 || s.Requests != 5 || s.Reads != 5 {
		t.Fatalf("got %d lines of %d requests, %d reads, want 3 of 5, 5: %+v", len(s.Timeline), s.Requests, s.Reads, s.Timeline)
	}
	if l := s.Timeline[0]; l.Count != 3 || !l.First.Equal(noon.Add(time.Minute)) || !l.Last.Equal(noon.Add(3*time.Minute)) {
		t.Errorf("got first line %+v, want 3 from minute 1 to 3", l)
	}
	if len(s.Sources) != 1 || s.Sources[0].What != "192.0.2.7" {
		t.Errorf("got sources %+v, want the address that the API server saw", s.Sources)
	}
}

func TestStreamsThatOutliveTheGrantAreSaid(t *testing.T) {
	exec := func(e *session.Event) {
		on("create", "pods", "exec")(e)
		e.URI, e.Code = "/api/v1/namespaces/shop/pods/web/exec?command=sh&command=-c&command=echo+hi&stdin=true", 101
	}
	watch := on("watch", "pods", "")
	s := session.Build([]session.Event{
		event(1, exec, stage(session.StageStarted, 1)),
		event(2, watch, stage(session.StageStarted, 2)), event(2, watch, stage(session.StageComplete, 45)),
		event(3, watch, stage(session.StageStarted, 3), func(e *session.Event) { e.Object.Name = "short" }),
		event(3, watch, stage(session.StageComplete, 4), func(e *session.Event) { e.Object.Name = "short" }),
		event(31, on("delete", "pods", "")),
	}, grant)
	if l := one(t, s, func(l session.Line) bool { return l.Has(session.KindStream) }); !l.Has(session.KindOpen) ||
		!slices.Equal(l.Command, []string{"sh", "-c", "echo hi"}) {
		t.Errorf("got exec %+v, want it open, with its command", l)
	}
	if l := one(t, s, func(l session.Line) bool { return l.Has(session.KindOutlived) }); l.Verb != "watch" ||
		!l.Ended.Equal(noon.Add(45*time.Minute)) {
		t.Errorf("got %+v, want the watch that ended at minute 45", l)
	}
	if l := one(t, s, func(l session.Line) bool { return l.Has(session.KindAfter) }); l.Verb != "delete" {
		t.Errorf("got %+v, want the deletion after the end", l)
	}
	if s.StillOpen != 1 || s.Streams != 1 || s.After != 1 || s.Requests != 4 {
		t.Errorf("got %d open, %d streams, %d after, %d requests, want 1, 1, 1, 4", s.StillOpen, s.Streams, s.After, s.Requests)
	}
}

func TestKindsOfLines(t *testing.T) {
	for name, c := range map[string]struct {
		event session.Event
		want  []session.Kind
	}{
		"a secret":         {event(1, on("get", "secrets", "")), []session.Kind{session.KindSecret}},
		"a patched secret": {event(1, on("patch", "secrets", "")), []session.Kind{session.KindChange, session.KindSecret}},
		"a secret refused": {event(1, on("get", "secrets", ""), code(403)), []session.Kind{session.KindRefused}},
		"a token": {event(1, on("create", "serviceaccounts", "token"), code(201)),
			[]session.Kind{session.KindChange, session.KindToken}},
		"a failed change":       {event(1, on("update", "pods", ""), code(409)), nil},
		"a change of no answer": {event(1, on("update", "pods", ""), code(504)), []session.Kind{session.KindChange}},
		"a dry run":             {event(1, on("delete", "pods", ""), func(e *session.Event) { e.URI += "?dryRun=All" }), nil},
		"a question": {event(1, on("create", "selfsubjectaccessreviews", ""),
			func(e *session.Event) { e.Object.Group = "authorization.k8s.io" }), nil},
		"another's name": {event(1, func(e *session.Event) { e.As = &session.Identity{User: "root"} }),
			[]session.Kind{session.KindImpersonate}},
	} {
		if got := session.Build([]session.Event{c.event}, grant).Timeline; len(got) != 1 || !slices.Equal(got[0].Kinds, c.want) {
			t.Errorf("%s: got %+v, want kinds %v", name, got, c.want)
		}
	}
}

func TestOtherCertificatesOfTheNameAreUnknown(t *testing.T) {
	s := session.Build([]session.Event{
		event(1, func(e *session.Event) { e.Fingerprint = "ffff" }),
		event(2, func(e *session.Event) { e.Fingerprint, e.Credential = "", "JTI=1" }),
		event(3, func(e *session.Event) {
			e.User, e.Fingerprint, e.As = "mallory", "ffff", &session.Identity{User: alice}
		}),
		event(4, func(e *session.Event) { e.User, e.Fingerprint = "breakglass:bob:bg-1111-111", "bb" }),
	}, grant)
	if len(s.Unknown) != 3 || s.Events != 0 || len(s.Timeline) != 0 {
		t.Errorf("got %d unknown lines and %d events, want 3 and none: %+v", len(s.Unknown), s.Events, s)
	}
}

func TestGapsAreSaid(t *testing.T) {
	silent := grant
	silent.Silent = []session.Silence{{Server: "https://one", From: noon, Until: noon.Add(time.Minute)},
		{Server: "https://old", From: noon.Add(-time.Hour), Until: noon.Add(-time.Minute)}}
	silent.Dropped = 7
	s := session.Build([]session.Event{
		event(1, func(e *session.Event) { e.Fingerprint = "" }),
		event(2, on("create", "clusterroles", ""), func(e *session.Event) { e.Object.Group = "rbac.authorization.k8s.io" }),
		event(6, on("update", "secrets", "")),
		event(3, on("watch", "pods", "")), event(4, stage(session.StageReceived, 4)), event(5,
			func(e *session.Event) { e.Trimmed = []string{"userAgent"} }),
	}, silent)
	all := strings.Join(s.Gaps, "\n")
	for _, want := range []string{"before 1.32", "what 1 change wrote is not recorded by the audit policy",
		"what 1 change to Secrets wrote is not recorded, and must not be", "ResponseStarted", "the answer to 1 request was not seen", "too long",
		"7 events were counted", "https://one was silent"} {
		if !strings.Contains(all, want) {
			t.Errorf("the gaps do not say %q:\n%s", want, all)
		}
	}
	if strings.Contains(all, "https://old") {
		t.Errorf("a silence before the grant is a gap:\n%s", all)
	}
	if none := session.Build(nil, session.Grant{Request: "bg-1"}); session.Summary(none).Source != breakglass.SourceNone ||
		len(none.Gaps) != 1 {
		t.Errorf("got %+v without an audit stream, want source none and a gap", none)
	}
}

func TestOrderAndDuplicatesDoNotChangeTheReport(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		one := rapid.Custom(func(t *rapid.T) session.Event {
			minute := rapid.IntRange(0, 3).Draw(t, "minute")
			return event(minute, on(rapid.SampledFrom([]string{"get", "watch", "create"}).Draw(t, "verb"),
				rapid.SampledFrom([]string{"pods", "secrets"}).Draw(t, "resource"),
				rapid.SampledFrom([]string{"", "exec"}).Draw(t, "sub")), code(rapid.SampledFrom([]int{0, 200, 403, 500}).Draw(t, "code")),
				stage(rapid.SampledFrom([]string{session.StageReceived, session.StageStarted, session.StageComplete, session.StagePanic}).Draw(t,
					"stage"), rapid.IntRange(0, 40).Draw(t, "at")),
				func(e *session.Event) {
					e.AuditID = "same"
					e.Fingerprint = rapid.SampledFrom([]string{"", print, "ffff"}).Draw(t, "print")
				})
		})
		events := rapid.SliceOfN(one, 0, 12).Draw(t, "events")
		want, _ := session.Build(events, grant).JSON()
		mixed := rapid.Permutation(slices.Concat(events, events)).Draw(t, "mixed")
		got, _ := session.Build(mixed, grant).JSON()
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestNothingHostileReachesTheReader(t *testing.T) {
	evil := "x\x1b[2J\u202e<script>alert(1)</script>\r\n\x00\xff"
	s := session.Build([]session.Event{event(1, on("create", "pods", "exec"), func(e *session.Event) {
		e.Agent, e.URI, e.Why, e.Object.Name, e.As = evil, "/x?command="+evil, evil, evil, &session.Identity{User: evil, Groups: []string{evil}}
		e.Sources, e.Verb = []string{evil}, evil
	}), event(2, func(e *session.Event) { e.Fingerprint, e.Credential, e.Sources = "", evil, []string{evil} })}, grant)
	var text, page bytes.Buffer
	if err := errors.Join(s.WriteText(&text), s.WriteHTML(&page)); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"\x1b", "\u202e", "\r", "\x00", "\xff"} {
		if strings.Contains(text.String(), bad) || strings.Contains(page.String(), bad) {
			t.Errorf("%q is shown as it came", bad)
		}
	}
	if strings.Contains(page.String(), "<script") {
		t.Error("the page has a script")
	}
	if sum := session.Summary(s); strings.ContainsAny(strings.Join(sum.From, ""), "\x1b\r\x00") {
		t.Errorf("the summary has addresses %q", sum.From)
	}
}

func TestDigestIsOfExactlyTheJSON(t *testing.T) {
	s := session.Build([]session.Event{event(1), event(2, on("delete", "pods", ""))}, grant)
	b, sum := s.JSON()
	var back session.Session
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	again, _ := back.JSON()
	if string(again) != string(b) || session.Summary(s).Digest != fmt.Sprintf("%x", sum) {
		t.Errorf("got\n%s\nafter a round trip of\n%s", again, b)
	}
	if acts := session.Acts(s); len(acts) != 1 || acts[0].Verb != "delete" {
		t.Errorf("got acts %+v, want the deletion", acts)
	}
}

func TestReportThatIsReadBackIsTheSame(t *testing.T) {
	s := session.Build([]session.Event{event(1, on("create", "pods", "exec"), func(e *session.Event) {
		e.URI = "/api/v1/namespaces/shop/pods/web/exec?command=%ff&command=a%20b"
	})}, grant)
	s.Left = &session.Left{Items: []breakglass.Residue{{Rule: "pod-created", Severity: finding.Info, Object: "Pod shop/<x>",
		What: "it was made"}}, Sources: []string{"audit"}}
	b, _ := s.JSON()
	back, err := session.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := back.JSON(); string(again) != string(b) {
		t.Errorf("got\n%s\nof\n%s", again, b)
	}
	for _, bad := range []string{"", "[]", "{}", `{"format":"breakglass-session/v2"}`} {
		if _, err := session.Parse([]byte(bad)); err == nil {
			t.Errorf("%q was taken for a report", bad)
		}
	}
}

func TestReportShowsWhatWasLeftBehind(t *testing.T) {
	evil := "ClusterRoleBinding <script>\x1b[2J"
	s := session.Build([]session.Event{event(1)}, grant)
	shown := func() (string, string) {
		var text, page bytes.Buffer
		if err := errors.Join(s.WriteText(&text), s.WriteHTML(&page)); err != nil {
			t.Fatal(err)
		}
		return text.String(), page.String()
	}
	if text, page := shown(); strings.Contains(text, "Left behind") || strings.Contains(page, "Left behind") {
		t.Error("the report of a session that nobody has looked through says what it left behind")
	}
	s.Left = &session.Left{Sources: []string{"audit", "comparison"}}
	if text, page := shown(); !strings.Contains(text, "nothing was found") || !strings.Contains(page, "Nothing was found") {
		t.Error("the report does not say that nothing was found")
	}
	s.Left.Gaps = []string{"pods: there was no time left"}
	for n := range 150 {
		s.Left.Items = append(s.Left.Items, breakglass.Residue{Rule: "clusterrolebinding-created", Severity: finding.Critical,
			Object: fmt.Sprintf("%s %03d", evil, n),
			What:   "it was made", Found: "both", Exists: "unknown", Undo: fmt.Sprintf("kubectl delete clusterrolebinding evil-%03d", n)})
	}
	text, page := shown()
	for name, got := range map[string]string{"text": text, "page": page} {
		for _, want := range []string{"audit and comparison", "kubectl delete clusterrolebinding evil-149", "pods: there was no time left",
			"whether it is still there is not known"} {
			if !strings.Contains(got, want) {
				t.Errorf("the %s does not say %q", name, want)
			}
		}
		if strings.ContainsAny(got, "\x1b") || name == "page" && strings.Contains(got, "<script") {
			t.Errorf("the %s shows a name as it came", name)
		}
	}
}

func decode(t testing.TB, r io.Reader) (events []session.Event, bad int, last error) {
	t.Helper()
	for e, err := range session.Decode(r) {
		switch {
		case errors.Is(err, session.ErrUnreadable):
			bad++
		case err != nil:
			last = err
		default:
			events = append(events, e)
		}
	}
	return events, bad, last
}

const wire = `{"level":"Request","auditID":"1","stage":"ResponseComplete","requestURI":"/api/v1/x?token=abc&watch=1","verb":"create","user":{"username":"breakglass:a:bg-1","groups":["breakglass:g","other"],` +
	`"extra":{"authentication.kubernetes.io/credential-id":["X509SHA256=AA11"]}},"objectRef":{"resource":"pods","name":"n"},"requestObject":{"a":"}\"{"},"responseObject":{"big":[1,2,{}]},` +
	`"requestReceivedTimestamp":"2026-11-24T12:00:00.000001Z","stageTimestamp":"2026-11-24T12:00:00.000002Z"}`

func TestEventsAreReadInEveryForm(t *testing.T) {
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, []byte(`{"kind":"EventList","items":[`+wire+`,`+wire+`]}`), "", "  "); err != nil {
		t.Fatal(err)
	}
	for name, in := range map[string]string{
		"lines": wire + "\n" + wire + "\n", "a marked list": "\xef\xbb\xbf" + `{"kind":"EventList","items":[` + wire + `,` + wire + `]}`,
		"a list": `{"kind":"EventList","items":[` + wire + `,` + wire + `]}`, "a pretty list": pretty.String(),
		"a damaged line between": wire + "\n" + wire[:300] + "\n" + wire,
		"a line cut in a list":   wire + "\n" + wire[:strings.Index(wire, "2,{}")] + "\n" + wire,
		"rubbish first":          "]]] oh\n" + wire + "\n" + wire, "cut at the end": wire + "\n" + wire + "\n" + wire[:100],
		"a cut line first": wire[:strings.Index(wire, `"verb"`)] + "\n" + wire + "\n" + wire,
	} {
		events, bad, err := decode(t, iotest.OneByteReader(strings.NewReader(in)))
		wantBad := 1
		if name == "lines" || strings.HasSuffix(name, "list") && name != "a line cut in a list" {
			wantBad = 0
		}
		if len(events) != 2 || bad != wantBad || err != nil {
			t.Errorf("%s: got %d events, %d unreadable, %v, want 2 and %d", name, len(events), bad, err, wantBad)
			continue
		}
		e := events[1]
		if e.Fingerprint != "aa11" || e.URI != "/api/v1/x?token=REDACTED&watch=1" || string(e.Request) != `{"a":"}\"{"}` ||
			!slices.Equal(e.Groups, []string{"breakglass:g"}) {
			t.Errorf("%s: got %+v", name, e)
		}
	}
}

// What kube-apiserver may send is none of ours or one of ours, and damage is what it never sends.
func TestLegalEventsAreNotDamage(t *testing.T) {
	for name, tc := range map[string]struct {
		from, to string
		bad      int
	}{
		"a failed sign-in":       {`"user":{"username":"breakglass:a:bg-1"`, `"user":{"username":""`, 0},
		"an empty user":          {wire[strings.Index(wire, `"user"`):strings.Index(wire, `,"objectRef"`)], `"user":{}`, 0},
		"a panic":                {`"stage":"ResponseComplete"`, `"stage":"Panic"`, 0},
		"no time of the request": {`"requestReceivedTimestamp":"2026-11-24T12:00:00.000001Z"`, `"requestReceivedTimestamp":null`, 0},
		"an aborted watch": {`"verb":"create"`,
			`"verb":"watch","responseStatus":{"metadata":{},"status":"Success","message":"Connection closed early","code":200}`, 0},
		"no answer":           {`"verb":"create"`, `"verb":"create","responseStatus":null,"annotations":null,"sourceIPs":null`, 0},
		"no user at all":      {wire[strings.Index(wire, `"user"`):strings.Index(wire, `"objectRef"`)], ``, 1},
		"no audit id":         {`"auditID":"1",`, ``, 1},
		"no stage":            {`"stage":"ResponseComplete",`, ``, 1},
		"a time that is none": {`"2026-11-24T12:00:00.000002Z"`, `"yesterday"`, 1},
	} {
		in := strings.Replace(wire, tc.from, tc.to, 1)
		if in == wire {
			t.Fatalf("%s: nothing changed", name)
		}
		events, bad, err := decode(t, strings.NewReader(in))
		if bad != tc.bad || len(events) != 1-tc.bad || err != nil {
			t.Errorf("%s: got %d events, %d unreadable, %v", name, len(events), bad, err)
		}
	}
}

func TestHugeEventsAreKeptTrimmed(t *testing.T) {
	for field, in := range map[string]string{
		"requestObject": strings.Replace(wire, `{"a":"}\"{"}`, `{"a":"`+strings.Repeat("x", 5<<20)+`"}`, 1),
		"requestURI":    strings.Replace(wire, "/api/v1/x", "/"+strings.Repeat("x", 5<<20), 1),
		"impersonatedUser": strings.Replace(wire, `"objectRef"`, `"impersonatedUser":{"username":"root","groups":["`+strings.Repeat("x", 5<<20)+
			`"]},"objectRef"`, 1),
		"user": strings.Replace(wire, `"other"`, `"`+strings.Repeat("x", 5<<20)+`"`, 1),
	} {
		events, bad, err := decode(t, strings.NewReader(in))
		if len(events) != 1 || bad != 0 || err != nil || !slices.Contains(events[0].Trimmed, field) || !session.Ours(events[0], nil) {
			t.Errorf("%s: got %d events, %d unreadable, %v, want one of ours that is trimmed", field, len(events), bad, err)
			continue
		}
		if b, err := json.Marshal(events[0]); err != nil || len(b) > 100_000 {
			t.Errorf("%s: got %d bytes to store, %v", field, len(b), err)
		}
		if field == "impersonatedUser" && (events[0].As == nil || events[0].As.User != "root") {
			t.Errorf("got %+v, want that root was impersonated", events[0].As)
		}
	}
}

func TestSecretContentIsNotKept(t *testing.T) {
	in := strings.NewReplacer(`"resource":"pods"`, `"resource":"secrets"`, `{"a":"}\"{"}`,
		`{"type":"kubernetes.io/service-account-token","data":{"p":"aHVudGVyMg=="},"stringData":{"p":"hunter2"},"metadata":{"annotations":{"kubernetes.io/service-account.name":"b","kubectl.kubernetes.io/last-applied-configuration":"hunter2"}}}`).Replace(wire)
	events, _, _ := decode(t, strings.NewReader(in))
	if len(events) != 1 || !strings.Contains(string(events[0].Request), "service-account-token") ||
		strings.Contains(string(events[0].Request), "hunter2") || strings.Contains(string(events[0].Request), "aHVu") {
		t.Errorf("got %+v, want the kind of Secret without its content", events)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(wire))
	f.Add([]byte(`{"kind":"EventList","items":[` + wire + `]}`))
	f.Add([]byte(wire[:200] + "\n" + wire))
	f.Fuzz(func(t *testing.T, in []byte) {
		events, _, err := decode(t, bytes.NewReader(in))
		if err != nil {
			t.Errorf("reading from memory failed: %v", err)
		}
		s := session.Build(events, session.Grant{Request: "bg-1", User: "breakglass:a:bg-1", Fingerprint: "aa11", Until: noon})
		var text, page bytes.Buffer
		if err := errors.Join(s.WriteText(&text), s.WriteHTML(&page)); err != nil {
			t.Error(err)
		}
		b, _ := s.JSON()
		if back, err := session.Parse(b); err != nil || session.Summary(back).Digest != session.Summary(s).Digest {
			t.Errorf("a report does not survive the store: %s, %v", b, err)
		}
		for _, e := range events {
			b, err := json.Marshal(e)
			var back session.Event
			if err != nil || json.Unmarshal(b, &back) != nil || back.Key() != e.Key() {
				t.Errorf("an event does not survive the store: %+v, %v", e, err)
			}
		}
		// What is readable alone is readable behind anything that a line ends.
		after, _, _ := decode(t, bytes.NewReader(slices.Concat([]byte(wire+"\n"), in, []byte("\n"+wire+"\n"))))
		if n := len(after); n == 0 || after[n-1].AuditID != "1" {
			t.Errorf("got %d events, want the last line read", n)
		}
	})
}

func TestPulseAlarmsWhereHeartbeatsDoNotComeBack(t *testing.T) {
	p := session.NewPulse(time.Minute, 30*time.Second, 30*time.Second)
	at := func(minutes float64) time.Time { return noon.Add(time.Duration(minutes * float64(time.Minute))) }
	p.Watch("one", noon)
	p.Watch("two", noon)
	for m := range 5 {
		for _, server := range []string{"one", "two"} {
			nonce := fmt.Sprint(server, m)
			p.Sent(server, nonce, at(float64(m)))
			if server == "one" || m < 1 {
				if got, ok := p.Seen(nonce); got != server || !ok {
					t.Errorf("got %q, %v for a heartbeat of %s", got, ok, server)
				}
			}
		}
	}
	if _, ok := p.Seen("one1"); ok {
		t.Error("a nonce came back twice")
	}
	if _, ok := p.Find("one1"); ok {
		t.Error("a nonce that came back is still looked for")
	}
	for range 2 { // that it was looked up changes nothing: what came with it may not have been stored
		if server, ok := p.Find("two3"); server != "two" || !ok {
			t.Errorf("got %q, %v for a heartbeat that has not come back, want two", server, ok)
		}
	}
	if _, ok := p.Seen("guessed"); ok {
		t.Error("a nonce that was never sent came back")
	}
	if got := p.Judge(at(2)); len(got) != 0 {
		t.Errorf("got alarms %v within the patience", got)
	}
	if diff := cmp.Diff([]session.Alarm{{Server: "two", Since: noon, Pinged: true}}, p.Judge(at(4.5))); diff != "" {
		t.Error(diff)
	}
	if p.Heard("three") {
		t.Error("a server that is not watched was heard")
	}
	p.Watch("three", at(4))
	if p.Heard("three") || !p.Heard("one") {
		t.Error("only that a heartbeat came back says that a stream is alive")
	}
	p.Seen("two4")
	if got := p.Judge(at(4.5)); len(got) != 0 {
		t.Errorf("got alarms %v after a heartbeat came", got)
	}
}
