// Package config is the daemon's configuration: its keys with their defaults and checks, and how a file and the environment become it.
//
// A key is one field of [Config]. Its tags say all that holds for it alone, and one walk over the fields does what they say:
//
//	mapstructure  the key's name
//	default       the value where neither the file nor the environment gives one
//	path          "yes": the value is a path on this machine, and is relative to the configuration file
//	need          the key must have a value; the tag says which
//	check         "host:port"; or a choice, "json|text"; or a range of durations, "1s..10m", the ends included
//	when          "vault": the key counts only where Vault signs
//
// A rule over several keys is in the validate method of their section.
package config

import (
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/cluster"
	"github.com/breakglassd/breakglass/internal/recert"
	"github.com/breakglassd/breakglass/internal/schedule"
	"github.com/breakglassd/breakglass/internal/text"
)

// Config is the daemon's configuration, in the order of config.example.yaml, which explains every key; a test keeps the two the same.
//
// Every key of a single value can also be given in the environment, as BREAKGLASS_ and the key in upper case with underscores
// for dots: BREAKGLASS_VAULT_ADDRESS for vault.address. The environment wins over the file. No key holds a secret: secrets are
// in files of their own, named by keys that end in _file.
type Config struct {
	// Listen is where people's command lines and Slack reach the daemon.
	Listen Listen `mapstructure:"listen"`
	// PublicURLs are the addresses under which people reach it, scheme://host[:port]. A sign-in names one of them, so that a
	// signature given to another server is worth nothing here.
	PublicURLs []string `mapstructure:"public_urls"`
	// Health is where /livez, /readyz and /metrics are, apart from what people reach.
	Health Health `mapstructure:"health"`
	// Ledger is the record of everything that happens.
	Ledger Ledger `mapstructure:"ledger"`
	// PolicyFile is the access policy: people, teams, clusters and profiles. SIGHUP reads it again.
	PolicyFile string `mapstructure:"policy_file" path:"yes" need:"the access policy; start from policies/access.example.yaml"`
	// Webhooks is where API servers reach the daemon: the deny webhook and audit events. Optional.
	Webhooks Webhooks `mapstructure:"webhooks"`
	// Sessions is what is kept of audit events, and how grants are examined after their end. Optional.
	Sessions Sessions `mapstructure:"sessions"`
	// Checks is when the CAs are checked.
	Checks Checks `mapstructure:"checks"`
	// Recertification is when campaigns open, and where their snapshots are. Optional.
	Recertification Recertification `mapstructure:"recertification"`
	// RecertIgnoreFile lists findings of recertification that are known and accepted, each with a reason and an end.
	RecertIgnoreFile string `mapstructure:"recert_ignore_file" path:"yes"`
	// Vault signs.
	Vault Vault `mapstructure:"vault" when:"vault"`
	// Clusters says how to reach each cluster of the access policy.
	Clusters []Cluster `mapstructure:"clusters" need:"name each cluster of the access policy"`
	// Slack is optional: without it, people ask and approve on the command line.
	Slack Slack `mapstructure:"slack"`
	// Log is how the daemon writes its log, on standard error.
	Log Log `mapstructure:"log"`
}

func (c *Config) validate(v *validation) {
	if len(c.PublicURLs) == 0 && !text.Loopback(hostOf(c.Listen.Address)) {
		v.wrong("public_urls", "is empty", "name the address people use, like https://breakglass.example.com:8443")
	}
	for i, u := range c.PublicURLs {
		if _, err := api.Address(u); err != nil {
			v.wrong(fmt.Sprintf("public_urls[%d]", i), err.Error(), "")
		}
	}
	for i, cl := range c.Clusters {
		if slices.ContainsFunc(c.Clusters[:i], func(other Cluster) bool { return other.ID == cl.ID }) {
			v.wrong(fmt.Sprintf("clusters[%d].id", i), fmt.Sprintf("%q is there twice", cl.ID), "")
		}
	}
}

// Listen is the listener for people and Slack. Without a certificate it takes only a loopback address.
type Listen struct {
	// Address is host:port; port 0 takes a free one.
	Address string `mapstructure:"address" default:":8443" check:"host:port"`
	// CertFile is PEM, leaf first; it is read again on SIGHUP.
	CertFile string `mapstructure:"tls_cert_file" path:"yes"`
	// KeyFile is PEM; it is read again on SIGHUP.
	KeyFile string `mapstructure:"tls_key_file" path:"yes"`
}

