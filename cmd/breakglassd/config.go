package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/spf13/viper"

	"github.com/breakglassd/breakglass/internal/api"
	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/cluster"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/recert"
	"github.com/breakglassd/breakglass/internal/record"
	"github.com/breakglassd/breakglass/internal/schedule"
	"github.com/breakglassd/breakglass/internal/secret"
	"github.com/breakglassd/breakglass/internal/strictyaml"
	"github.com/breakglassd/breakglass/internal/text"
)

// Config is the daemon's configuration. config.example.yaml shows every key with its meaning; a test keeps the two the same.
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
	PolicyFile string `mapstructure:"policy_file"`
	// Vault signs.
	Vault Vault `mapstructure:"vault"`
	// Clusters says how to reach each cluster of the access policy.
	Clusters []Cluster `mapstructure:"clusters"`
	// Webhooks is where API servers reach the daemon: the deny webhook and audit events. Optional.
	Webhooks Webhooks `mapstructure:"webhooks"`
	// Sessions is what is kept of audit events, and how grants are looked through after their end. Optional.
	Sessions Sessions `mapstructure:"sessions"`
	// Checks is when the CAs are checked.
	Checks Checks `mapstructure:"checks"`
	// Recertification is when campaigns open, and where their snapshots are. Optional.
	Recertification recert.Settings `mapstructure:"recertification"`
	// RecertIgnoreFile lists findings of recertification that are known and accepted, each with a reason and an end.
	RecertIgnoreFile string `mapstructure:"recert_ignore_file"`
	// Slack is optional: without it, people ask and approve on the command line.
	Slack Slack `mapstructure:"slack"`
	// Log is how the daemon writes its log, on standard error.
	Log Log `mapstructure:"log"`
}

// Listen is the listener for people and Slack. Without a certificate only a loopback address is taken.
type Listen struct {
	Address  string `mapstructure:"address"`       // host:port; port 0 takes a free one
	CertFile string `mapstructure:"tls_cert_file"` // PEM, leaf first; read again on SIGHUP
	KeyFile  string `mapstructure:"tls_key_file"`  // PEM; read again on SIGHUP
}

// Health is a plain HTTP listener for machines.
type Health struct {
	Address string `mapstructure:"address"` // host:port; empty switches it off
}

// Webhooks is the listener for API servers. Each proves itself with its cluster's token, or with a client certificate of its own.
type Webhooks struct {
	Address  string `mapstructure:"address"`       // host:port; empty switches it off
	CertFile string `mapstructure:"tls_cert_file"` // PEM, leaf first; read again on SIGHUP. Default: that of listen
	KeyFile  string `mapstructure:"tls_key_file"`  // PEM; read again on SIGHUP. Default: that of listen
	// ClientCAFile is the default of the clusters' WebhookClientCAFile. It may be given where one cluster has client names.
	ClientCAFile string `mapstructure:"client_ca_file"`
}

// Sessions is the database of audit events and session reports.
type Sessions struct {
	Path string        `mapstructure:"path"` // made when missing; empty: no session is reported or swept
	Keep time.Duration `mapstructure:"keep"` // how long events, heartbeats and reports are kept
	// Grace is how late audit events may come: a grant is looked through so long after its end.
	Grace time.Duration `mapstructure:"grace"`
}

// Ledger names the ledger's database and its signing key. `breakglassd init` makes both.
type Ledger struct {
	Path    string `mapstructure:"path"`     // the database, on a local disk
	KeyFile string `mapstructure:"key_file"` // its private key; nobody but its owner may read it
	Origin  string `mapstructure:"origin"`   // the ledger's name in checkpoints and key; never changes in a ledger's life
}

// Vault is how the daemon reaches Vault. Nothing is read from VAULT_* variables.
type Vault struct {
	Address     string        `mapstructure:"address"`      // https://host:port; plain http for a loopback address only
	CAFile      string        `mapstructure:"ca_file"`      // PEM of the CAs that may vouch for it; the system's are not asked
	Namespace   string        `mapstructure:"namespace"`    // Vault Enterprise; empty: the root namespace
	Policy      string        `mapstructure:"policy"`       // name of the daemon's policy in Vault
	Auth        VaultAuth     `mapstructure:"auth"`         // how the daemon gets its token
	Timeout     time.Duration `mapstructure:"timeout"`      // of each call but signing
	SignTimeout time.Duration `mapstructure:"sign_timeout"` // of the one signing call; then its outcome is looked up, never tried again
}

