package main

import (
	"context"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/breakglassd/breakglass/internal/cli/exit"
	"github.com/breakglassd/breakglass/internal/cli/terminal"
)

// choose takes the only one of several, or asks which by its number or name. Each has a line that says more.
func (a *app) choose(ctx context.Context, what, flag string, ids, lines []string) (string, error) {
	if len(ids) == 1 {
		return ids[0], nil
	}
	f := exit.Usage("which %s? give --%s: %s", what, flag, strings.Join(ids, ", "))
	f.Help = false
	if len(ids) == 0 {
		f = exit.Usage("which %s? give --%s", what, flag)
		f.Next = "you may ask for none; see: " + terminal.Command("profiles", nil)
	}
	if len(ids) == 0 || !a.screen.Interactive() {
		return "", f
	}
	for i, id := range ids {
		a.screen.Note("  %d  %s   %s", i+1, a.screen.Bold(id), lines[i])
	}
	for {
		typed, err := a.screen.Ask(ctx, false, "Which %s? (1 to %d) ", what, len(ids))
		if err != nil {
			return "", err
		}
		if n, err := strconv.Atoi(typed); err == nil && n >= 1 && n <= len(ids) {
			return ids[n-1], nil
		}
		if slices.Contains(ids, typed) {
			return typed, nil
		}
		a.screen.Note("%s that is not in the list; Ctrl-C leaves", a.screen.Yellow("!"))
	}
}

// confirm wants the id typed on a terminal, or --yes.
func (a *app) confirm(ctx context.Context, yes bool, verb, id string) error {
	if yes {
		return nil
	}
	if !a.screen.Interactive() {
		return exit.Usage("to %s without a terminal, give --yes", verb)
	}
	typed, err := a.screen.Ask(ctx, false, "Type %s to %s: ", id, verb)
	if err != nil {
		return err
	}
	if !strings.EqualFold(typed, id) && !strings.EqualFold("bg-"+typed, id) {
		return &exit.Error{Exit: exit.Other, Code: "not-confirmed", What: "not confirmed", Why: "that was not " + id + "; nothing was done"}
	}
	return nil
}

// reason takes a reason from a flag, a file or standard input, or asks for it.
func (a *app) reason(ctx context.Context, from reasonFrom, need bool) (string, error) {
	switch {
	case from.text != "" && from.file != "":
		return "", exit.Usage("give --reason or --reason-file, not both")
	case from.text != "":
		return from.text, nil
	case from.file != "":
		r := io.Reader(a.in)
		if from.file != "-" {
			f, err := os.Open(from.file)
			if err != nil {
				return "", exit.Usage("reading the reason: %v", err)
			}
			defer f.Close()
			r = f
		}
		b, err := io.ReadAll(io.LimitReader(r, 16<<10))
		return strings.TrimSpace(string(b)), err
	case need && a.screen.Interactive():
		return a.screen.Ask(ctx, false, "Reason: ")
	case need:
		return "", exit.Usage("a reason is needed: --reason \"…\"")
	}
	return "", nil
}