func (l Listen) validate(v *validation) {
	switch _, _, err := net.SplitHostPort(l.Address); {
	case err != nil:
	case (l.CertFile == "") != (l.KeyFile == ""):
		v.wrong("tls_cert_file", "goes with tls_key_file", "give both")
	case l.CertFile == "" && !text.Loopback(hostOf(l.Address)):
		v.wrong("tls_cert_file", fmt.Sprintf("is missing: without TLS only a loopback address is taken, not %q", l.Address), "")
	}
}

// hostOf is the host in an address of the form host:port; empty where the address has another form.
func hostOf(address string) string {
	host, _, _ := net.SplitHostPort(address)
	return host
}

// Health is a plain HTTP listener for machines.
type Health struct {
	// Address is host:port; empty switches the listener off.
	Address string `mapstructure:"address" default:"127.0.0.1:8081" check:"host:port"`
}

func (h Health) off() bool { return h.Address == "" }

// Ledger names the ledger's database and its signing key. `breakglassd init` makes both.
type Ledger struct {
	// Path is the database, on a local disk.
	Path string `mapstructure:"path" path:"yes" need:"the ledger's database, which breakglassd init makes"`
	// KeyFile is the ledger's private key; only its owner may read it.
	KeyFile string `mapstructure:"key_file" path:"yes" need:"the ledger's signing key, which breakglassd init makes"`
	// Origin is the ledger's name in checkpoints and key; it never changes in a ledger's life.
	Origin string `mapstructure:"origin" need:"the ledger's name, like breakglass.example.com/prod"`
}

func (l Ledger) validate(v *validation) {
	if strings.ContainsAny(l.Origin, " +\t\n") {
		v.wrong("origin", fmt.Sprintf("%q has a blank or a plus sign", l.Origin), "")
	}
}

// Webhooks is the listener for API servers. Each proves itself with its cluster's token, or with a client certificate of its own.
type Webhooks struct {
	// Address is host:port; empty switches the listener off.
	Address string `mapstructure:"address" check:"host:port"`
	// CertFile is PEM, leaf first; it is read again on SIGHUP. Default: that of listen.
	CertFile string `mapstructure:"tls_cert_file" path:"yes"`
	// KeyFile is PEM; it is read again on SIGHUP. Default: that of listen.
	KeyFile string `mapstructure:"tls_key_file" path:"yes"`
	// ClientCAFile is the default of the clusters' WebhookClientCAFile. It may be given where one cluster has client names.
	ClientCAFile string `mapstructure:"client_ca_file" path:"yes"`
}

func (w Webhooks) off() bool { return w.Address == "" }

func (w Webhooks) validate(v *validation) {
	if w.off() {
		if w.CertFile != "" || w.KeyFile != "" || w.ClientCAFile != "" {
			v.wrong("address", "is missing: the other keys of webhooks need it", "")
		}
		return
	}
	switch _, _, err := net.SplitHostPort(w.Address); {
	case err != nil:
	case (w.CertFile == "") != (w.KeyFile == ""):
		v.wrong("tls_cert_file", "goes with tls_key_file", "give both")
	case w.CertFile == "" && v.config.Listen.CertFile == "":
		v.wrong("tls_cert_file", "is missing: kube-apiserver sends its token, or its certificate, over TLS only", "")
	}
	if !slices.ContainsFunc(v.config.Clusters, Cluster.HasWebhook) {
		v.wrong("address", "is there, but no cluster has webhook_token_file or webhook_client_names: no API server could call", "")
	}
}

// Sessions is the database of audit events and session reports.
type Sessions struct {
	// Path is made when it is missing; empty: no session is reported, and no residue is searched.
	Path string `mapstructure:"path" path:"yes"`
	// Keep is how long events, heartbeats and reports are kept.
	Keep time.Duration `mapstructure:"keep" default:"2160h"`
	// Grace is how late audit events may come: a grant is examined so long after its end.
	Grace time.Duration `mapstructure:"grace" default:"45s" check:"1s..10m"`
}

func (s Sessions) off() bool { return s.Path == "" }

