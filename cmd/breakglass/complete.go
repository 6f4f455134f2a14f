package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/cli/terminal"
)

// completionTime is how long a shell may hang for a suggestion.
const completionTime = 300 * time.Millisecond

// quiet calls the server for a completion: only with a sign-in that is there already, because no person expects to touch a key
// or to type a passphrase on a Tab; and silently.
func quiet[T any](a *app, cmd *cobra.Command, call func(context.Context, *api.Client) (T, error)) (T, bool) {
	var none T
	ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
	defer cancel()
	var err error
	if a.conf, err = a.loadSettings(); err != nil {
		return none, false
	}
	c, err := a.client()
	if err != nil || c.SignedIn.Token == "" {
		return none, false
	}
	c.Keys = func(context.Context) ([]ssh.Signer, error) { return nil, nil }
	out, err := call(ctx, c)
	return out, err == nil
}

func (a *app) completeIDs(filter string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		all, _ := quiet(a, cmd, func(ctx context.Context, c *api.Client) (api.Requests, error) { return c.List(ctx, filter, 7) })
		var out []cobra.Completion
		for _, r := range all.Items {
			out = append(out, cobra.CompletionWithDesc(r.ID, terminal.OneLine(terminal.Format("%s %s by %s: %s", r.State, r.Ask.Profile,
				r.Ask.By.Person, r.Reason),
				60)))
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

func (a *app) completeProfiles(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	all, _ := quiet(a, cmd, func(ctx context.Context, c *api.Client) (api.Profiles, error) { return c.Profiles(ctx) })
	var out []cobra.Completion
	for _, p := range all.Items {
		if p.MayRequest {
			out = append(out, cobra.CompletionWithDesc(terminal.OneLine(p.ID, 100),
				terminal.OneLine(terminal.Format("%s %s", p.Rights, p.Description), 60)))
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

func (a *app) completeClusters(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	all, _ := quiet(a, cmd, func(ctx context.Context, c *api.Client) (api.Profiles, error) { return c.Profiles(ctx) })
	var out []cobra.Completion
	seen := map[string]bool{}
	for _, p := range all.Items {
		for _, cl := range p.Clusters {
			if p.MayRequest && !seen[cl.ID] {
				seen[cl.ID] = true
				out = append(out, cobra.CompletionWithDesc(terminal.OneLine(cl.ID, 100), terminal.OneLine(cl.Server, 100)))
			}
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// completes gives a flag of a command its completion.
func completes(cmd *cobra.Command, flag string, by cobra.CompletionFunc) {
	if err := cmd.RegisterFlagCompletionFunc(flag, by); err != nil {
		panic(err) // the flag is defined
	}
}
