package main

import (
	"cmp"
	"context"
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"github.com/breakglassd/breakglass/internal/api"
)

func (a *app) whoamiCommand() *cobra.Command {
	return &cobra.Command{Use: "whoami", Short: "Show who you are signed in as", Args: args(0, 0, "no arguments"),
		RunE: a.asks(func(ctx context.Context, c *api.Client, _ []string) error {
			me, err := c.Whoami(ctx)
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(me)
			}
			a.data("%s (%s)\nteams   %s\nkey     %s\nserver  %s\n", me.Person, me.Name, cmp.Or(strings.Join(me.Teams, ", "), "none"), me.Key,
				c.Server)
			return nil
		})}
}

func (a *app) logoutCommand() *cobra.Command {
	var keys bool
	cmd := &cobra.Command{Use: "logout", Short: "Sign out, and list the keys on this machine", Args: args(0, 0, "no arguments"),
		RunE: a.asks(func(ctx context.Context, c *api.Client, _ []string) error {
			if c.SignedIn.Token != "" {
				a.tidy(ctx)
			}
			removed, left, err := a.store.Wipe(c.Server, keys)
			if err != nil {
				return err
			}
			if c.SignedIn.Token != "" {
				if err := a.store.KeepSignIn(c.Server, api.SignIn{}); err != nil {
					return err
				}
				err = c.Logout(ctx)
				var e *api.Error
				if err != nil && !(errors.As(err, &e) && e.Class == api.ClassSignIn) { // that class: it has ended already
					return err
				}
			}
			c.SignedIn = api.SignIn{}
			if a.json() {
				return a.printJSON(struct {
					api.Meta
					Removed []string `json:"removedKeys"`
					Left    []string `json:"keysLeft"`
				}{api.Meta{APIVersion: api.Version, Kind: "SignedOut"}, removed, left})
			}
			a.screen.Note("%s signed out", a.screen.Green("✓"))
			if len(removed) > 0 {
				a.screen.Note("  removed from this machine: the keys of %s, and what was written with them", strings.Join(removed, ", "))
			}
			if len(left) > 0 {
				a.screen.Note("%s the keys of %s are still on this machine; remove them too: %s", a.screen.Yellow("!"),
					strings.Join(left, ", "), a.typed("logout", []string{"--keys"}))
			}
			return nil
		})}
	cmd.Flags().BoolVar(&keys, "keys", false, "remove every key of this server from this machine, and the files written with it")
	return cmd
}