func (s Sessions) validate(v *validation) {
	if !s.off() && s.Keep < 24*time.Hour {
		v.wrong("keep", fmt.Sprintf("%s is under a day: a report could not be made", s.Keep), "")
	}
}

// Checks is when the CAs are checked.
type Checks struct {
	CACron string `mapstructure:"ca_cron" default:"17 * * * *"` // five fields
	Zone   string `mapstructure:"time_zone" default:"UTC"`      // of ca_cron
}

func (c Checks) validate(v *validation) {
	if _, err := schedule.Parse(c.CACron, c.Zone); err != nil {
		v.wrong("ca_cron", err.Error(), "")
	}
}

// Recertification is when campaigns open, and where their snapshots are.
type Recertification struct {
	// Cron is when a campaign opens, five fields: "0 9 1 1,4,7,10 *" is the first morning of each quarter. Empty: only when an
	// operator or a responder orders one.
	Cron string `mapstructure:"cron"`
	// Zone is the time zone of Cron and of the working hours, like Europe/Berlin.
	Zone string `mapstructure:"time_zone" default:"UTC"`
	// Dir is where snapshots are kept. Back it up with the ledger. Empty: there are no campaigns.
	Dir string `mapstructure:"dir" path:"yes"`
	// WorkFrom and WorkTo are the hours of the day in which a request is no surprise.
	WorkFrom int `mapstructure:"work_from" default:"8"`
	WorkTo   int `mapstructure:"work_to" default:"18"`
}

func (r Recertification) validate(v *validation) {
	if r.Dir == "" {
		if r.Cron != "" {
			v.wrong("dir", "is missing", "campaigns need a directory for their snapshots")
		}
		return
	}
	if _, err := time.LoadLocation(r.Zone); r.Zone == "" {
		v.wrong("time_zone", "is missing", "name one, like Europe/Berlin or UTC")
	} else if err != nil {
		v.wrong("time_zone", fmt.Sprintf("%q: %v", r.Zone, err), "name one like Europe/Berlin or UTC")
	} else if r.Cron != "" {
		if _, err := schedule.Parse(r.Cron, r.Zone); err != nil {
			v.wrong("cron", err.Error(), "")
		}
	}
	if r.WorkFrom < 0 || r.WorkTo > 24 || r.WorkFrom >= r.WorkTo {
		v.wrong("work_from", "and work_to must be hours of the day, the first before the second", "")
	}
}

// Hours are the working hours. The settings must be valid.
func (r Recertification) Hours() (recert.Hours, error) {
	zone, err := time.LoadLocation(r.Zone)
	if err != nil {
		return recert.Hours{}, fmt.Errorf("recertification.time_zone: %w", err)
	}
	return recert.Hours{Zone: zone, From: r.WorkFrom, To: r.WorkTo}, nil
}

// Vault is how the daemon reaches Vault. Nothing is read from VAULT_* variables.
type Vault struct {
	// Address is https://host:port; plain http is for a loopback address only.
	Address string `mapstructure:"address" need:"where Vault is, like https://vault.example.com:8200"`
	// CAFile is PEM of the CAs that may vouch for Address; the system's are not asked.
	CAFile string `mapstructure:"ca_file" path:"yes"`
	// Namespace is of Vault Enterprise; empty: the root namespace.
	Namespace string `mapstructure:"namespace"`
	// Policy is the name of the daemon's policy in Vault.
	Policy string `mapstructure:"policy" default:"breakglassd" need:"the name under which deploy/vault/setup.sh loaded the policy"`
	// Auth is how the daemon gets its token.
	Auth VaultAuth `mapstructure:"auth"`
	// Timeout is of each call but signing.
	Timeout time.Duration `mapstructure:"timeout" default:"5s" check:"1ms..1m"`
	// SignTimeout is of the one signing call; after it the outcome is looked up, and the call is never made again.
	SignTimeout time.Duration `mapstructure:"sign_timeout" default:"15s" check:"1ms..1m"`
}

