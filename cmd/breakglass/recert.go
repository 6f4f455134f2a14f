package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/campaign"
	"github.com/breakglassd/breakglass/internal/cli/exit"
	"github.com/breakglassd/breakglass/internal/cli/terminal"
	"github.com/breakglassd/breakglass/internal/recert"
)

func (a *app) recertCommand() *cobra.Command {
	return group(&cobra.Command{Use: "recert", Short: "Review who has access, in campaigns",
		Long: "A campaign asks reviewers, item by item, to keep or revoke everything that could let a person into a cluster. CAMPAIGN is its\n" +
			"id, or the beginning or the end of it; without it, the last campaign."},
		a.recertStart(), a.recertList(), a.recertShow(), a.recertReview(), a.recertDecide(), a.recertAck(), a.recertReinstate(), a.recertProve(),
		a.recertReport(), a.recertExport(),
		a.recertVerify(), a.recertDiff())
}

// campaignArg is the campaign that a command names, or the last one.
func campaignArg(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

func (a *app) recertStart() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{Use: "start", Short: "Scan the clusters and open a campaign", Args: args(0, 0, "no arguments"),
		RunE: a.asks(func(ctx context.Context, c *api.Client, _ []string) error {
			if err := a.confirm(ctx, yes, "start", "campaign"); err != nil {
				return err
			}
			a.screen.Status("scanning the clusters …")
			x, err := c.StartCampaign(ctx)
			if err != nil {
				return err
			}
			return a.showCampaign(x)
		})}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

// showCampaign prints how a campaign stands after a command.
func (a *app) showCampaign(x api.Campaign) error {
	if a.json() {
		return a.printJSON(x)
	}
	a.screen.Note("%s %s   %s", a.screen.Green("✓"), x.ID, standing(x))
	if x.Unsettled > 0 {
		a.screen.Note("%s %s escalated and still without a decision", a.screen.Yellow("!"), terminal.Counted(x.Unsettled, "item"))
	}
	if x.ForMe > 0 {
		a.screen.Note("You have %s to review: %s", terminal.Counted(x.ForMe, "item"), a.typed("recert review", nil))
	}
	return nil
}

// standing is how a campaign stands, in a line.
func standing(x api.Campaign) string {
	k := x.Counts
	s := fmt.Sprintf("%d items: %d kept, %d revoked, %d suspended, %d escalated", k.Items, k.Kept, k.Revoked, k.Suspended, k.Escalated)
	if x.Closed != nil {
		return s + "; closed " + x.Closed.Local().Format(time.DateOnly)
	}
	return s + fmt.Sprintf(", %d open until %s", k.Open, x.Deadline.Local().Format("2006-01-02 15:04"))
}

func (a *app) recertList() *cobra.Command {
	return &cobra.Command{Use: "list", Short: "List the last campaigns", Args: args(0, 0, "no arguments"),
		RunE: a.asks(func(ctx context.Context, c *api.Client, _ []string) error {
			list, err := c.Campaigns(ctx)
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(list)
			}
			for _, x := range list.Items {
				a.data("%s   %s\n", x.ID, standing(x))
			}
			return nil
		})}
}

func (a *app) recertShow() *cobra.Command {
	var all bool
	cmd := &cobra.Command{Use: "show [CAMPAIGN] [ITEM]", Short: "Show a campaign and its open items, or everything about one item",
		Args: args(0, 2, "a campaign and an item"), RunE: a.asks(func(ctx context.Context, c *api.Client, args []string) error {
			x, one, err := a.campaignOrItem(ctx, c, args)
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(x)
			}
			a.data("%s   %s\nreviewers %s\n", x.Campaign.ID, standing(x.Campaign), strings.Join(x.Campaign.Reviewers, ", "))
			if one {
				a.describeItem(&x.Items[0])
				return nil
			}
			return a.itemTable(x.Items, all)
		})}
	cmd.Flags().BoolVar(&all, "all", false, "also show what was kept")
	return cmd
}

