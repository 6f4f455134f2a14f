package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/cli/exit"
	"github.com/breakglassd/breakglass/internal/cli/kubeconfig"
)

// checkAccess asks the cluster, at the address and with the authorities of the kubeconfig, whom it takes the new certificate for.
// That needs no right. A cluster that does not answer proves nothing, and is no error.
func (a *app) checkAccess(ctx context.Context, r api.Request, cl api.Cluster, chain, key string) error {
	a.screen.Status("asking %s whether it accepts the certificate", cl.ID)
	me := breakglass.CommonName(r.Ask.By.Person, r.ID)
	kept := "what was written is kept: it works as soon as that is mended"
	user, err := kubeconfig.WhoAmI(ctx, cl, chain, key)
	switch {
	case errors.Is(err, kubeconfig.ErrNotTrusted):
		return &exit.Error{Exit: exit.Unreachable, Code: "certificate-not-accepted", What: cl.ID + " answers 401 to the new certificate",
			Why:  "its API servers do not trust the break-glass CA yet, or something before them ends TLS",
			Next: "tell an operator: breakglassd doctor\n" + kept}
	case err != nil:
		a.screen.Note("%s cannot tell whether %s accepts it: %v", a.screen.Yellow("!"), cl.ID, err)
		return nil
	case user != me:
		return &exit.Error{Exit: exit.Unreachable, Code: "taken-for-another", What: fmt.Sprintf("%s takes you for %.200q, not for %s", cl.ID,
			user,
			me),
			Why:  "the certificate does not reach its API servers: something in between ends TLS",
			Next: "tell an operator: breakglassd doctor\n" + kept}
	}
	a.screen.Note("%s %s accepts it: you are %s", a.screen.Green("✓"), cl.ID, me)
	return nil
}