func (x Vault) validate(v *validation) {
	switch u, err := url.Parse(x.Address); {
	case x.Address == "":
	case err != nil || u.Host == "" || u.Scheme != "https" && (u.Scheme != "http" || !text.Loopback(u.Hostname())):
		v.wrong("address", fmt.Sprintf("%q is not like https://vault.example.com:8200 (plain http is for a loopback address only)",
			x.Address), "")
	case u.Scheme == "https":
		v.need("ca_file", x.CAFile, "the CA that may vouch for Vault's address, in PEM")
	}
}

// VaultAuth is how the daemon gets its Vault token.
type VaultAuth struct {
	Method string `mapstructure:"method" default:"approle" check:"approle|token_file"`
	// Mount is the path of the AppRole engine.
	Mount  string `mapstructure:"mount" default:"approle"`
	RoleID string `mapstructure:"role_id"` // of the AppRole
	// SecretIDFile is of the AppRole; it is read at every login.
	SecretIDFile string `mapstructure:"secret_id_file" path:"yes"`
	// TokenFile has the token of the method token_file; another program, such as Vault Agent, keeps it up to date.
	TokenFile string `mapstructure:"token_file" path:"yes"`
}

func (a VaultAuth) validate(v *validation) {
	switch a.Method {
	case "approle":
		v.need("mount", a.Mount, "the path of the AppRole engine, like approle")
		v.need("role_id", a.RoleID, "deploy/vault/setup.sh prints it")
		v.need("secret_id_file", a.SecretIDFile, "the file with the AppRole's secret id")
		if a.TokenFile != "" {
			v.wrong("token_file", "does not go with method approle", "choose one")
		}
	case "token_file":
		v.need("token_file", a.TokenFile, "the file with the token")
		if a.RoleID != "" || a.SecretIDFile != "" {
			v.wrong("role_id", "does not go with method token_file", "choose one")
		}
	}
}

// Cluster is one cluster of the access policy. The daemon's own way there may differ from people's, for instance inside a
// private network.
type Cluster struct {
	// ID is the cluster's id in the access policy.
	ID string `mapstructure:"id" need:"the cluster's id in the access policy"`
	// KubeconfigFile is the daemon's own credential: see policies/kubernetes.
	KubeconfigFile string `mapstructure:"kubeconfig_file" path:"yes" need:"the daemon's own credential: see policies/kubernetes"`
	// CAFile is PEM, put into people's kubeconfigs; default: the one in KubeconfigFile.
	CAFile string `mapstructure:"ca_file" path:"yes"`
	// PeopleProxyURL and PeopleTLSServerName are put into people's kubeconfigs as well, as proxy-url and tls-server-name.
	PeopleProxyURL      string `mapstructure:"people_proxy_url"`
	PeopleTLSServerName string `mapstructure:"people_tls_server_name"`

	// VaultMount is the cluster's own PKI mount.
	VaultMount string `mapstructure:"vault_mount" when:"vault" need:"the cluster's PKI mount; deploy/vault/setup.sh prints it"`
	// IssuerID is the CA in VaultMount.
	IssuerID string `mapstructure:"vault_issuer_id" when:"vault" need:"the id of the CA in Vault; deploy/vault/setup.sh prints it"`
	// MaxTTL is the longest lifetime over the cluster's profiles, as given to deploy/vault/setup.sh.
	MaxTTL time.Duration `mapstructure:"vault_max_ttl"`

	// APIServers has the https address of each API server; default: the one in KubeconfigFile.
	APIServers []string `mapstructure:"api_servers"`
	// WebhookTokenFile has the token of the API servers; two while it is replaced.
	WebhookTokenFile string `mapstructure:"webhook_token_file" path:"yes"`
	// WebhookClientNames are the names in the client certificates of the API servers: CN or DNS name.
	WebhookClientNames []string `mapstructure:"webhook_client_names"`
	// WebhookClientCAFile is PEM of the CAs that vouch for these names, and for no other cluster's. Default: webhooks.client_ca_file.
	WebhookClientCAFile string `mapstructure:"webhook_client_ca_file" path:"yes"`

	// ScanKubeconfigFile is the credential with which recertification looks at the cluster; default: KubeconfigFile.
	ScanKubeconfigFile string `mapstructure:"scan_kubeconfig_file" path:"yes"`
	// ScanFiles are copies of what recertification cannot read from the API: manifests of the control plane's static pods, or
	// their command lines. They are read for every scan.
	ScanFiles []string `mapstructure:"scan_files" path:"yes"`
	// AuthenticationConfigFile is a copy of the API server's structured authentication configuration, for the same.
	AuthenticationConfigFile string `mapstructure:"authentication_config_file" path:"yes"`

	// NextIssuerID is the CA that a rotation goes to, as `breakglass ca plan` says.
	NextIssuerID string `mapstructure:"vault_next_issuer_id"`
	// CAChecks is what the checks of the CAs look at beside Vault and the API servers.
	CAChecks CAChecks `mapstructure:"ca_checks"`
}