// campaignOrItem is the campaign that is named, or one of its items alone. One word may be an item of the last campaign as well.
func (a *app) campaignOrItem(ctx context.Context, c *api.Client, args []string) (x api.CampaignItems, one bool, err error) {
	typed := ""
	if len(args) == 2 {
		typed = args[1]
	}
	x, err = c.CampaignItems(ctx, campaignArg(args), false)
	var no *api.Error
	if len(args) == 1 && errors.As(err, &no) && no.Code == "unknown-campaign" {
		last, lastErr := c.CampaignItems(ctx, "", false)
		if lastErr != nil {
			return x, false, err
		}
		if len(matches(last, args[0])) == 0 {
			return x, false, &exit.Error{Exit: exit.BadUsage, What: fmt.Sprintf("%q is neither a campaign nor an item of the last one", args[0]),
				Next: "see: " + terminal.Command("recert list", nil) + ", " + terminal.Command("recert show", []string{"--all"})}
		}
		x, typed, err = last, args[0], nil
	}
	if err != nil || typed == "" {
		return x, false, err
	}
	n, err := a.item(x, typed)
	if err == nil {
		x.Items = x.Items[n : n+1]
	}
	return x, true, err
}

// itemTable lists items, a line each.
func (a *app) itemTable(items []api.CampaignItem, all bool) error {
	w := tabwriter.NewWriter(a.out, 0, 0, 3, ' ', 0)
	for n := range items {
		i := &items[n]
		if all || i.Present() != campaign.OutcomeKeep {
			fmt.Fprint(w, terminal.Format("%s\t%s\t%s\t%s\t%s\n", i.ID, string(i.State), string(i.Risk), i.What(), terminal.OneLine(i.Title, 80)))
		}
	}
	return w.Flush()
}

// describeItem shows everything about one item, for its reviewer.
func (a *app) describeItem(i *api.CampaignItem) {
	mark := a.screen.Yellow(string(i.State))
	if i.State.Together() {
		mark = a.screen.Style("", string(i.State))
	}
	a.data("\n%s\n  %s   risk %s   %s\n", a.screen.Bold(terminal.OneLine(i.Title, 160)), mark, string(i.Risk), i.What())
	if i.Was != "" {
		a.data("  before: %s\n", i.Was)
	}
	for _, e := range i.Evidence {
		a.data("  · %s\n", terminal.OneLine(e, 200))
	}
	if len(i.Grants) > 0 {
		a.data("  gives: %s\n", terminal.OneLine(strings.Join(i.Grants, ", "), 300))
	}
	if i.Admin {
		a.data("  %d reviewers must keep it\n", i.Need)
	}
	for _, w := range i.Earlier {
		a.data("  %s: %s %s %s (changed later)\n", w.Person, w.Verdict, w.At.Local().Format("2006-01-02 15:04"),
			terminal.OneLine(w.Reason, 200))
	}
	for _, w := range i.Words {
		a.data("  %s: %s %s %s\n", w.Person, w.Verdict, w.At.Local().Format("2006-01-02 15:04"), terminal.OneLine(w.Reason, 200))
	}
	if i.TakeAway != "" {
		a.data("  to remove it:\n")
		for line := range strings.Lines(i.TakeAway) {
			a.data("    %s\n", terminal.Styled(terminal.ExactLines(strings.TrimRight(line, "\n")))) // a command to copy: no space of it is merged
		}
	} else if i.Advice != "" {
		a.data("  to remove it: %s\n", terminal.OneLine(i.Advice, 300))
	}
	a.data("  %s\n", i.ID)
}

// matches are the items with an id, or else with a part of one, or else with a part of a title.
func matches(x api.CampaignItems, typed string) (hits []int) {
	lower := strings.ToLower(typed)
	for _, is := range []func(i *api.CampaignItem) bool{
		func(i *api.CampaignItem) bool { return i.ID == typed },
		func(i *api.CampaignItem) bool { return strings.Contains(i.ID, typed) },
		func(i *api.CampaignItem) bool { return strings.Contains(strings.ToLower(i.Title), lower) },
	} {
		for n := range x.Items {
			if is(&x.Items[n]) {
				hits = append(hits, n)
			}
		}
		if len(hits) > 0 {
			break
		}
	}
	return hits
}