// VaultAuth is how the daemon gets its Vault token.
type VaultAuth struct {
	Method       string `mapstructure:"method"`         // approle or token_file
	Mount        string `mapstructure:"mount"`          // approle: path of the engine
	RoleID       string `mapstructure:"role_id"`        // approle
	SecretIDFile string `mapstructure:"secret_id_file"` // approle; read at every login
	TokenFile    string `mapstructure:"token_file"`     // token_file: kept up to date by somebody else, such as Vault Agent
}

// Cluster is one cluster of the access policy. The daemon's own way there may differ from people's, for instance inside a
// private network.
type Cluster struct {
	ID             string `mapstructure:"id"`              // as in the access policy
	KubeconfigFile string `mapstructure:"kubeconfig_file"` // the daemon's own credential: see policies/kubernetes
	// ScanKubeconfigFile is the credential with which recertification looks at the cluster; default: KubeconfigFile.
	ScanKubeconfigFile string `mapstructure:"scan_kubeconfig_file"`
	// ScanFiles are copies of what recertification cannot read from the API: manifests of the control plane's static pods, or
	// their command lines. They are read for every scan.
	ScanFiles []string `mapstructure:"scan_files"`
	// AuthenticationConfigFile is a copy of the API server's structured authentication configuration, for the same.
	AuthenticationConfigFile string `mapstructure:"authentication_config_file"`

	CAFile string `mapstructure:"ca_file"` // PEM, put into people's kubeconfigs; default: the one in KubeconfigFile
	// PeopleProxyURL and PeopleTLSServerName are put into people's kubeconfigs as well, as proxy-url and tls-server-name.
	PeopleProxyURL      string `mapstructure:"people_proxy_url"`
	PeopleTLSServerName string `mapstructure:"people_tls_server_name"`

	VaultMount string `mapstructure:"vault_mount"`     // the cluster's own PKI mount
	IssuerID   string `mapstructure:"vault_issuer_id"` // the CA in it
	// longest lifetime over the cluster's profiles, as given to deploy/vault/setup.sh
	MaxTTL time.Duration `mapstructure:"vault_max_ttl"`

	NextIssuerID string   `mapstructure:"vault_next_issuer_id"` // the CA that a rotation goes to, as `breakglass ca plan` says
	CAChecks     CAChecks `mapstructure:"ca_checks"`            // what the checks of the CAs look at beside Vault and the API servers

	APIServers         []string `mapstructure:"api_servers"`          // https address of each API server; default: the one in KubeconfigFile
	WebhookTokenFile   string   `mapstructure:"webhook_token_file"`   // their token; two while it is replaced
	WebhookClientNames []string `mapstructure:"webhook_client_names"` // names in their client certificates: CN or DNS name
	// WebhookClientCAFile is PEM of the CAs that vouch for these names, and for no other cluster's. Default: webhooks.client_ca_file.
	WebhookClientCAFile string `mapstructure:"webhook_client_ca_file"`
}

// CAChecks names what the checks of a cluster's CAs look at beside Vault and the API servers. All of it may be left out; what
// is not named is not looked at.
type CAChecks struct {
	Kubelets        []string `mapstructure:"kubelets"`         // host:10250
	Etcd            []string `mapstructure:"etcd"`             // host:2379
	EtcdCAFiles     []string `mapstructure:"etcd_ca_files"`    // PEM; they must not be the client CA
	KubeletCAFiles  []string `mapstructure:"kubelet_ca_files"` // PEM; they must not be ours
	ClientCAFiles   []string `mapstructure:"client_ca_files"`  // PEM; client CAs that are expected beside ours, such as the cluster's own
	KubeconfigFiles []string `mapstructure:"kubeconfig_files"` // whose pinned CA is compared with what the API servers show
	BundleFile      string   `mapstructure:"bundle_file"`      // a copy of the client-CA bundle as it is meant to be on every node
	// BundleFiles are copies for API servers whose bundle is not that one.
	BundleFiles []BundleCopy `mapstructure:"bundle_files"`
	// Where the files are on the control-plane nodes, for the commands that `breakglass ca plan` prints. Default: as deploy/kube-apiserver
	// makes them on a cluster of kubeadm.
	NodeBundleFile    string `mapstructure:"node_bundle_file"`     // the client-CA bundle: what --client-ca-file names
	NodeClusterCAFile string `mapstructure:"node_cluster_ca_file"` // the cluster's own client CA, which every bundle holds
}

