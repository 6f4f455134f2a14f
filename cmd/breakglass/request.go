package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/cli/exit"
	"github.com/breakglassd/breakglass/internal/cli/terminal"
	"github.com/breakglassd/breakglass/internal/cli/view"
)

// wish is what a request command was given.
type wish struct {
	ask         api.Ask
	life, limit time.Duration
	reasonFile  string
	resume      string // the id of a request to go on with
	noWait, dry bool
	claim       bool
	to          target
}

func (a *app) requestCommand() *cobra.Command {
	var w wish
	cmd := &cobra.Command{Use: "request", Short: "Request emergency access, wait for the approvals, claim the certificate",
		Args: args(0, 0, "flags only"),
		Long: "Opens a request, waits until enough other people have approved it, and claims the certificate for a key made on this machine.\n" +
			"Ctrl-C leaves the request open; --resume goes on with it.",
		Example: `  breakglass request -c prod-eu-1 -p cluster-admin --for 30m --incident INC-4312 --reason "etcd quorum lost, API 5xx"
  eval "$(breakglass request -p cluster-admin --reason 'etcd quorum lost')"      # sets KUBECONFIG once the certificate is issued`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.formats("kubeconfig", "pem", "json"); err != nil {
				return err
			}
			if err := w.check(cmd); err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			return a.request(cmd.Context(), c, w)
		}}
	f := cmd.Flags()
	f.StringVarP(&w.ask.Cluster, "cluster", "c", "", "cluster `id` (default: the profile's only one)")
	f.StringVarP(&w.ask.Profile, "profile", "p", "", "profile `id` (default: the only one you may ask for)")
	f.DurationVar(&w.life, "for", 0, "lifetime of the certificate, from the claim (default: the profile's)")
	f.StringVar(&w.ask.Reason, "reason", "", "what is broken: the approvers read it")
	f.StringVar(&w.reasonFile, "reason-file", "", "`file` with the reason, - for standard input")
	f.StringVar(&w.ask.Incident, "incident", "", "incident `name`")
	f.BoolVar(&w.noWait, "no-wait", false, "print the id and do not wait")
	f.DurationVar(&w.limit, "wait-timeout", 0, "stop waiting after this time; the request stays open (exit code 5)")
	f.BoolVar(&w.dry, "dry-run", false, "check whether the request would be possible, without opening it")
	f.BoolVar(&w.claim, "claim", true, "claim the certificate as soon as it is approved")
	f.StringVar(&w.resume, "resume", "", "go on with the request of this `id`")
	w.to.flags(cmd)
	completes(cmd, "profile", a.completeProfiles)
	completes(cmd, "cluster", a.completeClusters)
	completes(cmd, "resume", a.completeIDs(api.FilterMine))
	return cmd
}

// check refuses flags that contradict each other, before the server is asked.
func (w *wish) check(cmd *cobra.Command) error {
	if cmd.Flags().Changed("for") && w.life < breakglass.MinTTL {
		return exit.Usage("--for %s: it must be %s or more", w.life, breakglass.MinTTL)
	}
	if w.life%time.Second != 0 {
		return exit.Usage("--for %s is not in whole seconds", w.life)
	}
	w.ask.TTLSeconds = int64(w.life / time.Second)
	for _, f := range []string{"profile", "cluster", "for", "reason", "reason-file", "incident", "dry-run"} {
		if w.resume != "" && cmd.Flags().Changed(f) {
			return exit.Usage("--resume takes no --%s: it goes on with a request as it was made", f)
		}
	}
	return nil
}

// request opens a request or goes on with one, waits for its approvals, and claims its certificate.
func (a *app) request(ctx context.Context, c *api.Client, w wish) error {
	var r api.Request
	var err error
	if w.resume != "" {
		if r, err = a.get(ctx, c, w.resume); err != nil {
			return err
		}
	} else {
		if err := a.complete(ctx, c, &w); err != nil {
			return err
		}
		if w.dry {
			return a.dryRun(ctx, c, w.ask)
		}
		if !w.noWait && w.claim {
			if _, err := a.files("bg-0000-000", w.to); err != nil { // the same names but for the id
				return err
			}
		}
		if r, err = a.open(ctx, c, w.ask); err != nil {
			return err
		}
	}
	if w.noWait {
		return a.printID(r)
	}
	if r, err = a.await(ctx, c, r, w.limit, func(r api.Request) bool { return r.State != breakglass.StatePending }); err != nil {
		return err
	}
	if err := exit.Outcome(r); err != nil {
		return errors.Join(err, a.forget(c, r))
	}
	if !w.claim {
		return a.printID(r)
	}
	if r, _, err = a.recorded(ctx, c, r); err != nil {
		return err
	}
	return a.claim(ctx, c, r, w.to)
}