// item finds an item by its id, or a unique part of that or of its title.
func (a *app) item(x api.CampaignItems, typed string) (int, error) {
	hits := matches(x, typed)
	switch len(hits) {
	case 1:
		return hits[0], nil
	case 0:
		return 0, exit.Usage("%s has no item %q; see: %s", x.Campaign.ID, typed, a.typed("recert show", []string{"--all"}))
	}
	return 0, exit.Usage("%q could be %d items of %s, like %s and %s: write more of it", typed, len(hits), x.Campaign.ID, x.Items[hits[0]].ID,
		x.Items[hits[1]].ID)
}

func (a *app) recertReview() *cobra.Command {
	var together bool
	cmd := &cobra.Command{Use: "review [CAMPAIGN]", Short: "Review the items that wait for you",
		Args: args(0, 1, "at most one campaign"),
		Long: "Shows the items that wait for you. On a terminal it asks about each: keep, revoke, skip or quit. Items that are unchanged since " +
			"a\n" +
			"reviewer last kept them can be confirmed together; it asks about new ones, and those that give more, one by one.",
		RunE: a.asks(func(ctx context.Context, c *api.Client, args []string) error {
			x, err := c.CampaignItems(ctx, campaignArg(args), true)
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(x)
			}
			if !a.screen.Interactive() {
				return a.itemTable(x.Items, true)
			}
			return a.review(ctx, c, x, together)
		})}
	cmd.Flags().BoolVar(&together, "confirm-unchanged", false, "show everything that is unchanged, and keep it together")
	return cmd
}

// review asks about items on the terminal.
func (a *app) review(ctx context.Context, c *api.Client, x api.CampaignItems, together bool) error {
	last := x.Campaign
	if together {
		easy := slices.DeleteFunc(slices.Clone(x.Items), func(i api.CampaignItem) bool { return !i.State.Together() })
		x.Items = slices.DeleteFunc(x.Items, func(i api.CampaignItem) bool { return i.State.Together() })
		if len(easy) > 0 {
			if err := a.itemTable(easy, true); err != nil {
				return err
			}
			reason, err := a.screen.Ask(ctx, false, "Keep these %d? Say why, or nothing to go through them later: ", len(easy))
			if err != nil {
				return err
			}
			if reason != "" {
				if last, err = c.DecideItems(ctx, x.Campaign.ID, answerOf(campaign.VerdictKeep, reason, easy...)); err != nil {
					return err
				}
			}
		}
	}
	for n := range x.Items {
		i := &x.Items[n]
		a.describeItem(i)
		answer, err := a.screen.Ask(ctx, false, "%d of %d: [k]eep, [r]evoke, [s]kip, [q]uit? ", n+1, len(x.Items))
		if err != nil {
			return err
		}
		verdict := map[string]campaign.Verdict{"k": campaign.VerdictKeep, "keep": campaign.VerdictKeep, "r": campaign.VerdictRevoke,
			"revoke": campaign.VerdictRevoke}[strings.ToLower(answer)]
		if answer == "q" || answer == "quit" {
			break
		}
		if verdict == "" {
			continue
		}
		reason := ""
		if verdict == campaign.VerdictRevoke || i.High() {
			if reason, err = a.screen.Ask(ctx, false, "Why? "); err != nil {
				return err
			}
		}
		if last, err = c.DecideItems(ctx, x.Campaign.ID, answerOf(verdict, reason, *i)); err != nil {
			return err
		}
		a.howToTakeAway(verdict, i)
	}
	return a.showCampaign(last)
}

func answerOf(v campaign.Verdict, reason string, items ...api.CampaignItem) api.CampaignAnswer {
	out := api.CampaignAnswer{Verdict: v, Reason: reason}
	for _, i := range items {
		out.Items = append(out.Items, campaign.Judged{ID: i.ID, Digest: i.Digest})
	}
	return out
}

