package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/breakglassd/breakglass/cmd/breakglassd/config"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/cacheck"
	"github.com/breakglassd/breakglass/internal/campaign"
	"github.com/breakglassd/breakglass/internal/checkup"
	"github.com/breakglassd/breakglass/internal/cluster"
	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/slackbot"
	"github.com/breakglassd/breakglass/internal/strictyaml"
)

// doctor looks at everything a daemon with this configuration would need, and collects what it finds. It changes nothing,
// records nothing, and can be run beside the daemon.
type doctor struct {
	cfg    *config.Config
	policy *policy.Policy
	lines  []checkup.Line
	down   int // findings of LevelError that say only that something does not answer
}

// doctorTime bounds each thing that doctor asks another system.
const doctorTime = 20 * time.Second

func doctorCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "doctor", Short: "Check everything the daemon needs, from file modes to Vault's role, and say how to fix it",
		Long: "Check everything the daemon needs, from file modes to Vault's role, and say how to fix it.\n\nExit codes: 0 all is well, " +
			"perhaps with warnings; 8 something is wrong; 6 the only thing wrong is that a system does not answer."}
	path := configFlag(cmd)
	output := cmd.Flags().StringP("output", "o", "", "output `format`: json")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, d := cmd.Context(), &doctor{}
		if d.files(ctx, *path); d.cfg != nil {
			d.ledger(ctx)
			d.systems(ctx)
		}
		return d.report(cmd.OutOrStdout(), *output)
	}
	return cmd
}

func (d *doctor) add(level checkup.Level, code, subject, text string) {
	d.lines = append(d.lines, checkup.Line{Level: level, Code: code, Subject: subject, Text: text})
}

func (d *doctor) ok(code, subject, format string, args ...any) {
	d.add(checkup.OK, code, subject, fmt.Sprintf(format, args...))
}

func (d *doctor) warn(code, subject, format string, args ...any) {
	d.add(checkup.Warn, code, subject, fmt.Sprintf(format, args...))
}

// wrong adds an error: a line for each problem of a configuration or a policy.
func (d *doctor) wrong(code, subject string, err error) {
	var c *config.Error
	var p *strictyaml.Error
	switch {
	case errors.As(err, &c):
		for _, line := range c.Lines() {
			d.add(checkup.Error, code, subject, line)
		}
	case errors.As(err, &p):
		for _, line := range strings.Split(p.Error(), "\n") {
			d.add(checkup.Error, code, subject, strings.TrimSpace(line))
		}
	default:
		d.add(checkup.Error, code, subject, err.Error())
	}
}

// unreachable adds an error that says only that another system does not answer.
func (d *doctor) unreachable(code, subject string, err error) {
	d.wrong(code, subject, err)
	d.down++
}

// report prints the findings and returns the error for the exit code.
func (d *doctor) report(out io.Writer, output string) error {
	bad := 0
	for _, f := range d.lines {
		if f.Level == checkup.Error {
			bad++
		}
		if output == "json" {
			continue
		}
		mark := map[checkup.Level]string{checkup.OK: "✓", checkup.Warn: "!", checkup.Error: "✗"}[f.Level]
		fmt.Fprintf(out, "%s %s: %s\n", mark, f.Subject, f.Text)
	}
	if output == "json" {
		type finding struct {
			Level   checkup.Level `json:"level"`
			Code    string        `json:"code"`
			Subject string        `json:"subject"`
			Text    string        `json:"text"`
		}
		list := make([]finding, len(d.lines))
		for i, f := range d.lines {
			list[i] = finding{f.Level, f.Code, f.Subject, f.Text}
		}
		if err := json.NewEncoder(out).Encode(map[string]any{"findings": list}); err != nil {
			return err
		}
	}
	switch {
	case bad == 0:
		return nil
	case bad == d.down:
		return &exitError{exitUnreachable, errors.New(count(bad, "system does not answer", "systems do not answer"))}
	}
	return &exitError{exitFindings, errors.New(count(bad, "problem", "problems"))}
}