// BundleCopy is a copy of the client-CA bundle of one API server.
type BundleCopy struct {
	APIServer string `mapstructure:"api_server"` // one of the cluster's api_servers
	File      string `mapstructure:"file"`
}

// nodePath is what a path may look like that is put into commands for root.
var nodePath = regexp.MustCompile(`^/[A-Za-z0-9._/-]+$`)

func (x CAChecks) validate(key string, servers []string, add func(key, format string, args ...any)) {
	for _, p := range []struct{ name, path string }{{"node_bundle_file", x.NodeBundleFile}, {"node_cluster_ca_file", x.NodeClusterCAFile}} {
		if p.path != "" && !nodePath.MatchString(p.path) {
			add(key+p.name, "%q is not the absolute path of a file on a node, of letters, digits and . _ - / only: it becomes part of commands "+
				"that somebody runs as root", p.path)
		}
	}
	for i, b := range x.BundleFiles {
		at := fmt.Sprintf("%sbundle_files[%d].", key, i)
		if !slices.Contains(servers, b.APIServer) {
			add(at+"api_server", "%q is not one of the cluster's api_servers", b.APIServer)
		}
		if b.File == "" {
			add(at+"file", "is missing: the copy of the bundle of that API server")
		}
		if slices.ContainsFunc(x.BundleFiles[:i], func(other BundleCopy) bool { return other.APIServer == b.APIServer }) {
			add(at+"api_server", "%q is there twice", b.APIServer)
		}
	}
}

// Checks is when the CAs are checked.
type Checks struct {
	CACron string `mapstructure:"ca_cron"`   // five fields
	Zone   string `mapstructure:"time_zone"` // of ca_cron
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

// peoplesWay is how people reach the cluster beside its address.
func (c Cluster) peoplesWay() breakglass.Way {
	return breakglass.Way{ProxyURL: c.PeopleProxyURL, TLSServerName: c.PeopleTLSServerName}
}

// webhooks reports whether the cluster's API servers can call the daemon.
func (c Cluster) webhooks() bool { return c.WebhookTokenFile != "" || len(c.WebhookClientNames) > 0 }

// Slack is the Slack app: see deploy/slack.
type Slack struct {
	Enabled           bool     `mapstructure:"enabled"`             // false: people use the command line only
	AppID             string   `mapstructure:"app_id"`              // A…; commands of another app are refused
	TeamIDs           []string `mapstructure:"team_ids"`            // T…; workspaces whose people may send commands
	EnterpriseID      string   `mapstructure:"enterprise_id"`       // E…, when the workspaces belong to an Enterprise Grid
	Channel           string   `mapstructure:"channel"`             // C…; where requests are shown for approval
	BotTokenFile      string   `mapstructure:"bot_token_file"`      // xoxb-…
	SigningSecretFile string   `mapstructure:"signing_secret_file"` // by which the daemon knows that Slack is calling
	APIURL            string   `mapstructure:"api_url"`             // ends in a slash; empty: Slack's own
}

// Log is the log's level and form.
type Log struct {
	Level  string `mapstructure:"level"`  // debug, info, warn or error
	Format string `mapstructure:"format"` // json or text
}

// defaults holds a value for every key of a single value: viper takes only keys it knows from the environment.
func defaults() map[string]any {
	return map[string]any{
		"listen.address": ":8443", "listen.tls_cert_file": "", "listen.tls_key_file": "", "public_urls": []string{},
		"webhooks.address": "", "webhooks.tls_cert_file": "", "webhooks.tls_key_file": "", "webhooks.client_ca_file": "",
		"checks.ca_cron": "17 * * * *", "checks.time_zone": "UTC",
		"recert_ignore_file": "", "recertification.cron": "", "recertification.time_zone": "UTC", "recertification.dir": "",
		"recertification.work_from": 8, "recertification.work_to": 18,
		"sessions.path": "", "sessions.keep": "2160h", "sessions.grace": "45s",
		"health.address": "127.0.0.1:8081", "ledger.path": "", "ledger.key_file": "", "ledger.origin": "", "policy_file": "",
		"vault.address": "", "vault.ca_file": "", "vault.namespace": "", "vault.policy": "breakglassd", "vault.timeout": "5s",
		"vault.sign_timeout": "15s",
		"vault.auth.method":  "approle", "vault.auth.mount": "approle", "vault.auth.role_id": "", "vault.auth.secret_id_file": "",
		"vault.auth.token_file": "",
		"slack.enabled":         false, "slack.app_id": "", "slack.team_ids": []string{}, "slack.enterprise_id": "", "slack.channel": "",
		"slack.bot_token_file":      "",
		"slack.signing_secret_file": "", "slack.api_url": "", "log.level": "info", "log.format": "json",
	}
}

// ConfigError is everything that is wrong with a configuration, in the order of the file.
type ConfigError struct{ Problems []string }

// Error lists all problems, one a line.
func (e *ConfigError) Error() string {
	return "the configuration has mistakes:\n  " + strings.Join(e.Problems, "\n  ")
}

// loadConfig reads, merges and checks a configuration file. Relative paths in it are relative to the file.
func loadConfig(path string) (*Config, error) {
	text, err := readFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration (name it with --config; config.example.yaml shows every key): %w", err)
	}
	return parseConfig(path, text)
}