// howToTakeAway prints what makes a revoke true where the daemon does not do it itself.
func (a *app) howToTakeAway(v campaign.Verdict, i *api.CampaignItem) {
	if v != campaign.VerdictRevoke {
		return
	}
	if i.TakeAway != "" {
		for line := range strings.Lines(i.TakeAway) {
			a.data("%s\n", terminal.Styled(terminal.ExactLines(strings.TrimRight(line, "\n"))))
		}
		then := "and the next scan of the cluster proves it"
		if !i.Provable() {
			then = "no scan of the cluster can prove it"
		}
		a.screen.Note("run this; then: %s   %s", a.typed("recert ack", []string{"--item=" + i.ID}), then)
		return
	}
	a.screen.Note("to remove it: %s", cmp.Or(i.Advice, "see "+string(a.typed("recert show", nil))))
}

func (a *app) recertDecide() *cobra.Command {
	var from reasonFrom
	var items []string
	var unchanged bool
	cmd := &cobra.Command{Use: "decide keep|revoke [CAMPAIGN]", Short: "Keep or revoke items",
		Args:      args(1, 2, "keep or revoke, and a campaign"),
		ValidArgs: []string{"keep", "revoke"}, RunE: a.asks(func(ctx context.Context, c *api.Client, args []string) error {
			verdict := campaign.Verdict(args[0])
			if verdict != campaign.VerdictKeep && verdict != campaign.VerdictRevoke {
				return exit.Usage("say keep or revoke, not %q", args[0])
			}
			if unchanged == (len(items) > 0) {
				return exit.Usage("which items? name each with --item, or give --unchanged")
			}
			x, err := c.CampaignItems(ctx, campaignArg(args[1:]), unchanged)
			if err != nil {
				return err
			}
			var chosen []api.CampaignItem
			for _, typed := range items {
				n, err := a.item(x, typed)
				if err != nil {
					return err
				}
				chosen = append(chosen, x.Items[n])
			}
			if unchanged {
				chosen = slices.DeleteFunc(x.Items, func(i api.CampaignItem) bool { return !i.State.Together() })
			}
			if len(chosen) == 0 {
				return a.showCampaign(x.Campaign)
			}
			need := verdict == campaign.VerdictRevoke || slices.ContainsFunc(chosen, func(i api.CampaignItem) bool { return i.High() })
			why, err := a.reason(ctx, from, need)
			if err != nil {
				return err
			}
			after, err := c.DecideItems(ctx, x.Campaign.ID, answerOf(verdict, why, chosen...))
			if err != nil {
				return err
			}
			if !a.json() {
				for n := range chosen {
					a.howToTakeAway(verdict, &chosen[n])
				}
			}
			return a.showCampaign(after)
		})}
	f := cmd.Flags()
	f.StringArrayVar(&items, "item", nil, "`id` of an item, or a part that only it or its title has; may be repeated")
	f.BoolVar(&unchanged, "unchanged", false, "every item that waits for you and is unchanged since it was last kept")
	from.flags(cmd)
	return cmd
}

func (a *app) recertAck() *cobra.Command {
	var items []string
	var note string
	cmd := &cobra.Command{Use: "ack [CAMPAIGN]", Short: "Confirm that what was revoked has been removed",
		Args: args(0, 1, "at most one campaign"), RunE: a.asks(func(ctx context.Context, c *api.Client, args []string) error {
			if len(items) == 0 {
				return exit.Usage("which items? name each with --item")
			}
			x, err := c.CampaignItems(ctx, campaignArg(args), false)
			if err != nil {
				return err
			}
			var ids []string
			for _, typed := range items {
				n, err := a.item(x, typed)
				if err != nil {
					return err
				}
				ids = append(ids, x.Items[n].ID)
			}
			after, err := c.AcknowledgeItems(ctx, x.Campaign.ID, ids, note)
			if err != nil {
				return err
			}
			return a.showCampaign(after)
		})}
	cmd.Flags().StringArrayVar(&items, "item", nil, "`id` of an item, or a part that only it or its title has; may be repeated")
	cmd.Flags().StringVar(&note, "note", "", "what was done")
	return cmd
}