// count is a number with the word for it.
func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// files looks at what is on this machine.
func (d *doctor) files(ctx context.Context, path string) {
	cfg, err := config.Load(path)
	if err != nil {
		d.wrong("config", path, err)
		return
	}
	d.cfg = cfg
	d.ok("config", path, "the configuration is valid")
	for _, name := range config.UnknownEnv(os.Environ()) {
		d.warn("env", name, "unknown environment variable (not a configuration key): correct its name, or unset it")
	}
	d.secrets()
	d.rooms()
	d.certificate(time.Now())
	policy, err := readPolicy(cfg, true)
	if err != nil {
		d.wrong("policy", cfg.PolicyFile, err)
		return
	}
	d.policy = policy
	d.ok("policy", cfg.PolicyFile, "%d people, %d profiles, digest %s", len(policy.People), len(policy.Profiles), policy.Digest)
	d.people()
	d.changes()
	quiet := slog.New(slog.DiscardHandler)
	if _, err := openVault(ctx, cfg, quiet, policy); err != nil {
		d.wrong("vault-config", cfg.Vault.Address, err)
	}
	if _, err := openClusters(cfg, "", nil, quiet); err != nil {
		d.wrong("cluster-config", "clusters", err)
	}
	for _, cl := range cfg.Clusters {
		if _, err := given(cl); err != nil {
			d.warn("scan-files", cl.ID, "scans will see less than they could: %v", err)
		}
	}
	if _, err := doctorSlack(cfg, nil); cfg.Slack.Enabled && err != nil {
		d.wrong("slack-config", cfg.Slack.AppID, err)
	}
	d.serves(ctx)
}

// serves looks for what would end serve at its start.
func (d *doctor) serves(ctx context.Context) {
	for _, p := range places(d.cfg) {
		if err := p.usable(); err != nil {
			d.wrong("place", p.path, err)
		}
	}
	taken, err := addresses(d.cfg)
	for _, text := range taken {
		d.warn("address", "listeners", "%s", text)
	}
	if err != nil {
		d.wrong("address", "listeners", err)
	}
	for _, f := range d.lines {
		if f.Level == checkup.Error {
			return // serve would end with one of these
		}
	}
	if err := rehearse(ctx, d.cfg); err != nil {
		d.wrong("serve", "serve", fmt.Errorf("would end at its start: %w", err))
		return
	}
	d.ok("serve", "serve", "starts with this configuration")
}

// secrets looks at who can read the files that hold secrets, without looking at what is in them more than needed.
func (d *doctor) secrets() {
	files := []struct{ key, path string }{{"ledger.key_file", d.cfg.Ledger.KeyFile},
		{"vault.auth.secret_id_file", d.cfg.Vault.Auth.SecretIDFile},
		{"vault.auth.token_file", d.cfg.Vault.Auth.TokenFile}}
	for i, c := range d.cfg.Clusters {
		files = append(files, struct{ key, path string }{fmt.Sprintf("clusters[%d].kubeconfig_file", i), c.KubeconfigFile},
			struct{ key, path string }{fmt.Sprintf("clusters[%d].webhook_token_file", i), c.WebhookTokenFile})
	}
	if d.cfg.Slack.Enabled {
		files = append(files, struct{ key, path string }{"slack.bot_token_file", d.cfg.Slack.BotTokenFile},
			struct{ key, path string }{"slack.signing_secret_file", d.cfg.Slack.SigningSecretFile})
	}
	for _, f := range files {
		if f.path == "" || f.key == "ledger.key_file" && missing(f.path) { // the ledger is looked at by itself
			continue
		}
		if _, err := config.ReadSecret(f.key, f.path); err != nil {
			d.wrong("secret-file", f.path, err)
			continue
		}
		d.ok("secret-file", f.path, "%s is there, and only its owner and group can read it", f.key)
	}
}

func missing(path string) bool {
	_, err := os.Stat(path)
	return errors.Is(err, os.ErrNotExist)
}

