// Package devmode is the world around the daemon for `breakglassd dev`: four people with keys, a Slack workspace with a page
// where one can act as each of them, a certificate authority, and a cluster. By default all of it is embedded and up in a
// moment; with Real it is a real Vault, a real etcd and a real kube-apiserver. The daemon in the middle is the same in both
// cases, and the same as in production.
package devmode

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/real"
	memca "github.com/breakglassd/breakglass/internal/sim/ca"
	kubesim "github.com/breakglassd/breakglass/internal/sim/kube"
	slacksim "github.com/breakglassd/breakglass/internal/sim/slack"
)

// The names in the example world.
const (
	Cluster = "dev"
	Channel = "C0APPROVE"
	TeamID  = "T0ACME"
	AppID   = "A0BREAK"
	Origin  = "breakglass.example/dev"
)

// A Person of the example world.
type Person struct {
	ID, Name, Slack string
	Key             ssh.Signer
	KeyFile         string
}

// World is the running surroundings of one dev daemon. Close ends them.
type World struct {
	Dir    string // everything that is on disk
	People []Person

	Slack         *slacksim.Sim
	SlackURL      string // the page; the Web API is below it
	BotToken      string
	SigningSecret string

	Server     string // the API server's address
	ServerCA   []byte // PEM
	Kubeconfig string // file: the daemon's own credential
	// ScanKubeconfig is a file with the credential of recertification; empty: the daemon's own is used.
	ScanKubeconfig string
	Signer         breakglass.Signer // nil when a real Vault signs; see Vault
	Vault          *VaultAccess
	PolicyFile     string
	Kubectl        string // a kubectl to use, empty if there is none

	WebhookAddr      string // where the daemon must listen for the API server, which is told so before the daemon starts
	WebhookToken     string
	WebhookTokenFile string
	WebhookCert      []byte // PEM
	WebhookCertFile  string
	WebhookKeyFile   string

	closers []func()
}

// VaultAccess is how the daemon reaches a real Vault.
type VaultAccess struct {
	Address, CAFile, RoleID, SecretIDFile, Mount, IssuerID string
}

// MaxTTL is the longest lifetime in the example policy.
const MaxTTL = time.Hour

// Options for New.
type Options struct {
	Dir       string // created if needed; must be empty, or one that CanReopen
	SlackAddr string // where the workspace's page listens, on loopback
	Real      bool
	Log       *slog.Logger
	Progress  func(format string, args ...any) // what takes long, for the terminal
}

// New builds the world. The daemon is told to Slack with ConnectSlack, once it listens.
func New(ctx context.Context, o Options) (*World, error) {
	w := &World{Dir: o.Dir, BotToken: "xoxb-dev-" + random(), SigningSecret: random()}
	up := false
	defer func() {
		if !up {
			w.Close()
		}
	}()
	if err := os.MkdirAll(filepath.Join(o.Dir, "keys"), 0o700); err != nil {
		return nil, fmt.Errorf("making the directory of the example world: %w", err)
	}
	if err := w.makePeople(); err != nil {
		return nil, err
	}
	if err := w.makeWebhook(); err != nil {
		return nil, err
	}
	start := w.startEmbedded
	if o.Real {
		start = w.startReal
	}
	if err := start(ctx, o); err != nil {
		return nil, err
	}
	if err := w.startSlack(o.SlackAddr); err != nil {
		return nil, err
	}
	if err := w.writePolicy(o.Real); err != nil {
		return nil, fmt.Errorf("writing the example policy: %w", err)
	}
	up = true
	return w, nil
}

// left is what a world leaves in its directory for the next one there.
type left struct {
	Server string // the API server's address in the access policy
	Real   bool
}

func leftIn(dir string) (left, bool) {
	var l left
	text, err := os.ReadFile(filepath.Join(dir, "world.json"))
	return l, err == nil && json.Unmarshal(text, &l) == nil
}

// CanReopen reports whether a new world can go on in the directory of an embedded one that has ended: with its people and its access
// policy, but with another cluster and another authority, which were in memory.
func CanReopen(dir string) bool {
	l, ok := leftIn(dir)
	return ok && !l.Real
}