func (a *app) recertReinstate() *cobra.Command {
	var item string
	var from reasonFrom
	cmd := &cobra.Command{Use: "reinstate [CAMPAIGN]", Short: "Reinstate what was suspended; two people must agree",
		Args: args(0, 1, "at most one campaign"), RunE: a.asks(func(ctx context.Context, c *api.Client, args []string) error {
			if item == "" {
				return exit.Usage("which item? name it with --item")
			}
			x, err := c.CampaignItems(ctx, campaignArg(args), false)
			if err != nil {
				return err
			}
			n, err := a.item(x, item)
			if err != nil {
				return err
			}
			why, err := a.reason(ctx, from, true)
			if err != nil {
				return err
			}
			id := x.Items[n].ID
			after, err := c.Reinstate(ctx, x.Campaign.ID, id, why)
			if err != nil {
				return err
			}
			if !a.json() {
				if x, err = c.CampaignItems(ctx, x.Campaign.ID, false); err != nil {
					return err
				}
				for n := range x.Items {
					if x.Items[n].ID == id {
						a.givenBack(&x.Items[n])
					}
				}
			}
			return a.showCampaign(after)
		})}
	f := cmd.Flags()
	f.StringVar(&item, "item", "", "`id` of an item, or a part that only it or its title has")
	from.flags(cmd)
	return cmd
}

// givenBack says whether what was suspended is given back by now, or who else must say so.
func (a *app) givenBack(i *api.CampaignItem) {
	switch more := i.NeedBack - len(i.Back); {
	case !i.Held:
		a.screen.Note("%s given back: %s", a.screen.Green("✓"), terminal.OneLine(i.Title, 80))
	case more == 1:
		a.screen.Note("%s %d of %d: one more reviewer must agree", a.screen.Green("✓"), len(i.Back), i.NeedBack)
	default:
		a.screen.Note("%s %d of %d: %d more reviewers must agree; reviewers do not count for what is about themselves",
			a.screen.Green("✓"), len(i.Back),
			i.NeedBack, more)
	}
}

func (a *app) recertProve() *cobra.Command {
	return &cobra.Command{Use: "prove [CAMPAIGN]", Short: "Scan the clusters again, to prove that what was revoked is gone",
		Args: args(0, 1, "at most one campaign"), RunE: a.asks(func(ctx context.Context, c *api.Client, args []string) error {
			a.screen.Status("scanning the clusters …")
			x, err := c.ProveItems(ctx, campaignArg(args))
			if err != nil {
				return err
			}
			list, err := c.CampaignItems(ctx, x.ID, false)
			if err != nil {
				return err
			}
			still := slices.DeleteFunc(list.Items, func(i api.CampaignItem) bool {
				inCluster := i.Topic == recert.TopicPower || i.Topic == recert.TopicDoors
				return i.Present() != campaign.OutcomeRevoke || !inCluster || !i.Left()
			})
			if len(still) == 0 {
				return a.showCampaign(x)
			}
			if !a.json() {
				if err := a.itemTable(still, true); err != nil {
					return err
				}
			}
			return &exit.Error{Exit: exit.Unverified, What: terminal.Counted(len(still), "revoked thing") + " not proved gone",
				Why: "first " +
					still[0].ID, Next: cmp.Or(still[0].TakeAway, still[0].Advice)}
		})}
}

