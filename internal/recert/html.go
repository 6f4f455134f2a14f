package recert

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/breakglassd/breakglass/internal/campaign"
	"github.com/breakglassd/breakglass/internal/inventory"
	"github.com/breakglassd/breakglass/internal/policy"
)

//go:embed report.html
var reportPage string

// page is parsed at its first use: the command line, which makes the page again to verify a bundle, has this package in every command.
var page = sync.OnceValue(func() *template.Template {
	return template.Must(template.New("report").Funcs(template.FuncMap{
		"topics":  Topics,
		"date":    func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") },
		"join":    func(s []string) string { return strings.Join(s, ", ") },
		"seconds": seconds,
	}).Parse(reportPage))
})

// HTML writes the report as one page that needs no network: styles and charts are in it. It prints on A4 and follows the
// reader's choice of light or dark.
func (r *Report) HTML(w io.Writer) error {
	var b bytes.Buffer // a page is written whole or not at all
	err := page().Execute(&b, struct {
		*Report
		Facts  [][2]string
		Charts []chart
		Left   []Line
	}{r, r.facts(), r.charts(), r.LeftToDo()})
	if err != nil {
		return fmt.Errorf("rendering the report: %w", err)
	}
	_, err = w.Write(b.Bytes())
	return err
}

// chart is one drawing, with the same in words for people who cannot see it.
type chart struct {
	Title string
	Note  string
	Words string
	SVG   template.HTML
}

// bar is one row of a chart, made of parts that stand side by side.
type bar struct {
	label string
	parts []part
}

// part is a length and the name of its colour, a class of the page's style.
type part struct {
	n     int
	class string
	name  string
}

func (b bar) total() int {
	n := 0
	for _, p := range b.parts {
		n += p.n
	}
	return n
}

func (r *Report) charts() []chart {
	return []chart{r.decisions(), r.access(), r.ages(), r.approvals()}
}

// decisions is what the items came to, by topic.
func (r *Report) decisions() chart {
	var bars []bar
	for _, t := range Topics() {
		n := map[campaign.Outcome]int{}
		for _, l := range r.Items {
			if l.Topic == t {
				n[l.Outcome]++
			}
		}
		var parts []part
		for _, o := range []campaign.Outcome{campaign.OutcomeKeep, campaign.OutcomeRevoke, campaign.OutcomeSuspended,
			campaign.OutcomeEscalated, campaign.OutcomeNone} {
			parts = append(parts, part{n[o], string(o), string(o)})
		}
		bars = append(bars, bar{t.Title(), parts})
	}
	return draw("Decisions", "What the items of each subject came to.", bars)
}

// access is what leads into the clusters, by door and by severity. What every cluster of the kind has is left out.
func (r *Report) access() chart {
	n := map[string]map[inventory.Severity]int{}
	var order []string
	add := func(door string, risk inventory.Severity) {
		if n[door] == nil {
			n[door] = map[inventory.Severity]int{}
			order = append(order, door)
		}
		n[door][risk]++
	}
	for _, l := range r.Items {
		if l.Topic == TopicPower {
			add("standing power (RBAC)", l.Risk)
		}
	}
	for _, c := range r.Clusters {
		for _, d := range c.Doors {
			for _, i := range d.Items {
				if !i.Expected {
					add(d.Title, i.Risk)
				}
			}
		}
	}
	eligible := map[string]bool{}
	for _, l := range r.Items {
		if l.Kind == string(policy.PartRequester) {
			eligible[l.Gives.Person] = true
		}
	}
	var bars []bar
	bars = append(bars, bar{"break-glass (people who may ask)", []part{{len(eligible), "neutral", "people"}}})
	for _, d := range order {
		var parts []part
		for _, s := range severities() {
			parts = append(parts, part{n[d][s], "risk-" + string(s), string(s)})
		}
		bars = append(bars, bar{d, parts})
	}
	return draw("Access by door", "Ways in that are not what every cluster of its kind ships with, by risk.", bars)
}