// writePolicy writes the access policy, or brings the one that is there to this world's API server.
func (w *World) writePolicy(isReal bool) error {
	w.PolicyFile = filepath.Join(w.Dir, "access.yaml")
	text := w.policy()
	if before, ok := leftIn(w.Dir); ok {
		kept, err := os.ReadFile(w.PolicyFile)
		if err != nil {
			return err
		}
		text = bytes.ReplaceAll(kept, []byte(before.Server), []byte(w.Server))
	}
	note, err := json.Marshal(left{Server: w.Server, Real: isReal})
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(w.PolicyFile, text, 0o600), os.WriteFile(filepath.Join(w.Dir, "world.json"), note, 0o600))
}

// Close stops what New started, last first.
func (w *World) Close() {
	for len(w.closers) > 0 {
		last := len(w.closers) - 1
		w.closers[last]()
		w.closers = w.closers[:last]
	}
}

func (w *World) onClose(f func()) { w.closers = append(w.closers, f) }

// Person returns one of the people by id.
func (w *World) Person(id string) Person {
	for _, p := range w.People {
		if p.ID == id {
			return p
		}
	}
	panic("no such person: " + id)
}

func (w *World) makePeople() error {
	for _, p := range []Person{
		{ID: "alice", Name: "Alice Moreau", Slack: "U02ALICE"}, {ID: "bob", Name: "Bob Tanaka", Slack: "U03BOB"},
		{ID: "carol", Name: "Carol Okafor", Slack: "U04CAROL"}, {ID: "dave", Name: "Dave Lindqvist", Slack: "U05DAVE"},
	} {
		p.KeyFile = filepath.Join(w.Dir, "keys", p.ID)
		if kept, err := os.ReadFile(p.KeyFile); err == nil { // of a world before this one
			if p.Key, err = ssh.ParsePrivateKey(kept); err != nil {
				return fmt.Errorf("reading the key of %s: %w", p.ID, err)
			}
			w.People = append(w.People, p)
			continue
		}
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return fmt.Errorf("making a key for %s: %w", p.ID, err)
		}
		if p.Key, err = ssh.NewSignerFromKey(key); err != nil {
			return fmt.Errorf("making a key for %s: %w", p.ID, err)
		}
		block, err := ssh.MarshalPrivateKey(key, p.ID)
		if err != nil {
			return fmt.Errorf("encoding the key of %s: %w", p.ID, err)
		}
		err = errors.Join(os.WriteFile(p.KeyFile, pem.EncodeToMemory(block), 0o600),
			os.WriteFile(p.KeyFile+".pub", ssh.MarshalAuthorizedKey(p.Key.PublicKey()), 0o600))
		if err != nil {
			return fmt.Errorf("writing the key of %s: %w", p.ID, err)
		}
		w.People = append(w.People, p)
	}
	return nil
}

// makeWebhook settles where the API server will call the daemon, and with which token. No outgoing connection takes the port
// meanwhile.
func (w *World) makeWebhook() error {
	var err error
	if w.WebhookAddr, err = real.FreeAddress(); err != nil {
		return fmt.Errorf("finding a port for the API server to call: %w", err)
	}
	w.WebhookToken, w.WebhookTokenFile = random(), filepath.Join(w.Dir, "webhook-token")
	w.WebhookCertFile, w.WebhookKeyFile = filepath.Join(w.Dir, "webhook.crt"), filepath.Join(w.Dir, "webhook.key")
	// kube-apiserver sends its token over TLS only.
	cert, key, err := ServingPEM("breakglassd dev webhooks")
	if err != nil {
		return err
	}
	w.WebhookCert = cert
	if err := errors.Join(os.WriteFile(w.WebhookTokenFile, []byte(w.WebhookToken), 0o600),
		os.WriteFile(w.WebhookCertFile, cert, 0o600), os.WriteFile(w.WebhookKeyFile, key, 0o600)); err != nil {
		return fmt.Errorf("writing what the API server needs to call: %w", err)
	}
	return nil
}

