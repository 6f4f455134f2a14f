package recert

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/breakglassd/breakglass/internal/campaign"
	"github.com/breakglassd/breakglass/internal/text"
)

// Diff is what changed from one campaign to a later one.
type Diff struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	From       string   `json:"from"`
	To         string   `json:"to"`
	Came       []Change `json:"came"`     // items that were not there before
	Went       []Change `json:"went"`     // items that are gone
	Widened    []Change `json:"widened"`  // items that give more
	Changed    []Change `json:"changed"`  // items that say something else
	Outcomes   []Change `json:"outcomes"` // the same item, and another answer
}

// Change is one line of a Diff.
type Change struct {
	ID    string `json:"id"`
	Title string `json:"title"`
	Was   string `json:"was,omitempty"`
	Is    string `json:"is,omitempty"`
}

// Compare says what changed from one report to a later one.
func Compare(from, to *Report) Diff {
	d := Diff{APIVersion: APIVersion, Kind: "RecertificationDiff", From: from.Campaign, To: to.Campaign, Came: []Change{}, Went: []Change{},
		Widened: []Change{}, Changed: []Change{}, Outcomes: []Change{}}
	before := map[string]*Line{}
	for n := range from.Items {
		before[from.Items[n].ID] = &from.Items[n]
	}
	for n := range to.Items {
		is := &to.Items[n]
		was := before[is.ID]
		delete(before, is.ID)
		if was == nil {
			d.Came = append(d.Came, Change{ID: is.ID, Title: is.Title, Is: is.What()})
			continue
		}
		again := is.Item
		again.compare(&was.Item)
		switch more := gained(was.Grants, is.Grants); {
		case again.State == campaign.ItemWidened:
			d.Widened = append(d.Widened, Change{ID: is.ID, Title: is.Title, Was: string(was.Risk),
				Is: strings.TrimSpace(string(is.Risk) + " " + strings.Join(more, ", "))})
		case was.Fingerprint != is.Fingerprint:
			d.Changed = append(d.Changed, Change{ID: is.ID, Title: is.Title, Was: was.Title, Is: is.Title})
		}
		if was.Present() != is.Present() {
			d.Outcomes = append(d.Outcomes, Change{ID: is.ID, Title: is.Title, Was: was.What(), Is: is.What()})
		}
	}
	for n := range from.Items { // in the report's order
		if was := before[from.Items[n].ID]; was != nil {
			d.Went = append(d.Went, Change{ID: was.ID, Title: was.Title, Was: was.What()})
		}
	}
	return d
}

func gained(was, is []string) []string {
	return slices.DeleteFunc(slices.Clone(is), func(g string) bool { return slices.Contains(was, g) })
}

// Text writes the difference for a terminal.
func (d *Diff) Text(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s → %s\n", text.Clean(d.From), text.Clean(d.To))
	for _, part := range []struct {
		mark, what string
		list       []Change
	}{{"+", "new", d.Came}, {"-", "gone", d.Went}, {"!", "gives more", d.Widened}, {"~", "changed", d.Changed},
		{"→", "another answer", d.Outcomes}} {
		fmt.Fprintf(&b, "\n%s: %d\n", part.what, len(part.list))
		for _, c := range part.list {
			fmt.Fprintf(&b, "  %s %s", part.mark, text.Clean(c.Title))
			if c.Was != "" || c.Is != "" {
				fmt.Fprintf(&b, "   %s", text.Clean(strings.Trim(c.Was+" → "+c.Is, " →")))
			}
			b.WriteByte('\n')
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// ReadReport reads the report in a bundle. Whether it is true is for Verify to say.
func ReadReport(b Bundle) (*Report, error) {
	var r Report
	if err := json.Unmarshal(b[fileJSON], &r); err != nil {
		return nil, fmt.Errorf("reading %s of the bundle: %w", fileJSON, err)
	}
	return &r, nil
}
