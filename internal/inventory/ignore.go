package inventory

import (
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/breakglassd/breakglass/internal/strictyaml"
)

// An Ignore is a decision to live with some findings until a day.
type Ignore struct {
	Rule    string    `json:"rule"`              // id of a rule, as in Finding.Rule
	Subject string    `json:"subject,omitempty"` // as Finding.Subject is shown, with * for any part; empty is every subject
	Object  string    `json:"object,omitempty"`  // one of Finding.Via as it is shown, or of a door's item its id, with * for any part
	Reason  string    `json:"reason"`
	Until   time.Time `json:"until"` // the day after the last day on which it holds, midnight UTC
	Line    int       `json:"line"`  // in the ignore file
}

// maxIgnore is how far ahead a decision to ignore may hold: a year, so that an operator looks again.
const maxIgnore = 366 * 24 * time.Hour

// LoadIgnores reads an ignore file. It reports every mistake, each with its line. A file that says nothing ignores nothing.
//
//	ignore:
//	  - rule: secrets-read
//	    subject: service account vault/vault-secrets-operator
//	    reason: it syncs secrets, SEC-1234
//	    until: 2027-01-31
func LoadIgnores(text []byte) ([]Ignore, error) {
	if strictyaml.Empty(text) {
		return nil, nil
	}
	var r strictyaml.Reader
	var out []Ignore
	if root, ok := r.Document(text, "the ignore file", "write ignore: [] if nothing is to be ignored"); ok {
		top, _ := root.Object("ignore")
		for _, v := range top.At("ignore").Items() {
			out = append(out, readIgnore(v))
		}
	}
	if err := r.Err("the ignore file"); err != nil {
		return nil, err
	}
	return out, nil
}

func readIgnore(v strictyaml.Value) Ignore {
	o, ok := v.Object("rule", "subject", "object", "reason", "until")
	if !ok {
		return Ignore{}
	}
	i := Ignore{Rule: o.Need("rule").Word(), Subject: o.At("subject").Word(), Object: o.At("object").Word(), Reason: o.Need("reason").Word(),
		Line: v.Line()}
	until := o.Need("until")
	if day, err := time.Parse(time.DateOnly, until.Word()); err == nil {
		i.Until = day.AddDate(0, 0, 1)
	} else if until.There() {
		until.Wrong("until must be a day like 2027-01-31")
	}
	if i.Subject == "" && i.Object == "" {
		v.Wrong("name a subject or an object: a rule is never ignored for everybody (subject: \"*\" says so if it must be)")
	}
	return i
}

// glob keeps path.Match's other special characters plain, and lets * match a slash too.
func glob(pattern string) string {
	return strings.NewReplacer(`\`, `\\`, "[", `\[`, "?", `\?`, "/", "\x01").Replace(pattern)
}

func matches(pattern, text string) bool {
	ok, err := path.Match(glob(pattern), strings.ReplaceAll(text, "/", "\x01"))
	return err == nil && ok
}

// covers reports whether the decision is about the finding, whatever the day.
func (i Ignore) covers(f Finding) bool {
	if i.Rule != f.Rule {
		return false
	}
	if i.Subject != "" && (f.Subject == nil || !matches(i.Subject, f.Subject.String())) {
		return false
	}
	if i.Object == "" {
		return true
	}
	if matches(i.Object, f.Item) {
		return true
	}
	for _, ref := range f.Via {
		if matches(i.Object, ref.String()) {
			return true
		}
	}
	return false
}

// ignore marks the findings that operators decided to live with, and adds findings about the decisions themselves: those that
// have ended, those that hold for too long, and those that ignore nothing.
func ignore(findings []Finding, ignores []Ignore, now time.Time) []Finding {
	used := make([]bool, len(ignores))
	for n := range findings {
		for k, i := range ignores {
			if i.covers(findings[n]) {
				used[k] = true
				if now.Before(i.Until) && findings[n].Ignored == nil {
					findings[n].Ignored = &i
				}
			}
		}
	}
	for k, i := range ignores {
		f := Finding{Rule: "ignore/expired", Severity: Medium, Text: "Reason given: " + i.Reason,
			Next: "look again: correct what it is about, or decide again with another day",
			ID:   Digest("ignore", i.Rule, i.Subject, i.Object), Title: fmt.Sprintf("line %d of the ignore file (rule %s) ended on %s", i.Line,
				i.Rule, i.Until.AddDate(0, 0, -1).Format(time.DateOnly))}
		switch {
		case !now.Before(i.Until):
		case i.Until.Sub(now) > maxIgnore:
			f.Rule, f.Title = "ignore/too-long", fmt.Sprintf("line %d of the ignore file (rule %s) holds for more than a year", i.Line, i.Rule)
			f.Next = "set a day within a year"
		case !used[k]:
			f.Rule, f.Severity, f.Title = "ignore/unused", Low, fmt.Sprintf("line %d of the ignore file (rule %s) ignores nothing", i.Line, i.Rule)
			f.Next = "delete it, or correct its subject or object"
		default:
			continue
		}
		findings = append(findings, f)
	}
	return findings
}