// PeoplesWay is how people reach the cluster beside its address.
func (c Cluster) PeoplesWay() breakglass.Way {
	return breakglass.Way{ProxyURL: c.PeopleProxyURL, TLSServerName: c.PeopleTLSServerName}
}

// HasWebhook reports whether the cluster's API servers can call the daemon.
func (c Cluster) HasWebhook() bool { return c.WebhookTokenFile != "" || len(c.WebhookClientNames) > 0 }

func (c Cluster) validate(v *validation) {
	for j, server := range c.APIServers {
		if _, err := api.Address(server); err != nil || !strings.HasPrefix(server, "https://") {
			v.wrong(fmt.Sprintf("api_servers[%d]", j), fmt.Sprintf("%q is not an address like https://10.0.0.1:6443", server), "")
		} else if slices.Contains(c.APIServers[:j], server) {
			v.wrong(fmt.Sprintf("api_servers[%d]", j), fmt.Sprintf("%q is there twice", server), "")
		}
	}
	if err := cluster.PeopleWay(c.PeoplesWay()); err != nil {
		v.wrong("people_proxy_url", fmt.Sprintf("or people_tls_server_name: %v", err), "")
	}
	c.CAChecks.check(v, c.APIServers)
	hooks := v.config.Webhooks
	if c.HasWebhook() && hooks.off() {
		v.wrong("webhook_token_file", "and webhook_client_names need webhooks.address, where the API servers call", "")
	}
	switch named := len(c.WebhookClientNames) > 0; {
	case named && c.WebhookClientCAFile == "" && hooks.ClientCAFile == "":
		v.wrong("webhook_client_names", "need webhook_client_ca_file: no CA vouches for these names", "")
	case named && c.WebhookClientCAFile == "" && v.config.clientNames() > 1:
		v.wrong("webhook_client_ca_file", "is needed where several clusters have webhook_client_names: "+
			"with one file for all, the CA of one cluster could sign the names of another", "")
	case !named && c.WebhookClientCAFile != "":
		v.wrong("webhook_client_names", "are missing: webhook_client_ca_file vouches for them", "")
	}
	if v.vault && c.MaxTTL < time.Minute {
		v.wrong("vault_max_ttl", fmt.Sprintf("%s is under a minute: it is the longest lifetime over the cluster's profiles, as given to "+
			"deploy/vault/setup.sh", c.MaxTTL), "")
	}
}

// clientNames counts the clusters whose API servers prove themselves with a client certificate.
func (c *Config) clientNames() int {
	n := 0
	for _, cl := range c.Clusters {
		if len(cl.WebhookClientNames) > 0 {
			n++
		}
	}
	return n
}

// CAChecks names what the checks of a cluster's CAs look at beside Vault and the API servers. All of it may be left out; what
// is not named is not looked at.
type CAChecks struct {
	Kubelets []string `mapstructure:"kubelets"` // host:10250
	Etcd     []string `mapstructure:"etcd"`     // host:2379
	// EtcdCAFiles are PEM; they must not be the client CA.
	EtcdCAFiles []string `mapstructure:"etcd_ca_files" path:"yes"`
	// KubeletCAFiles are PEM; they must not be ours.
	KubeletCAFiles []string `mapstructure:"kubelet_ca_files" path:"yes"`
	// ClientCAFiles are PEM: client CAs that are expected beside ours, such as the cluster's own.
	ClientCAFiles []string `mapstructure:"client_ca_files" path:"yes"`
	// KubeconfigFiles are those whose pinned CA is compared with what the API servers show.
	KubeconfigFiles []string `mapstructure:"kubeconfig_files" path:"yes"`
	// BundleFile is a copy of the client-CA bundle as it is meant to be on every node.
	BundleFile string `mapstructure:"bundle_file" path:"yes"`
	// BundleFiles are copies for API servers whose bundle is not that one.
	BundleFiles []BundleCopy `mapstructure:"bundle_files"`
	// NodeBundleFile and NodeClusterCAFile are where files are on the control-plane nodes, for the commands that `breakglass ca plan`
	// prints: the client-CA bundle, which --client-ca-file names, and the cluster's own client CA, which every bundle holds. Default:
	// as deploy/kube-apiserver makes them on a cluster of kubeadm.
	NodeBundleFile    string `mapstructure:"node_bundle_file"`
	NodeClusterCAFile string `mapstructure:"node_cluster_ca_file"`
}