// complete finds out what the requester has not said. On a terminal the profile and the cluster are chosen first: no reason that was
// written is lost over them.
func (a *app) complete(ctx context.Context, c *api.Client, w *wish) (err error) {
	asks := a.screen.Interactive()
	if asks {
		if err := a.decide(ctx, c, &w.ask); err != nil {
			return err
		}
	}
	if w.ask.Reason, err = a.reason(ctx, reasonFrom{w.ask.Reason, w.reasonFile}, true); err != nil || asks {
		return err
	}
	return a.decide(ctx, c, &w.ask)
}

// printID prints a request's id, or with -o json the request.
func (a *app) printID(r api.Request) error {
	if a.json() {
		return a.printJSON(r)
	}
	a.data("%s\n", r.ID)
	return nil
}

// decide settles which profile and which cluster are asked for, where the person has not said: the only ones that they may ask for, or
// those that they choose.
func (a *app) decide(ctx context.Context, c *api.Client, ask *api.Ask) error {
	if ask.Profile != "" && ask.Cluster != "" {
		return nil
	}
	all, err := c.Profiles(ctx)
	if err != nil {
		return err
	}
	may := slices.DeleteFunc(all.Items, func(p api.Profile) bool {
		on := func(cl api.Cluster) bool { return ask.Cluster == "" || cl.ID == ask.Cluster }
		return !p.MayRequest || !slices.ContainsFunc(p.Clusters, on)
	})
	if ask.Profile == "" {
		var ids, lines []string
		for _, p := range may {
			ids, lines = append(ids, p.ID), append(lines, terminal.Format("%s %s", p.Rights, p.Description))
		}
		if ask.Profile, err = a.choose(ctx, "profile", "profile", ids, lines); err != nil {
			return err
		}
	}
	i := slices.IndexFunc(may, func(p api.Profile) bool { return p.ID == ask.Profile })
	if i < 0 || ask.Cluster != "" {
		return nil // the daemon says why it cannot be had
	}
	var ids, lines []string
	for _, cl := range may[i].Clusters {
		ids, lines = append(ids, cl.ID), append(lines, cl.Server)
	}
	ask.Cluster, err = a.choose(ctx, "cluster", "cluster", ids, lines)
	return err
}

func (a *app) dryRun(ctx context.Context, c *api.Client, ask api.Ask) error {
	r, err := c.DryRun(ctx, ask)
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(a.seen(r))
	}
	a.view().Summary(a.seen(r), "")
	a.screen.Note("%s the request would be possible; nothing was opened", a.screen.Green("✓"))
	return nil
}

// openTries is how often a request whose answer was lost is looked for.
const openTries = 3

// open makes a key, opens the request for it, and keeps the key under the request's id.
func (a *app) open(ctx context.Context, c *api.Client, ask api.Ask) (api.Request, error) {
	k, err := a.store.NewKey(c.Server, a.now().Add(time.Hour)) // until belongTo knows better
	if err != nil {
		return api.Request{}, err
	}
	if ask.KeyHash, err = k.Hash(); err != nil {
		return api.Request{}, err
	}
	r, err := c.Request(ctx, ask)
	// If the answer was lost, the request may exist: it is the one for our key.
	for try := 0; unreachable(err) && c.SignedIn.Token != "" && try < openTries; try++ {
		mine, lerr := c.List(ctx, api.FilterMine, 1)
		if i := slices.IndexFunc(mine.Items, func(r api.Request) bool { return r.Ask.KeyHash == ask.KeyHash }); lerr == nil && i >= 0 {
			r, err = mine.Items[i], nil
		} else if lerr == nil {
			break // it does not
		}
	}
	if err != nil {
		if !unreachable(err) && ctx.Err() == nil {
			err = errors.Join(err, k.Remove())
		}
		return api.Request{}, err
	}
	if err := k.BelongTo(a.seen(r)); err != nil {
		return api.Request{}, err
	}
	if r, _, err = a.recorded(ctx, c, r); err != nil {
		return api.Request{}, err
	}
	if bad := notAsked(r, ask); bad != "" {
		return api.Request{}, exit.Lie("record", "it recorded another request than this one: %s", bad)
	}
	if err := a.pinCluster(c, r.Ask, r.Ask.CAHash); err != nil {
		return api.Request{}, err
	}
	a.view().Summary(r, c.SignedIn.Person)
	a.screen.Note("%s opened  %s   %s", a.screen.Green("✓"), a.screen.Bold(r.ID), a.view().Clock(r.RequestedAt))
	if strings.HasPrefix(k.Dir, "/run/user/") && a.env("SSH_CONNECTION") != "" {
		a.screen.Note("%s its key is in %s, which goes away with your last login session here: keep one open (tmux, loginctl enable-linger)",
			a.screen.Yellow("!"), k.Dir)
	}
	return r, nil
}