func (a *app) recertReport() *cobra.Command {
	var out string
	cmd := &cobra.Command{Use: "report [CAMPAIGN]", Short: "Print a campaign's report: -o text, md, html, csv or json",
		Args: args(0, 1, "at most one campaign"), RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.formats(api.FormatText, api.FormatMarkdown, api.FormatHTML, api.FormatCSV, api.FormatJSON); err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			format := cmp.Or(a.output, api.FormatText)
			if out != "" {
				if err := writeWhole(out, func(w io.Writer) error {
					return c.WriteCampaignReport(cmd.Context(), campaignArg(args), format,
						w)
				}); err != nil {
					return err
				}
				a.screen.Note("%s written to %s", a.screen.Green("✓"), out)
				return nil
			}
			report, err := c.CampaignReport(cmd.Context(), campaignArg(args), format)
			if err != nil {
				return err
			}
			if a.output == "" || a.output == api.FormatText {
				report = terminal.ExactLines(report)
			}
			_, err = fmt.Fprint(a.out, report)
			return err
		}}
	cmd.Flags().StringVar(&out, "out", "", "write to a `file`")
	return cmd
}

// writeWhole writes a file, or leaves what was there: half a report must not look like one. What is no plain file, like /dev/stdout,
// is written to as it is.
func writeWhole(path string, write func(io.Writer) error) error {
	var f *os.File
	info, err := os.Lstat(path)
	if plain := err != nil || info.Mode().IsRegular(); plain {
		f, err = os.CreateTemp(filepath.Dir(path), ".breakglass-*") // no file and no link that another user has put there
	} else {
		f, err = os.OpenFile(path, os.O_WRONLY, 0)
	}
	name := path
	if err == nil {
		name = f.Name()
	}
	if err != nil {
		return exit.Usage("writing the report: %v", err)
	}
	if err := errors.Join(write(f), f.Close()); err != nil {
		if name != path {
			_ = os.Remove(name) // what is wrong is said below
		}
		return err
	}
	if name == path {
		return nil
	}
	if err := os.Rename(name, path); err != nil {
		return exit.Usage("writing the report: %v", err)
	}
	return nil
}

