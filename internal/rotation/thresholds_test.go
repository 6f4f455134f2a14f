package rotation_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"math/big"
	"testing"
	"time"

	"github.com/breakglassd/breakglass/internal/rotation"
)

func TestWhenASuccessorIsDue(t *testing.T) {
	from := now
	for _, tt := range []struct {
		life                 time.Duration
		prepare, urgent, led time.Duration // before the end; led: when it is announced first, 0 if never
	}{
		{730 * day, 30 * day, 7 * day, 90 * day},
		{365 * day, 30 * day, 7 * day, 90 * day},
		{40 * day, 20 * day, 40 * day / 6, 7 * day},
		{day, 12 * time.Hour, 4 * time.Hour, 0},
	} {
		to := from.Add(tt.life)
		if got := to.Sub(rotation.PrepareBy(from, to, rotation.Thresholds{})); got != tt.prepare {
			t.Errorf("life %s: prepare %s before the end, want %s", tt.life, got, tt.prepare)
		}
		if got := to.Sub(rotation.UrgentFrom(from, to, rotation.Thresholds{})); got != tt.urgent {
			t.Errorf("life %s: urgent %s before the end, want %s", tt.life, got, tt.urgent)
		}
		for _, x := range []struct {
			before time.Duration
			want   rotation.Severity
		}{{tt.prepare + 1, ""}, {tt.prepare, rotation.Warning}, {tt.urgent + 1, rotation.Warning}, {tt.urgent, rotation.Critical},
			{0, rotation.Critical}, {-day, rotation.Critical}} {
			if got := rotation.ExpirySeverity(from, to, to.Add(-x.before), rotation.Thresholds{}); got != x.want {
				t.Errorf("life %s, %s before the end: %q, want %q", tt.life, x.before, got, x.want)
			}
		}
		if got := rotation.LeadTime(from, to, to.Add(-tt.led-1), rotation.Thresholds{}); got != "" {
			t.Errorf("life %s: announced as %s more than %s before the end", tt.life, got, tt.led)
		}
	}
	if rotation.PrepareBy(from, from.Add(100*day), rotation.Thresholds{Prepare: 60 * day}) != from.Add(50*day) {
		t.Error("a longer lead time than half the lifetime counts")
	}
}

func TestLeadTimes(t *testing.T) {
	from, to := now, now.Add(730*day)
	for before, want := range map[time.Duration]string{91 * day: "", 90 * day: "90d", 31 * day: "90d", 30 * day: "30d", 7 * day: "7d",
		25 * time.Hour: "7d", day: "1d", -day: "1d"} {
		if got := rotation.LeadTime(from, to, to.Add(-before), rotation.Thresholds{}); got != want {
			t.Errorf("%s before the end: %q, want %q", before, got, want)
		}
	}
}

func TestEveryStepTowardsAnEndHasAKeyOfItsOwn(t *testing.T) {
	for _, tt := range []struct {
		life, before time.Duration
		want         string
	}{
		{730 * day, 31 * day, "90d"}, {730 * day, 30 * day, "30d"}, {730 * day, 7 * day, "7d"}, {730 * day, day, "1d"},
		{40 * day, 20 * day, ""}, {40 * day, 7 * day, "7d"}, {40 * day, 6 * day, "7d-urgent"}, {40 * day, day, "1d"},
		{day, 12 * time.Hour, ""}, {day, 4 * time.Hour, "urgent"}, {day, 0, "urgent"},
	} {
		to := now.Add(tt.life)
		if got := rotation.Announced(now, to, to.Add(-tt.before), rotation.Thresholds{}); got != tt.want {
			t.Errorf("life %s, %s before the end: %q, want %q", tt.life, tt.before, got, tt.want)
		}
	}
	// Whatever it lives: from warning to critical the key changes.
	for _, life := range []time.Duration{time.Hour, day, 3 * day, 14 * day, 15 * day, 42 * day, 43 * day, 90 * day, 365 * day, 3650 * day} {
		to := now.Add(life)
		key := map[rotation.Severity]map[string]bool{rotation.Warning: {}, rotation.Critical: {}}
		for at := now; at.Before(to); at = at.Add(life / 997) {
			if s := rotation.ExpirySeverity(now, to, at, rotation.Thresholds{}); s != "" {
				key[s][rotation.Announced(now, to, at, rotation.Thresholds{})] = true
			}
		}
		for k := range key[rotation.Warning] {
			if key[rotation.Critical][k] || len(key[rotation.Critical]) == 0 {
				t.Errorf("life %s: %q is the key of a warning and of a critical finding (%v)", life, k, key)
			}
		}
	}
}

func TestClockDoubt(t *testing.T) {
	for _, tt := range []struct {
		vault, server time.Duration
		want          bool
	}{{0, 0, false}, {30 * time.Second, 0, false}, {31 * time.Second, 0, true}, {60 * time.Second, 0, true},
		{40 * time.Second, 40 * time.Second, false},
		{-20 * time.Second, 20 * time.Second, true}, {0, -31 * time.Second, true}} {
		if got := rotation.ClockDoubt(tt.vault, tt.server); got != tt.want {
			t.Errorf("Vault %s and the server %s ahead: %t, want %t", tt.vault, tt.server, got, tt.want)
		}
	}
}

func TestExpiredIsFromNotAfterOn(t *testing.T) {
	if rotation.Expired(now, now.Add(-1)) || !rotation.Expired(now, now) || !rotation.Expired(now, now.Add(1)) {
		t.Error("the end is not where it should be")
	}
}