// policy is the access policy of the example world: alice, bob and dave are SRE, carol is security.
func (w *World) policy() []byte {
	var b bytes.Buffer
	b.WriteString("# The access policy of this example world. policies/access.example.yaml explains every key.\nversion: 1\npeople:\n")
	for _, p := range w.People {
		key := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(p.Key.PublicKey())))
		fmt.Fprintf(&b, "  - {id: %s, name: %s, slack: [{team: %s, user: %s}], keys: [%q]}\n", p.ID, p.Name, TeamID, p.Slack, key+" "+p.ID)
	}
	fmt.Fprintf(&b, `teams:
  - {id: sre, members: [alice, bob, dave]}
  - {id: security, members: [carol]}
clusters:
  - {id: %s, server: %q}
limits: {openPerPerson: 5, perHour: 60}
responders: [security]
closing: {within: 1h}
recertification: {reviewers: [sre, security], deadline: 7d}
policy: {reviewedBy: "nobody: this is an example world"}
profiles:
  - id: cluster-admin
    description: Everything, for when the cluster or the identity provider is broken
    clusters: [%[1]s]
    bind: {clusterRole: cluster-admin}
    ttl: {default: 15m, max: 1h}
    requesters: [sre]
    approvals: {count: 2, from: [sre, security], each: [security]}
    claimWithin: 10m
    pendingFor: 30m
    reason: {min: 10}
    incident: {pattern: "^INC-[0-9]+$"}
    risk: high
  - id: view
    description: Read everything but secrets
    clusters: [%[1]s]
    bind: {clusterRole: view}
    ttl: {default: 10m, max: 1h}
    requesters: [sre, security]
    approvals: {count: 2, from: [sre, security]}
    reason: {min: 10}
    risk: low
`, Cluster, w.Server)
	return b.Bytes()
}

func (w *World) startSlack(addr string) error {
	var users []slacksim.User
	for _, p := range w.People {
		users = append(users, slacksim.User{ID: p.Slack, Name: p.ID, RealName: p.Name, Email: p.ID + "@acme.example"})
	}
	users = append(users, slacksim.User{ID: "U06MALLORY", Name: "mallory", RealName: "Mallory (not in the policy)",
		Email: "mallory@acme.example"})
	// Slack gives an app 3 s. That the machine of the walkthrough is busy is no reason to fail.
	sim, err := slacksim.New(slacksim.Config{AckWithin: 30 * time.Second, TriggerLife: 30 * time.Second, TeamID: TeamID, TeamDomain: "acme",
		AppID: AppID, BotToken: w.BotToken, SigningSecret: w.SigningSecret, BotName: "breakglass",
		Command: "/breakglass", Users: users, Channels: []slacksim.Channel{{ID: Channel, Name: "breakglass-approvals"},
			{ID: "C0GENERAL", Name: "general"}},
		Notice: "A simulated Slack workspace. Act as Alice and type /breakglass, then approve as Bob and Carol."})
	if err != nil {
		return fmt.Errorf("starting the Slack workspace: %w", err)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("listening for the Slack workspace's page on %s (choose another with --slack-listen): %w", addr, err)
	}
	srv := &http.Server{Handler: sim.Handler(), ReadHeaderTimeout: 10 * time.Second}
	go srv.Serve(l) // ends with Close below
	w.Slack, w.SlackURL = sim, "http://"+l.Addr().String()
	sim.SetURL(w.SlackURL)
	w.onClose(func() { sim.Close(); srv.Close() })
	return nil
}

// ConnectSlack tells the workspace where the daemon listens.
func (w *World) ConnectSlack(daemon string) {
	w.Slack.SetAppURLs(daemon+"/slack/commands", daemon+"/slack/interactions")
}

func (w *World) startEmbedded(ctx context.Context, o Options) error {
	ca, err := memca.New("breakglass-ca-dev")
	if err != nil {
		return err
	}
	token := random()
	audit := newAuditor("https://"+w.WebhookAddr+"/audit/"+Cluster, w.WebhookToken, w.WebhookCert, o.Log)
	actx, stop := context.WithCancel(ctx)
	w.onClose(stop)
	go audit.run(actx)
	kube, err := kubesim.Start(ctx, kubesim.Config{ClientCAPEM: ca.PEM(), Log: o.Log, Observe: audit.observe,
		Tokens: []kubesim.Token{{Value: token, User: kubesim.DaemonUser, Rules: append(kubesim.BinderRules(), kubesim.SweepRules()...)}}})
	if err != nil {
		return fmt.Errorf("starting the example cluster: %w", err)
	}
	w.onClose(func() { _ = kube.Close() })
	w.Signer, w.Server, w.ServerCA = ca, kube.URL, kube.CAPEM()
	w.Kubeconfig = filepath.Join(w.Dir, "daemon.kubeconfig")
	text, err := kube.Kubeconfig(token)
	if err != nil {
		return err
	}
	if err := os.WriteFile(w.Kubeconfig, text, 0o600); err != nil {
		return fmt.Errorf("writing the daemon's kubeconfig: %w", err)
	}
	return nil
}

func random() string { return rand.Text() }