// parseConfig is loadConfig for a text that was read from path.
func parseConfig(path string, text []byte) (*Config, error) {
	if bad := checkYAML(path, text); len(bad) > 0 {
		return nil, &ConfigError{bad}
	}
	v := viper.New()
	v.SetConfigType("yaml")
	v.SetEnvPrefix("BREAKGLASS")
	v.SetEnvKeyReplacer(strings.NewReplacer(".", "_"))
	v.AutomaticEnv()
	for key, value := range defaults() {
		v.SetDefault(key, value)
	}
	if err := v.ReadConfig(bytes.NewReader(text)); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	var c Config
	err := v.UnmarshalExact(&c, func(d *mapstructure.DecoderConfig) {
		d.WeaklyTypedInput = false
		d.DecodeHook = mapstructure.ComposeDecodeHookFunc(mapstructure.StringToTimeDurationHookFunc(), mapstructure.StringToSliceHookFunc(","),
			envBool, envInt)
	})
	if err != nil {
		return nil, &ConfigError{[]string{fmt.Sprintf("%s and the environment: %v", path, err)}}
	}
	if bad := append(c.resolve(filepath.Dir(path)), c.Validate(true)...); len(bad) > 0 {
		return nil, &ConfigError{bad}
	}
	return &c, nil
}