// BundleCopy is a copy of the client-CA bundle of one API server.
type BundleCopy struct {
	APIServer string `mapstructure:"api_server"` // one of the cluster's api_servers
	File      string `mapstructure:"file" path:"yes" need:"the copy of the bundle of that API server"`
}

// nodePath is what a path may look like that is put into commands for root.
var nodePath = regexp.MustCompile(`^/[A-Za-z0-9._/-]+$`)

// check reports what is wrong with the checks of a cluster with these API servers.
func (x CAChecks) check(v *validation, servers []string) {
	for _, p := range []struct{ name, path string }{{"node_bundle_file", x.NodeBundleFile}, {"node_cluster_ca_file", x.NodeClusterCAFile}} {
		if p.path != "" && !nodePath.MatchString(p.path) {
			v.wrong("ca_checks."+p.name, fmt.Sprintf("%q is not the absolute path of a file on a node, of letters, digits and . _ - / only: it "+
				"becomes part of "+
				"commands that an operator runs as root", p.path), "")
		}
	}
	for i, b := range x.BundleFiles {
		at := fmt.Sprintf("ca_checks.bundle_files[%d].api_server", i)
		if !slices.Contains(servers, b.APIServer) {
			v.wrong(at, fmt.Sprintf("%q is not one of the cluster's api_servers", b.APIServer), "")
		}
		if slices.ContainsFunc(x.BundleFiles[:i], func(other BundleCopy) bool { return other.APIServer == b.APIServer }) {
			v.wrong(at, fmt.Sprintf("%q is there twice", b.APIServer), "")
		}
	}
}

// Slack is the Slack app: see deploy/slack.
type Slack struct {
	// Enabled is false where people use the command line only.
	Enabled bool `mapstructure:"enabled" default:"false"`
	// AppID is A…; commands of another app are refused.
	AppID string `mapstructure:"app_id" need:"the app's id, like A012ABCD345"`
	// TeamIDs are T…: the workspaces whose people may send commands.
	TeamIDs []string `mapstructure:"team_ids" need:"name the workspaces that may send commands, like T012ABCD345"`
	// EnterpriseID is E…, when the workspaces belong to an Enterprise Grid.
	EnterpriseID string `mapstructure:"enterprise_id"`
	// Channel is C…: where requests are shown for approval.
	Channel string `mapstructure:"channel" need:"the id of the approval channel, like C012ABCD345"`
	// BotTokenFile has the token xoxb-….
	BotTokenFile string `mapstructure:"bot_token_file" path:"yes" need:"the file with the bot token (xoxb-…)"`
	// SigningSecretFile has the secret by which the daemon knows that Slack is calling.
	SigningSecretFile string `mapstructure:"signing_secret_file" path:"yes" need:"the file with the app's signing secret"`
	// APIURL ends in a slash; empty: Slack's own.
	APIURL string `mapstructure:"api_url"`
}

func (s Slack) off() bool { return !s.Enabled }

func (s Slack) validate(v *validation) {
	if s.APIURL == "" {
		return
	}
	if u, err := url.Parse(s.APIURL); err != nil || !strings.HasSuffix(u.Path, "/") || u.Scheme != "https" && !text.Loopback(u.Hostname()) {
		v.wrong("api_url", fmt.Sprintf("%q is not an https address that ends in a slash", s.APIURL), "")
	}
}

// Log is the log's level and form.
type Log struct {
	Level  string `mapstructure:"level" default:"info" check:"debug|info|warn|error"`
	Format string `mapstructure:"format" default:"json" check:"json|text"`
}