// The remaining life of the TLS certificate at which doctor warns. Most are renewed at a month or a third of their life.
const certSoon = 14 * 24 * time.Hour

func (d *doctor) certificate(now time.Time) {
	if d.cfg.Listen.CertFile == "" {
		d.warn("tls", d.cfg.Listen.Address, "there is no TLS certificate: only this machine can call the daemon")
		return
	}
	pair, err := readCert("listen.tls", d.cfg.Listen.CertFile, d.cfg.Listen.KeyFile)
	if err != nil {
		d.wrong("tls", d.cfg.Listen.CertFile, err)
		return
	}
	d.expiry("tls", d.cfg.Listen.CertFile, "the TLS certificate", pair.Leaf, now, certSoon)
	for _, u := range d.cfg.PublicURLs {
		if host := hostOf(u); pair.Leaf.VerifyHostname(host) != nil {
			d.warn("tls", d.cfg.Listen.CertFile, "the certificate does not cover %s, which public_urls names: get one that does, unless a proxy in "+
				"front of the daemon serves it", host)
		}
	}
}

func (d *doctor) expiry(code, subject, what string, c *x509.Certificate, now time.Time, soon time.Duration) {
	left := c.NotAfter.Sub(now)
	until := c.NotAfter.UTC().Format(time.DateOnly)
	switch {
	case left <= 0:
		d.wrong(code, subject, fmt.Errorf("%s ended on %s: renew it", what, until))
	case left < soon:
		d.warn(code, subject, "%s ends on %s: renew it now", what, until)
	default:
		d.ok(code, subject, "%s is good until %s", what, until)
	}
}

// hostOf is the host name in an address that config.Validate has seen.
func hostOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

// people looks for those whom the access policy lets ask, but who could never get anywhere.
func (d *doctor) people() {
	stuck := 0
	members := map[string]string{} // people by Slack user: within an organization a user id is one account
	for _, p := range d.policy.People {
		switch {
		case len(p.Keys) > 0:
		case len(d.policy.Eligible(p.ID)) > 0:
			d.warn("people", p.ID, "may ask for access but has no SSH key, and so can never claim a certificate: add a key to the access policy")
			stuck++
		case !d.cfg.Slack.Enabled:
			d.warn("people", p.ID, "has only a Slack account, and Slack is switched off: add an SSH key to the access policy")
			stuck++
		}
		for _, a := range p.Slack {
			if d.cfg.Slack.Enabled && !slices.Contains(d.cfg.Slack.TeamIDs, a.Team) {
				d.warn("people", p.ID, "has a Slack account in workspace %s, which slack.team_ids does not name: commands from there are refused",
					a.Team)
				stuck++
			}
			if d.cfg.Slack.Enabled && a.Enterprise != "" && a.Enterprise != d.cfg.Slack.EnterpriseID {
				d.warn("people", p.ID, "has a Slack account of the organization %s, which slack.enterprise_id does not name: commands from there "+
					"are refused", a.Enterprise)
				stuck++
			}
			if other := members[a.User]; d.cfg.Slack.EnterpriseID != "" && other != "" && other != p.ID {
				d.warn("people", p.ID, "has the Slack user %s, which %s has too: in an organization that is one account, and it is refused; "+
					"correct one of them", a.User, other)
				stuck++
			}
			members[a.User] = p.ID
		}
	}
	if stuck == 0 {
		d.ok("people", d.cfg.PolicyFile, "every requester has an SSH key to claim a certificate with")
	}
}