// envBool turns the text of an environment variable into a bool. In the file, checkYAML has refused text already.
func envBool(from, to reflect.Type, data any) (any, error) {
	if from.Kind() != reflect.String || to.Kind() != reflect.Bool {
		return data, nil
	}
	switch data {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return nil, fmt.Errorf("%q is neither true nor false", data)
}

// envInt turns the text of an environment variable into a number, as envBool does into a bool.
func envInt(from, to reflect.Type, data any) (any, error) {
	if from.Kind() != reflect.String || to.Kind() != reflect.Int {
		return data, nil
	}
	n, err := strconv.Atoi(fmt.Sprint(data))
	if err != nil {
		return nil, fmt.Errorf("%q is not a number", data)
	}
	return n, nil
}

// checkYAML finds what viper would pass over: unknown and repeated keys, values of a wrong type, a second document.
func checkYAML(name string, text []byte) []string {
	var r strictyaml.Reader
	if root, ok := r.Document(text, "the configuration", "start from config.example.yaml"); ok {
		checkValue(root, reflect.TypeFor[Config]())
	}
	var bad *strictyaml.Error
	if !errors.As(r.Err(name), &bad) {
		return nil
	}
	return bad.Lines()
}

// checkValue checks that a value can be one of type t.
func checkValue(v strictyaml.Value, t reflect.Type) {
	switch {
	case t == reflect.TypeFor[time.Duration]():
		if text, ok := v.Plain("a duration with a unit, like 30s or 15m"); ok {
			if _, err := time.ParseDuration(text); err != nil {
				v.Wrong("%s is not a duration; write it with a unit, like 30s or 15m", strictyaml.Shown(text))
			}
		}
	case t.Kind() == reflect.Struct:
		var keys []string
		fields := map[string]reflect.Type{}
		for _, f := range reflect.VisibleFields(t) {
			key := f.Tag.Get("mapstructure")
			keys, fields[key] = append(keys, key), f.Type
		}
		o, _ := v.Object(keys...)
		for key, t := range fields {
			checkValue(o.At(key), t)
		}
	case t.Kind() == reflect.Slice:
		for _, item := range v.Items() {
			checkValue(item, t.Elem())
		}
	case t.Kind() == reflect.Int:
		v.Integer(math.MinInt, math.MaxInt)
	case t.Kind() == reflect.Bool:
		v.Boolean()
	default:
		v.Plain("text (in quotes)")
	}
}

// credentialsVar is where systemd puts the files of LoadCredential=.
const credentialsVar = "$CREDENTIALS_DIRECTORY/"

// resolve turns every path into one that can be opened from anywhere this process may be.
func (c *Config) resolve(base string) (bad []string) {
	paths := []*string{&c.Listen.CertFile, &c.Listen.KeyFile, &c.Ledger.Path, &c.Ledger.KeyFile, &c.PolicyFile, &c.Vault.CAFile,
		&c.Vault.Auth.SecretIDFile, &c.Vault.Auth.TokenFile, &c.Slack.BotTokenFile, &c.Slack.SigningSecretFile,
		&c.Webhooks.CertFile, &c.Webhooks.KeyFile, &c.Webhooks.ClientCAFile, &c.Sessions.Path,
		&c.Recertification.Dir, &c.RecertIgnoreFile}
	for i := range c.Clusters {
		cl := &c.Clusters[i]
		paths = append(paths, &cl.KubeconfigFile, &cl.CAFile, &cl.WebhookTokenFile, &cl.WebhookClientCAFile, &cl.ScanKubeconfigFile,
			&cl.CAChecks.BundleFile)
		for j := range cl.CAChecks.BundleFiles {
			paths = append(paths, &cl.CAChecks.BundleFiles[j].File)
		}
		paths = append(paths, &cl.AuthenticationConfigFile)
		for _, list := range [][]string{cl.ScanFiles, cl.CAChecks.EtcdCAFiles, cl.CAChecks.KubeletCAFiles, cl.CAChecks.ClientCAFiles,
			cl.CAChecks.KubeconfigFiles} {
			for j := range list {
				paths = append(paths, &list[j])
			}
		}
	}
	for _, p := range paths {
		switch {
		case *p == "" || filepath.IsAbs(*p):
		case strings.HasPrefix(*p, credentialsVar) && os.Getenv("CREDENTIALS_DIRECTORY") == "":
			bad = append(bad, fmt.Sprintf("%s: $CREDENTIALS_DIRECTORY is not set: systemd sets it for the service (LoadCredential=); elsewhere "+
				"set it to a directory with copies", *p))
		case strings.HasPrefix(*p, credentialsVar):
			*p = filepath.Join(os.Getenv("CREDENTIALS_DIRECTORY"), strings.TrimPrefix(*p, credentialsVar))
		default:
			*p = filepath.Join(base, *p)
		}
	}
	return bad
}

// Validate reports everything that is wrong, each with its key and what to do. It reads no file. Without vault, when something
// else signs, no key of Vault is looked at.
func (c *Config) Validate(vault bool) []string {
	var bad []string
	add := func(key, format string, args ...any) { bad = append(bad, key+": "+fmt.Sprintf(format, args...)) }
	need := func(key, value, what string) {
		if value == "" {
			add(key, "is missing: %s", what)
		}
	}
	host, _, err := net.SplitHostPort(c.Listen.Address)
	switch {
	case err != nil:
		add("listen.address", "%q is not host:port", c.Listen.Address)
	case (c.Listen.CertFile == "") != (c.Listen.KeyFile == ""):
		add("listen.tls_cert_file", "goes with tls_key_file: give both")
	case c.Listen.CertFile == "" && !text.Loopback(host):
		add("listen.tls_cert_file", "is missing: without TLS only a loopback address is taken, not %q", c.Listen.Address)
	}
	if len(c.PublicURLs) == 0 && !text.Loopback(host) {
		add("public_urls", "is empty: name the address people use, like https://breakglass.example.com:8443")
	}
	for i, u := range c.PublicURLs {
		if _, err := api.Address(u); err != nil {
			add(fmt.Sprintf("public_urls[%d]", i), "%v", err)
		}
	}
	if c.Health.Address != "" {
		if _, _, err := net.SplitHostPort(c.Health.Address); err != nil {
			add("health.address", "%q is not host:port", c.Health.Address)
		}
	}
	c.validateWebhooks(add)
	if _, err := schedule.Parse(c.Checks.CACron, c.Checks.Zone); err != nil {
		add("checks.ca_cron", "%v", err)
	}
	c.validateRecertification(add)
	if c.Sessions.Path != "" && c.Sessions.Keep < 24*time.Hour {
		add("sessions.keep", "%s is under a day: a report could not be made", c.Sessions.Keep)
	}
	if c.Sessions.Path != "" && (c.Sessions.Grace < time.Second || c.Sessions.Grace > 10*time.Minute) {
		add("sessions.grace", "%s is not between 1s and 10m", c.Sessions.Grace)
	}
	need("ledger.path", c.Ledger.Path, "the ledger's database, which `breakglassd init` makes")
	need("ledger.key_file", c.Ledger.KeyFile, "the ledger's signing key, which `breakglassd init` makes")
	need("ledger.origin", c.Ledger.Origin, "the ledger's name, like breakglass.example.com/prod")
	if strings.ContainsAny(c.Ledger.Origin, " +\t\n") {
		add("ledger.origin", "%q has a blank or a plus sign", c.Ledger.Origin)
	}
	need("policy_file", c.PolicyFile, "the access policy; start from policies/access.example.yaml")
	if vault {
		c.Vault.validate(add, need)
	}
	if len(c.Clusters) == 0 {
		add("clusters", "is empty: name each cluster of the access policy")
	}
	ids := map[string]bool{}
	for i, cl := range c.Clusters {
		key := fmt.Sprintf("clusters[%d].", i)
		need(key+"id", cl.ID, "the cluster's id in the access policy")
		need(key+"kubeconfig_file", cl.KubeconfigFile, "the daemon's own credential for the cluster: see policies/kubernetes")
		if ids[cl.ID] {
			add(key+"id", "%q is there twice", cl.ID)
		}
		ids[cl.ID] = true
		for j, server := range cl.APIServers {
			if _, err := api.Address(server); err != nil || !strings.HasPrefix(server, "https://") {
				add(fmt.Sprintf("%sapi_servers[%d]", key, j), "%q is not an address like https://10.0.0.1:6443", server)
			} else if slices.Contains(cl.APIServers[:j], server) {
				add(fmt.Sprintf("%sapi_servers[%d]", key, j), "%q is there twice", server)
			}
		}
		if err := cluster.PeopleWay(cl.peoplesWay()); err != nil {
			add(key+"people_proxy_url", "or people_tls_server_name: %v", err)
		}
		cl.CAChecks.validate(key+"ca_checks.", cl.APIServers, add)
		if cl.webhooks() && c.Webhooks.Address == "" {
			add(key+"webhook_token_file", "and webhook_client_names need webhooks.address: where would the API servers call?")
		}
		switch named := len(cl.WebhookClientNames) > 0; {
		case named && cl.WebhookClientCAFile == "" && c.Webhooks.ClientCAFile == "":
			add(key+"webhook_client_names", "need webhook_client_ca_file: no CA vouches for these names")
		case named && cl.WebhookClientCAFile == "" && c.clientNames() > 1:
			add(key+"webhook_client_ca_file", "is needed where several clusters have webhook_client_names: "+
				"with one file for all, the CA of one cluster could sign the names of another")
		case !named && cl.WebhookClientCAFile != "":
			add(key+"webhook_client_names", "are missing: webhook_client_ca_file vouches for them")
		}
		if !vault {
			continue
		}
		need(key+"vault_mount", cl.VaultMount, "the cluster's PKI mount; deploy/vault/setup.sh prints it")
		need(key+"vault_issuer_id", cl.IssuerID, "the id of the CA in Vault; deploy/vault/setup.sh prints it")
		if cl.MaxTTL < time.Minute {
			add(key+"vault_max_ttl", "%s is under a minute: it is the longest lifetime over the cluster's profiles, as given to "+
				"deploy/vault/setup.sh", cl.MaxTTL)
		}
	}
	if c.Slack.Enabled {
		need("slack.app_id", c.Slack.AppID, "the app's id, like A012ABCD345")
		need("slack.channel", c.Slack.Channel, "the id of the approval channel, like C012ABCD345")
		need("slack.bot_token_file", c.Slack.BotTokenFile, "the file with the bot token (xoxb-…)")
		need("slack.signing_secret_file", c.Slack.SigningSecretFile, "the file with the app's signing secret")
		if len(c.Slack.TeamIDs) == 0 {
			add("slack.team_ids", "is empty: name the workspaces that may send commands, like T012ABCD345")
		}
	}
	if c.Slack.APIURL != "" {
		if u, err := url.Parse(c.Slack.APIURL); err != nil || !strings.HasSuffix(u.Path, "/") || u.Scheme != "https" &&
			!text.Loopback(u.Hostname()) {
			add("slack.api_url", "%q is not an https address that ends in a slash", c.Slack.APIURL)
		}
	}
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, c.Log.Level) {
		add("log.level", "%q is not debug, info, warn or error", c.Log.Level)
	}
	if !slices.Contains([]string{"json", "text"}, c.Log.Format) {
		add("log.format", "%q is not json or text", c.Log.Format)
	}
	return bad
}