// ages is how old keys and other credentials are.
func (r *Report) ages() chart {
	steps := []struct {
		label string
		most  time.Duration
	}{{"under 30 days", 30 * 24 * time.Hour}, {"30 to 90 days", 90 * 24 * time.Hour}, {"90 days to a year", 365 * 24 * time.Hour},
		{"over a year", 1 << 62}}
	bars := make([]bar, len(steps))
	for i := range steps {
		bars[i] = bar{steps[i].label, []part{{0, "neutral", "keys and accounts"}}}
	}
	for _, l := range r.Items {
		if l.Since == nil || l.Topic != TopicEligibility {
			continue
		}
		i := slices.IndexFunc(steps, func(s struct {
			label string
			most  time.Duration
		}) bool {
			return r.Until.Sub(*l.Since) < s.most
		})
		bars[i].parts[0].n++
	}
	return draw("Ages of keys and accounts", "Since when each has been in the access policy, as far as the ledger goes back.", bars)
}

// approvals is how long requests of the period waited for their quorum.
func (r *Report) approvals() chart {
	steps := []struct {
		label string
		most  int64
		class string
	}{{"under 10 s", 10, "revoked"}, {"10 s to 1 min", 60, "neutral"}, {"1 to 5 min", 300, "neutral"}, {"5 to 15 min", 900, "neutral"},
		{"over 15 min", 1 << 62, "neutral"}, {"never", 0, "open"}}
	bars := make([]bar, len(steps))
	for i, s := range steps {
		bars[i] = bar{s.label, []part{{0, s.class, "requests"}}}
	}
	for _, g := range r.Grants {
		i := len(steps) - 1
		for n, s := range steps[:i] {
			if g.Approved != nil && *g.Approved < s.most {
				i = n
				break
			}
		}
		bars[i].parts[0].n++
	}
	return draw("Time to approve", "From asking to the last approval needed. Under ten seconds nobody has read it.", bars)
}

// The measures of a chart, in units of its own coordinates.
const (
	chartWidth  = 640
	labelWidth  = 230
	numberWidth = 46
	rowHeight   = 26
	barHeight   = 16
)

// draw makes horizontal bars. Text in it is escaped, and its colours are the page's.
func draw(title, note string, bars []bar) chart {
	most := 1
	legend := []part{}
	for _, b := range bars {
		most = max(most, b.total())
		for _, p := range b.parts {
			if p.n > 0 && !slices.ContainsFunc(legend, func(q part) bool { return q.name == p.name }) {
				legend = append(legend, p)
			}
		}
	}
	var words []string
	var s strings.Builder
	height := rowHeight*len(bars) + 8
	if len(legend) > 1 {
		height += rowHeight
	}
	fmt.Fprintf(&s, `<svg viewBox="0 0 %d %d" role="img" aria-label="%s">`, chartWidth, height, template.HTMLEscapeString(title))
	for i, b := range bars {
		y := i*rowHeight + 4
		fmt.Fprintf(&s, `<text class="label" x="%d" y="%d" text-anchor="end">%s</text>`, labelWidth-10, y+barHeight-3,
			template.HTMLEscapeString(cut(b.label, 38)))
		x := float64(labelWidth)
		for _, p := range b.parts {
			if p.n == 0 {
				continue
			}
			w := float64(p.n) / float64(most) * (chartWidth - labelWidth - numberWidth)
			fmt.Fprintf(&s, `<rect class="fill %s" x="%.1f" y="%d" width="%.1f" height="%d" rx="2"><title>%s: %d %s</title></rect>`, p.class, x, y,
				max(w-1, 1), barHeight, template.HTMLEscapeString(b.label), p.n, template.HTMLEscapeString(p.name))
			x += w
			words = append(words, fmt.Sprintf("%s: %d %s", b.label, p.n, p.name))
		}
		fmt.Fprintf(&s, `<text class="number" x="%.1f" y="%d">%d</text>`, x+6, y+barHeight-3, b.total())
	}
	if len(legend) > 1 {
		x := labelWidth
		y := len(bars)*rowHeight + 8
		for _, p := range legend {
			fmt.Fprintf(&s, `<rect class="fill %s" x="%d" y="%d" width="10" height="10" rx="2"/><text class="legend" x="%d" y="%d">%s</text>`,
				p.class, x, y, x+14, y+9, template.HTMLEscapeString(p.name))
			x += 28 + 7*len(p.name)
		}
	}
	s.WriteString(`</svg>`)
	//nolint:gosec // every text in it is escaped above
	return chart{Title: title, Note: note, Words: strings.Join(words, "; "), SVG: template.HTML(s.String())}
}

func cut(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}
