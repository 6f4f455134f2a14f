package rotation

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/breakglassd/breakglass/internal/text"
)

// table writes rows under a heading, in columns.
func table(w io.Writer, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		for i, cell := range row {
			if i > 0 {
				fmt.Fprint(t, "\t")
			}
			if cell == "" {
				cell = "-"
			}
			fmt.Fprint(t, text.Clean(cell))
		}
		fmt.Fprint(t, "\n")
	}
	return t.Flush()
}

// Text writes the report for a terminal: what `breakglass ca status` and `breakglass ca check` print. all also writes what needs
// nothing: findings of Info, and every CA and key that was seen.
func (r Report) Text(w io.Writer, now time.Time, all bool) error {
	verdict := "nothing to do"
	switch worst := Worst(r.Verdicts); {
	case worst == Critical:
		verdict = "critical"
	case !r.Complete:
		verdict = "cannot tell: not everything could be seen"
	case worst == Warning:
		verdict = "something to do"
	}
	fmt.Fprintf(w, "%s  %s  (%s; seen %s)\n%s\n\n", text.Clean(r.Cluster), text.Clean(string(r.Phase)), verdict, stamp(r.At),
		text.Clean(r.Why))
	yes := func(b bool) string {
		if b {
			return "yes"
		}
		return "no"
	}
	rows := [][]string{{"BREAK-GLASS CA", "POSITION", "ENDS", "LEFT", "KEY", "MAY SIGN", "PINNED", "CONFIGMAP"}}
	for _, g := range r.Generations {
		position := string(g.Position)
		if g.ClusterCA != "" {
			position += ", the cluster's own"
		}
		rows = append(rows, []string{g.Name, position, g.NotAfter.UTC().Format(time.DateOnly), left(g.NotAfter, now), g.Key,
			yes(g.Signs && !g.Expired), yes(g.Pinned), string(g.Published)})
	}
	if err := table(w, rows); err != nil {
		return err
	}
	fmt.Fprintln(w)
	head := []string{"API SERVER"}
	for _, g := range r.Generations {
		head = append(head, g.Name)
	}
	rows = [][]string{append(head, "OTHER CLIENT CAS")}
	for _, s := range r.Servers {
		row := []string{s.Address}
		for _, g := range r.Generations {
			cell := string(s.Trust[g.Name])
			for _, c := range s.Cached {
				if c == g.Name {
					cell += " (cached)"
				}
			}
			row = append(row, cell)
		}
		rows = append(rows, append(row, strings.Join(s.Others, "; ")))
	}
	if err := table(w, rows); err != nil {
		return err
	}
	what := string(r.People.Arrives)
	if r.People.Why != "" {
		what += ": " + r.People.Why
	}
	fmt.Fprintf(w, "\ncertificates arrive at the address that people get: %s\n", text.Clean(what))
	if all {
		fmt.Fprintln(w)
		rows = [][]string{{"CA OR KEY", "GENERATION", "ENDS", "KIND OF KEY", "WORST", "WHERE"}}
		for _, a := range r.Authorities {
			end := ""
			if a.NotAfter != nil {
				end = a.NotAfter.UTC().Format(time.DateOnly)
			}
			rows = append(rows, []string{a.Kind, a.Generation, end, a.Key, string(a.Worst), a.Where})
		}
		if err := table(w, rows); err != nil {
			return err
		}
	}
	quiet := 0
	for _, f := range r.Verdicts {
		if f.Severity == Info && !all {
			quiet++
			continue
		}
		fmt.Fprintf(w, "\n%s  %s  [%s]\n  next: %s\n", text.Clean(string(f.Severity)), text.Clean(f.What), text.Clean(f.Key), text.Clean(f.Next))
	}
	if quiet > 0 {
		fmt.Fprintf(w, "\n%d more that need nothing: --all\n", quiet)
	}
	_, err := fmt.Fprintln(w)
	return err
}

// left says how long something still lives.
func left(until, now time.Time) string {
	if d := until.Sub(now); d > 0 {
		return text.About(d)
	}
	return "ended"
}

// Text writes the plan for a terminal. Commands stand alone on their lines, to be copied.
func (p Plan) Text(w io.Writer) error {
	if p.Refused != "" {
		_, err := fmt.Fprintf(w, "%s  %s\nno step now: %s\n", text.Clean(p.Cluster), text.Clean(string(p.Phase)), text.Clean(p.Refused))
		return err
	}
	fmt.Fprintf(w, "%s  %s, next %s\n", text.Clean(p.Cluster), text.Clean(string(p.Phase)), text.Clean(string(p.Next)))
	steps(w, p.Steps)
	if len(p.Undo) > 0 {
		fmt.Fprintf(w, "\nTo go back:\n")
		steps(w, p.Undo)
	}
	_, err := fmt.Fprintln(w)
	return err
}

func steps(w io.Writer, steps []Step) {
	for i, s := range steps {
		at := s.At
		if s.Address != "" {
			at += " " + s.Address
		}
		fmt.Fprintf(w, "\n%d. [%s] %s\n", i+1, text.Clean(at), text.Clean(s.What))
		for _, c := range s.Commands {
			fmt.Fprintf(w, "     %s\n", text.Clean(c))
		}
		fmt.Fprintf(w, "   then: %s\n", text.Clean(s.Check))
	}
}