func (c *Config) validateRecertification(add func(key, format string, args ...any)) {
	for _, bad := range c.Recertification.Check() {
		key, what, _ := strings.Cut(bad, " ")
		add(strings.TrimSuffix(key, ":"), "%s", what)
	}
}

func (c *Config) validateWebhooks(add func(key, format string, args ...any)) {
	w := c.Webhooks
	if w.Address == "" {
		if w.CertFile != "" || w.KeyFile != "" || w.ClientCAFile != "" {
			add("webhooks.address", "is missing: the files beside it are for nothing")
		}
		return
	}
	_, _, err := net.SplitHostPort(w.Address)
	switch {
	case err != nil:
		add("webhooks.address", "%q is not host:port", w.Address)
	case (w.CertFile == "") != (w.KeyFile == ""):
		add("webhooks.tls_cert_file", "goes with tls_key_file: give both")
	case w.CertFile == "" && c.Listen.CertFile == "":
		add("webhooks.tls_cert_file", "is missing: kube-apiserver sends its token, or its certificate, over TLS only")
	}
	if !slices.ContainsFunc(c.Clusters, Cluster.webhooks) {
		add("webhooks.address", "is there, but no cluster has webhook_token_file or webhook_client_names: nobody could call")
	}
}

func (v Vault) validate(add func(key, format string, args ...any), need func(key, value, what string)) {
	u, err := url.Parse(v.Address)
	switch {
	case v.Address == "":
		need("vault.address", "", "where Vault is, like https://vault.example.com:8200")
	case err != nil || u.Host == "" || u.Scheme != "https" && (u.Scheme != "http" || !text.Loopback(u.Hostname())):
		add("vault.address", "%q is not like https://vault.example.com:8200 (plain http is for a loopback address only)", v.Address)
	case u.Scheme == "https":
		need("vault.ca_file", v.CAFile, "the CA that may vouch for Vault's address, in PEM")
	}
	need("vault.policy", v.Policy, "the name under which deploy/vault/setup.sh loaded the policy")
	a := v.Auth
	switch a.Method {
	case "approle":
		need("vault.auth.mount", a.Mount, "the path of the AppRole engine, like approle")
		need("vault.auth.role_id", a.RoleID, "deploy/vault/setup.sh prints it")
		need("vault.auth.secret_id_file", a.SecretIDFile, "the file with the AppRole's secret id")
		if a.TokenFile != "" {
			add("vault.auth.token_file", "does not go with method approle: choose one")
		}
	case "token_file":
		need("vault.auth.token_file", a.TokenFile, "the file with the token")
		if a.RoleID != "" || a.SecretIDFile != "" {
			add("vault.auth.role_id", "does not go with method token_file: choose one")
		}
	default:
		add("vault.auth.method", "%q is not approle or token_file", a.Method)
	}
	if v.Timeout <= 0 || v.Timeout > time.Minute {
		add("vault.timeout", "%s is not between 0 and 1m", v.Timeout)
	}
	if v.SignTimeout <= 0 || v.SignTimeout > time.Minute {
		add("vault.sign_timeout", "%s is not between 0 and 1m", v.SignTimeout)
	}
}