// changes looks at who must agree to a change of the access policy.
func (d *doctor) changes() {
	p := d.policy
	switch team, ok := p.Team(p.Change.Approvers); {
	case ok:
		var able []string
		for _, id := range team.Members {
			if x, ok := p.Person(id); ok && len(x.Keys) > 0 {
				able = append(able, id)
			}
		}
		if len(able) == policy.MinQuorum { // the policy does not load with fewer
			d.warn("policy-changes", team.ID, "only %s can sign changes of the access policy: if one of them loses the key, no change is possible "+
				"without --accept-weaker; make it three people with keys, or more", strings.Join(able, " and "))
			return
		}
		d.ok("policy-changes", team.ID, "two of %s sign what a change of the access policy adds or eases", strings.Join(able, ", "))
	case p.Change.ReviewedBy != "":
		d.warn("policy-changes", d.cfg.PolicyFile, "no team in breakglass agrees to changes of the access policy. The policy says that a second "+
			"person does elsewhere (%q): new keys, accounts, members and profiles count after %s. Better name a team: policy: {approvers: TEAM}",
			p.Change.ReviewedBy, p.Change.Cooling)
	default:
		d.warn("policy-changes", d.cfg.PolicyFile, "ONE PERSON WHO CAN WRITE THIS FILE DECIDES WHO APPROVES: name a team of two people or more "+
			"with keys, policy: {approvers: TEAM} (policies/README.md, Who agrees to the access policy)")
	}
}

// ledger verifies all of it.
func (d *doctor) ledger(ctx context.Context) {
	path := d.cfg.Ledger.Path
	_, _, vkey, err := ledgerKey(d.cfg)
	if err != nil {
		d.wrong("ledger-key", d.cfg.Ledger.KeyFile, err)
		return
	}
	d.ok("ledger-label", path, "bindings of this ledger carry the label %s: %s", cluster.LedgerLabel, cluster.LedgerID(vkey))
	v, err := verifyLedger(ctx, path, vkey, nil)
	if err != nil {
		d.wrong("ledger", path, err)
		return
	}
	for _, p := range v.problems() {
		d.wrong("ledger", path, errors.New(p))
	}
	if v.Audit.Unagreed > 0 {
		d.warn("ledger", path, "%s: breakglass policy show", unagreedWords(v.Audit))
	}
	if len(v.problems()) == 0 {
		d.ok("ledger", path, "%d entries verify; %d requests, %d certificates, each with its approvals", v.Ledger.Entries, v.Audit.Requests,
			v.Audit.Certificates)
	}
}

// systems asks Vault, the clusters and Slack, at the same time.
func (d *doctor) systems(ctx context.Context) {
	if d.policy == nil {
		return
	}
	asks := []func(*doctor, context.Context){(*doctor).vault, (*doctor).slack}
	for _, c := range d.cfg.Clusters {
		asks = append(asks, func(d *doctor, ctx context.Context) { d.cluster(ctx, c.ID) })
	}
	found := make([]doctor, len(asks))
	var wg sync.WaitGroup
	for i, ask := range asks {
		found[i] = doctor{cfg: d.cfg, policy: d.policy}
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, doctorTime)
			defer cancel()
			ask(&found[i], ctx)
		})
	}
	wg.Wait()
	for _, f := range found {
		d.lines = append(d.lines, f.lines...)
		d.down += f.down
	}
}

func (d *doctor) vault(ctx context.Context) {
	ca, err := openVault(ctx, d.cfg, slog.New(slog.DiscardHandler), d.policy)
	if err != nil {
		return // files has said so
	}
	defer func() { _ = ca.Close() }() // the token ends by itself otherwise
	d.lines = append(d.lines, ca.Doctor(ctx)...)
	if f := d.lines[0]; f.Code == "vault-health" && f.Level == checkup.Error { // then it is the only one
		d.down++
	}
}

