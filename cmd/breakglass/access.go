package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/breakglass"
)

// checkAccess asks the cluster, at the address and with the authorities of the kubeconfig, whom it takes the new certificate for.
// That needs no right. A cluster that does not answer proves nothing, and is no error.
func (a *app) checkAccess(ctx context.Context, r api.Request, cl api.Cluster, chain, key string) error {
	a.screen.status("asking %s whether it accepts the certificate", cl.ID)
	me := breakglass.CommonName(r.Ask.By.Person, r.ID)
	kept := "what was written is kept: it works as soon as that is mended"
	user, err := whoAmI(ctx, cl, chain, key)
	switch {
	case errors.Is(err, errNotTrusted):
		return &failure{exit: exitUnreachable, code: "certificate-not-accepted", what: cl.ID + " answers 401 to the new certificate",
			why:  "its API servers do not trust the break-glass CA yet, or something before them ends TLS",
			next: "tell an operator: breakglassd doctor\n" + kept}
	case err != nil:
		a.screen.note("%s cannot tell whether %s accepts it: %v", a.screen.yellow("!"), cl.ID, err)
		return nil
	case user != me:
		return &failure{exit: exitUnreachable, code: "taken-for-another", what: fmt.Sprintf("%s takes you for %.200q, not for %s", cl.ID, user,
			me),
			why:  "the certificate does not reach its API servers: something in between ends TLS",
			next: "tell an operator: breakglassd doctor\n" + kept}
	}
	a.screen.note("%s %s accepts it: you are %s", a.screen.green("✓"), cl.ID, me)
	return nil
}