// hostOf is the host name in an address that Validate has seen.
func hostOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

// clientEnv are the variables of the people's command line, which one shell may have beside the daemon's.
var clientEnv = []string{"BREAKGLASS_SERVER", "BREAKGLASS_CA_FILE", "BREAKGLASS_IDENTITY", "BREAKGLASS_LEDGER_KEY", "BREAKGLASS_CONFIG"}

// unknownEnv lists the variables that look like keys of the configuration and are none, or are none that can be set there.
func unknownEnv(environ []string) []string {
	var out []string
	for _, kv := range environ {
		name, _, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, "BREAKGLASS_") || slices.Contains(clientEnv, name) {
			continue
		}
		known := false
		for key := range defaults() {
			known = known || name == "BREAKGLASS_"+strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
		}
		if !known {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// check holds the access policy against the configuration, and reports everything that does not fit.
func (c *Config) check(p *policy.Policy, vault bool) []string {
	var bad []string
	for i, cl := range c.Clusters {
		key := fmt.Sprintf("clusters[%d]", i)
		if _, ok := p.Cluster(cl.ID); !ok {
			bad = append(bad, fmt.Sprintf("%s.id: the access policy knows no cluster %q: correct the id, or add it there", key, cl.ID))
		}
		for _, prof := range p.Profiles {
			if vault && slices.Contains(prof.Clusters, cl.ID) && prof.TTL.Max > cl.MaxTTL {
				bad = append(bad, fmt.Sprintf("%s.vault_max_ttl: %s is less than the %s that profile %s allows: lower that, or run "+
					"deploy/vault/setup.sh with the longer one",
					key, cl.MaxTTL, prof.TTL.Max, prof.ID))
			}
		}
	}
	for _, cl := range p.Clusters {
		if !slices.ContainsFunc(c.Clusters, func(have Cluster) bool { return have.ID == cl.ID }) {
			bad = append(bad, fmt.Sprintf("clusters: the access policy has a cluster %q that is not here: say how to reach it, and restart", cl.ID))
		}
	}
	for _, prof := range p.Profiles {
		for _, cl := range c.Clusters {
			if len(prof.Guards) > 0 && slices.Contains(prof.Clusters, cl.ID) && !cl.webhooks() {
				bad = append(bad, fmt.Sprintf("clusters: profile %s has guards, but cluster %q has no webhook_token_file or webhook_client_names: "+
					"nothing would keep its grants from anything; "+
					"set up the deny webhook (deploy/kube-apiserver), or take the guards away", prof.ID, cl.ID))
			}
		}
		if !c.Slack.Enabled && !slices.Contains(prof.Approvals.Channels, record.ChannelKey) {
			bad = append(bad, fmt.Sprintf("slack.enabled: is false, but profile %s takes approvals in Slack only: switch Slack on, or add key to "+
				"its channels", prof.ID))
		}
	}
	return bad
}

// groupsOf lists the groups that certificates for a cluster may carry by any of the policies, of which some may be nil.
func groupsOf(cluster string, known ...*policy.Policy) []string {
	var out []string
	for _, p := range known {
		if p == nil {
			continue
		}
		for _, prof := range p.Profiles {
			if g := prof.Rights.Group; g != "" && slices.Contains(prof.Clusters, cluster) && !slices.Contains(out, g) {
				out = append(out, g)
			}
		}
	}
	return out
}

// onlyOwnerWrites refuses a file that a group or everybody can write: they would decide what is in it. A file that is missing is
// for the reader to report.
func onlyOwnerWrites(key, path string) error {
	info, err := os.Stat(path)
	if err == nil && info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s: %s can be written by its group or by everybody (mode %04o): chmod go-w it, and look at who changed it", key,
			path, info.Mode().Perm())
	}
	return nil
}

// readSecret reads a secret from a file that nobody else can read. The secret is never part of an error, and the
// type keeps it out of every output. A group may read the file: that is how systemd and Kubernetes hand out credentials.
func readSecret(key, path string) (secret.Text, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("%s: %w", key, err)
	}
	if info.Mode().Perm()&0o027 != 0 {
		return "", fmt.Errorf("%s: %s can be read by others or written by its group (mode %04o): chmod 0600 it, and think about replacing the "+
			"secret", key, path, info.Mode().Perm())
	}
	text, err := readFile(path)
	if err != nil {
		return "", fmt.Errorf("%s: %w", key, err)
	}
	read := secret.Text(bytes.TrimSpace(text))
	if read == "" {
		return "", fmt.Errorf("%s: %s is empty", key, path)
	}
	return read, nil
}

// maxFile bounds every file that is read whole.
const maxFile = 1 << 20

// readFile reads a file that is not longer than maxFile.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxFile {
		return nil, fmt.Errorf("%s is longer than %d bytes: is it the right file?", path, maxFile)
	}
	return text, nil
}