// cluster asks one cluster whether the daemon can do there what it must and no more, and whether the cluster believes the
// certificates that Vault signs for it.
func (d *doctor) cluster(ctx context.Context, id string) {
	quiet := slog.New(slog.DiscardHandler)
	kube, err := openClusters(d.cfg, "", nil, quiet)
	if err != nil {
		return // files has said so
	}
	issuer := &x509.Certificate{}
	ca, err := openVault(ctx, d.cfg, quiet, d.policy)
	if err == nil {
		defer func() { _ = ca.Close() }() // the token ends by itself otherwise
		issuer, err = ca.Issuer(ctx, id)
	}
	unknown := err != nil // which CA it should trust; vault has said why
	if unknown {
		issuer = &x509.Certificate{}
	}
	servers, err := kube.EachNames(ctx, id, issuer)
	if err != nil {
		d.wrong("cluster", id, err)
		return
	}
	down := 0
	for _, s := range servers {
		switch {
		case s.Err != nil:
			d.unreachable("cluster", id, s.Err)
			down++
		case unknown:
		case s.Names:
			d.ok("cluster-ca", id, "the API server at %s names %q among the CAs whose certificates it takes; whether it has this very CA, and not "+
				"one of the same name, the canary of `breakglass ca check` proves", s.Address, issuer.Subject)
		default:
			d.wrong("cluster-ca", id, fmt.Errorf("the API server at %s does not take client certificates of %q: append that CA, as "+
				"deploy/vault/setup.sh wrote it, to the client-CA bundle of every kube-apiserver",
				s.Address, issuer.Subject))
		}
	}
	if down == len(servers) {
		return
	}
	if !unknown {
		d.peopleAddress(ctx, kube, id, issuer)
	}
	rights := rightsIn(d.policy, id)
	for _, f := range slices.Concat(kube.CheckRights(ctx, id, rights), kube.CheckGroups(ctx, id, rights)) {
		if f.Level == checkup.OK {
			d.ok("cluster", id, "%s", f.Text)
			continue
		}
		d.wrong("cluster", id, fmt.Errorf("%s: %s", f.Text, f.Next))
	}
}

// peopleAddress looks at the address that people's kubeconfigs get.
func (d *doctor) peopleAddress(ctx context.Context, kube *cluster.Clusters, id string, issuer *x509.Certificate) {
	cl, ok := d.policy.Cluster(id)
	if !ok {
		return // no certificate is issued there
	}
	at, err := kube.PeopleAddress(ctx, id, cl.Server, issuer)
	if err == nil {
		err = at.Err
	}
	switch {
	case at.Wrong != "":
		d.wrong("people-address", id, errors.New(cacheck.WrongAtPeoplesAddress(cl.Server, at.Wrong)))
	case err != nil:
		d.warn("people-address", id, "the address that people get, %s, could not be tried from here with the CA that they get: %v", cl.Server,
			err)
	case at.Names:
		d.ok("people-address", id, "the address that people get, %s, asks for certificates of %q; whether they arrive at the API servers, "+
			"the canary of `breakglass ca check` proves", cl.Server, issuer.Subject)
	default:
		d.wrong("people-address", id, errors.New(cacheck.NotAtPeoplesAddress(cl.Server)))
	}
}

// doctorSlack makes a bot that can ask Slack, and has nothing to decide or record with.
func doctorSlack(cfg *config.Config, observe func(what, outcome string, took time.Duration)) (*slackbot.Bot, error) {
	return openSlack(cfg, new(breakglass.Service), new(campaign.Book), new(ledger.Ledger), nil, slog.New(slog.DiscardHandler), observe)
}

// slack asks Slack whether the token is good, and whether it takes messages for the channel.
func (d *doctor) slack(ctx context.Context) {
	if !d.cfg.Slack.Enabled {
		d.ok("slack", "slack", "switched off: people ask and approve on the command line")
		return
	}
	var outcome string
	bot, err := doctorSlack(d.cfg, func(_, o string, _ time.Duration) { outcome = o })
	if err != nil {
		return // files has said so
	}
	if err = bot.Check(ctx); err == nil {
		err = bot.CheckChannel(ctx)
	}
	switch {
	case err == nil:
		d.ok("slack", d.cfg.Slack.AppID, "Slack takes the bot token, and messages for channel %s", d.cfg.Slack.Channel)
	case outcome == slackbot.OutcomeUnreachable || outcome == slackbot.OutcomeRateLimited:
		d.unreachable("slack", d.cfg.Slack.AppID, err)
	default:
		d.wrong("slack", d.cfg.Slack.AppID, err)
	}
}