// notAsked says in what a recorded request differs from what was asked for. What was left to the profile can be anything.
func notAsked(r api.Request, ask api.Ask) string {
	switch x := r.Ask; {
	case x.KeyHash != ask.KeyHash:
		return "it is for another key"
	case x.Profile != ask.Profile:
		return "it is for the profile " + x.Profile
	case ask.Cluster != "" && x.Cluster != ask.Cluster:
		return "it is for the cluster " + x.Cluster
	case ask.TTLSeconds != 0 && x.TTLSeconds != ask.TTLSeconds:
		return "it is for " + view.Seconds(x.TTLSeconds)
	case r.Reason != strings.TrimSpace(ask.Reason):
		return "it has another reason"
	case x.Incident != strings.TrimSpace(ask.Incident):
		return "it has another incident"
	}
	return ""
}

// unreachable says that the server may have carried a command out, although it did not say so.
func unreachable(err error) bool {
	var e *api.Error
	return errors.As(err, &e) && (e.Code == api.CodeUnreachable || e.Code == api.CodeLedger)
}

// forget removes the key of a request from which nothing can come any more.
func (a *app) forget(c *api.Client, r api.Request) error {
	k, err := a.store.KeyOf(c.Server, r.ID)
	if k == nil || err != nil {
		return err
	}
	return k.Remove()
}

// await follows a request and says what happens until done, the limit or Ctrl-C.
func (a *app) await(ctx context.Context, c *api.Client, r api.Request, limit time.Duration, done func(api.Request) bool) (api.Request,
	error) {
	if done(r) {
		return r, nil
	}
	type step struct {
		r   api.Request
		err error
	}
	// The waiting has a context of its own, so that its goroutine ends with this function.
	fctx, cancel := context.WithCancel(ctx)
	steps := make(chan step)
	ended := make(chan struct{})
	defer func() { cancel(); <-ended; a.screen.Clear() }()
	go func() {
		defer close(ended)
		for r, err := range c.Follow(fctx, r) {
			select {
			case steps <- step{r, err}:
			case <-fctx.Done():
				return
			}
		}
	}()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var timeout <-chan time.Time
	if limit > 0 {
		timer := time.NewTimer(limit)
		defer timer.Stop()
		timeout = timer.C
	}
	if !a.screen.Live {
		a.screen.Note("… %s", a.view().Waiting(r))
	}
	trouble := terminal.Styled("")
	for {
		a.screen.Status("… %s%s   Ctrl-C leaves it open", a.view().Waiting(r), trouble)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return r, &exit.Error{Exit: exit.Interrupted, What: "interrupted", Why: r.ID + " stays as it is (" + string(r.State) + ")",
				Next: a.goOn(r)}
		case <-timeout:
			return r, &exit.Error{Exit: exit.Expired, Code: "wait-timeout", What: fmt.Sprintf("%s is still %s after %s", r.ID, r.State, limit),
				Next: a.goOn(r)}
		case s := <-steps:
			switch {
			case s.err == nil:
				trouble = ""
				a.view().Changes(r, a.seen(s.r))
				if r = s.r; done(r) {
					a.screen.Bell()
					return r, nil
				}
			case !api.Temporary(s.err):
				return r, s.err
			case trouble == "":
				f, _ := exit.Explain(s.err)
				a.screen.Note("%s %s; trying again", a.screen.Yellow("!"), f.Why)
				trouble = "   (no connection)"
			}
		}
	}
}

// goOn says how to come back to a request.
func (a *app) goOn(r api.Request) string {
	if r.State.Terminal() || r.State == breakglass.StateActive {
		return terminal.Command("show", nil, r.ID)
	}
	return terminal.Command("request", []string{"--resume=" + r.ID}) + "\nwithdraw it: " + terminal.Command("withdraw", nil, r.ID)
}