func TestCanSign(t *testing.T) {
	from, to := now, now.Add(2*time.Hour)
	for at, want := range map[time.Duration]bool{-1: false, 0: true, time.Hour: true, time.Hour + 1: false, 3 * time.Hour: false} {
		if got := rotation.CanSign(from, to, now.Add(at), time.Hour); got != want {
			t.Errorf("after %s: %t, want %t", at, got, want)
		}
	}
}

func TestAge(t *testing.T) {
	if rotation.AgeSeverity(now.Add(-731*day), now, rotation.Thresholds{}) != "" ||
		rotation.AgeSeverity(now.Add(-731*day-1), now, rotation.Thresholds{}) != rotation.Warning ||
		rotation.AgeSeverity(now.Add(-31*day), now, rotation.Thresholds{MaxAge: 30 * day}) != rotation.Warning {
		t.Error("the age is judged wrongly")
	}
}

func TestStrength(t *testing.T) {
	modulus := func(bits uint) *rsa.PublicKey {
		return &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), bits-1), E: 65537}
	}
	for _, tt := range []struct {
		key  any
		name string
		want rotation.Severity
	}{
		{modulus(1024), "RSA-1024", rotation.Critical}, {modulus(2047), "RSA-2047", rotation.Critical}, {modulus(2048), "RSA-2048", ""},
		{modulus(4096), "RSA-4096", ""},
		{&ecdsa.PublicKey{Curve: elliptic.P224()}, "ECDSA P-224", rotation.Warning}, {&ecdsa.PublicKey{Curve: elliptic.P256()}, "ECDSA P-256",
			""},
		{&ecdsa.PublicKey{Curve: elliptic.P384()}, "ECDSA P-384", ""}, {ed25519.PublicKey{}, "Ed25519", ""}, {"?", "unknown", rotation.Warning},
	} {
		if name, _, got := rotation.Strength(tt.key); name != tt.name || got != tt.want {
			t.Errorf("%s: %s, %q, want %q", tt.name, name, got, tt.want)
		}
	}
	for _, tt := range []struct {
		kind string
		bits int
		want rotation.Severity
	}{{"RSA", 0, rotation.Critical}, {"EC", 192, rotation.Critical}, {"EC", 224, rotation.Warning}, {"OKP", 256, rotation.Warning}} {
		if got := rotation.KeySeverity(tt.kind, tt.bits); got != tt.want {
			t.Errorf("%s-%d: %q, want %q", tt.kind, tt.bits, got, tt.want)
		}
	}
}

func TestHash(t *testing.T) {
	for _, tt := range []struct {
		a    x509.SignatureAlgorithm
		self bool
		want rotation.Severity
	}{
		{x509.SHA1WithRSA, true, rotation.Warning}, {x509.SHA1WithRSA, false, rotation.Critical}, {x509.MD5WithRSA, false, rotation.Critical},
		{x509.ECDSAWithSHA1, true, rotation.Warning},
		{x509.UnknownSignatureAlgorithm, true, rotation.Warning}, {x509.SHA256WithRSA, false, ""}, {x509.ECDSAWithSHA384, true, ""},
		{x509.PureEd25519, false, ""},
	} {
		if got := rotation.HashSeverity(tt.a, tt.self); got != tt.want {
			t.Errorf("%s, self-signed %t: %q, want %q", tt.a, tt.self, got, tt.want)
		}
	}
}

func TestSkew(t *testing.T) {
	for skew, want := range map[time.Duration]rotation.Severity{0: "", 15 * time.Second: "", -16 * time.Second: rotation.Warning,
		30 * time.Second: rotation.Warning, 31 * time.Second: rotation.Critical, -time.Hour: rotation.Critical} {
		if got := rotation.SkewSeverity(skew); got != want {
			t.Errorf("%s: %q, want %q", skew, got, want)
		}
	}
}

func TestDrainedAt(t *testing.T) {
	for name, tt := range map[string]struct {
		k    rotation.Known
		want time.Time
		ok   bool
	}{
		"the ledger knows the last one": {rotation.Known{LastIssuedUnder: map[string]time.Time{"old": now}},
			now.Add(time.Minute), true},
		"the ledger knows of no certificate of it": {rotation.Known{LastIssuedUnder: map[string]time.Time{"other": now}}, time.Time{}, true},
		"it is not known who signed the last one": {rotation.Known{LastIssuedUnder: map[string]time.Time{}, UnknownIssuerUntil: now},
			now.Add(time.Minute), true},
		"one that may be of another ends later": {rotation.Known{LastIssuedUnder: map[string]time.Time{"old": now},
			UnknownIssuerUntil: now.Add(time.Hour)}, now.Add(time.Hour + time.Minute), true},
		"one that may be of another ends sooner": {rotation.Known{LastIssuedUnder: map[string]time.Time{"old": now},
			UnknownIssuerUntil: now.Add(-time.Hour)}, now.Add(time.Minute), true},
		"it beats what was seen": {rotation.Known{LastIssuedUnder: map[string]time.Time{"old": now},
			SwitchSeen: map[string]time.Time{"new": now}}, now.Add(time.Minute), true},
		"only the switch was seen": {rotation.Known{SwitchSeen: map[string]time.Time{"new": now}},
			now.Add(time.Hour + time.Minute), true},
		"nothing is known":        {rotation.Known{}, time.Time{}, false},
		"another switch was seen": {rotation.Known{SwitchSeen: map[string]time.Time{"x": now}}, time.Time{}, false},
	} {
		if got, ok := rotation.DrainedAt("old", "new", time.Hour, tt.k); !got.Equal(tt.want) || ok != tt.ok {
			t.Errorf("%s: %s, %t, want %s, %t", name, got, ok, tt.want, tt.ok)
		}
	}
}