func (a *app) recertExport() *cobra.Command {
	return &cobra.Command{Use: "export FILE [CAMPAIGN]", Short: "Write the signed evidence bundle into a .tar.gz file",
		Args: args(1, 2, "a file, and a campaign"), RunE: a.asks(func(ctx context.Context, c *api.Client, args []string) error {
			b, err := c.CampaignBundle(ctx, campaignArg(args[1:]))
			if err != nil {
				return err
			}
			f, err := os.OpenFile(args[0], os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
			if err != nil {
				f := exit.Usage("writing the bundle: %v", err)
				f.Next = "give the name of a file that is not there yet"
				return f
			}
			_, err = f.Write(b.Data)
			if err = cmp.Or(err, f.Close()); err != nil {
				return fmt.Errorf("writing the bundle: %w", err)
			}
			a.screen.Note("%s %s   %d bytes in %s; an auditor checks it with: %s", a.screen.Green("✓"), b.ID, len(b.Data),
				args[0], a.typed("recert verify", []string{"--key=VKEY"}, args[0]))
			return nil
		})}
}

func (a *app) recertVerify() *cobra.Command {
	var key string
	cmd := &cobra.Command{Use: "verify BUNDLE", Short: "Verify an evidence bundle, offline, with nothing but the ledger's public key",
		Args: args(1, 1, "one bundle: a .tar.gz file or a directory"), RunE: func(_ *cobra.Command, args []string) error {
			if err := a.formats("json"); err != nil {
				return err
			}
			verifier, err := a.verifier(key)
			if err != nil {
				return err
			}
			b, err := recert.OpenBundle(args[0])
			if err != nil {
				return exit.Usage("%v", err)
			}
			v := recert.Verify(b, verifier)
			if a.json() {
				if err := a.printJSON(v); err != nil {
					return err
				}
			}
			if f := notVerified(v, a.name); f != nil {
				return f
			}
			if a.json() {
				return nil
			}
			k := v.Counts
			a.data("%s   %d items: %d kept, %d revoked, %d suspended, %d escalated; the counts add up\n", v.Campaign, k.Items, k.Kept, k.Revoked,
				k.Suspended, k.Escalated)
			a.data("✓ %d files, as signed by %s\n✓ %d ledger entries, each proved to be in the ledger, and every rule of a campaign kept\n", v.Files,
				v.Ledger, v.Entries)
			made := "the report and the tables"
			if len(v.Earlier) > 0 {
				made = "the tables of items, decisions and emergency access"
			}
			a.data("✓ %s, made again from the entries and the snapshot, are the same byte for byte\n  the words of reasons and notes are as the "+
				"daemon had them: the ledger holds commitments to them, and the bundle not what proves these\n", made)
			if len(v.Earlier) > 0 {
				a.data("! made by an earlier release of %s, so these are as they were signed, and not made again to compare them: %s\n  to have them "+
					"compared as well, export the campaign again: %s\n", a.name, strings.Join(v.Earlier, ", "),
					a.typed("recert export", nil, "FILE", v.Campaign))
			}
			return nil
		}}
	cmd.Flags().StringVar(&key, "key", "", "the ledger's public key, or a `file` with it")
	return cmd
}

// notVerified says why a bundle proves nothing yet, nil if it proves what it says. A bundle of a newer release is no forged one.
func notVerified(v recert.Verification, name string) *exit.Error {
	switch {
	case v.Newer:
		return &exit.Error{Exit: exit.Newer, What: "made by a newer release of " + name, Why: strings.Join(v.Problems, "\n       ") +
			"\n       this is no sign of forgery: the bundle is as it was signed", Next: "verify it with the release that made it, or a later one"}
	case len(v.Problems) > 0:
		return &exit.Error{Exit: exit.Unverified, What: "VERIFICATION FAILED: " + terminal.Counted(len(v.Problems), "problem"),
			Why:  strings.Join(v.Problems[:min(len(v.Problems), 20)], "\n       "),
			Next: "keep this bundle as evidence, and ask for another export"}
	case len(v.Unchecked) > 0:
		return &exit.Error{Exit: exit.Unverified, What: "made by another version of " + name,
			Why: "the ledger entries are sound and every file is as it was signed, but these could not be made again to compare them: " +
				strings.Join(v.Unchecked, ", "),
			Next: "verify it with the version that made it"}
	case !v.Closed:
		return &exit.Error{Exit: exit.Unverified, What: v.Campaign + " is not closed",
			Why: "what is in the bundle is sound, but the campaign was still open when it was made", Next: "export it again after its deadline"}
	}
	return nil
}

func (a *app) recertDiff() *cobra.Command {
	var key string
	cmd := &cobra.Command{Use: "diff BUNDLE BUNDLE", Short: "Compare the bundles of two campaigns, offline",
		Args: args(2, 2, "two bundles"), RunE: func(_ *cobra.Command, args []string) error {
			if err := a.formats("json"); err != nil {
				return err
			}
			var verifier note.Verifier
			if cmp.Or(key, a.conf.LedgerKey) != "" {
				var err error
				if verifier, err = a.verifier(key); err != nil {
					return err
				}
			} else {
				a.screen.Note("%s the bundles are not verified: give the ledger's public key with --key", a.screen.Yellow("!"))
			}
			var reports [2]*recert.Report
			for n, path := range args {
				b, err := recert.OpenBundle(path)
				if err != nil {
					return exit.Usage("%v", err)
				}
				if verifier != nil {
					if v := recert.Verify(b, verifier); len(v.Problems) > 0 {
						return &exit.Error{Exit: exit.Unverified, What: path + " DOES NOT VERIFY", Why: v.Problems[0], Next: "see all of it: " +
							terminal.Command("recert verify", nil, path)}
					} else if len(v.Unchecked)+len(v.Earlier) > 0 {
						a.screen.Note("%s %s was made by another version: it is signed, but its report could not be made again to compare it",
							a.screen.Yellow("!"), path)
					}
				}
				if reports[n], err = recert.ReadReport(b); err != nil {
					return exit.Usage("%v", err)
				}
			}
			d := recert.Compare(reports[0], reports[1])
			if a.json() {
				return a.printJSON(d)
			}
			return d.Text(a.out)
		}}
	cmd.Flags().StringVar(&key, "key", "", "the ledger's public key, or a `file` with it: the bundles are verified by it before they are "+
		"compared")
	return cmd
}
