package rotation

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"strings"
	"time"

	"github.com/breakglassd/breakglass/internal/breakglass"
	"github.com/breakglassd/breakglass/internal/record"
)

// Severity grades a finding.
type Severity string

// The severities. Critical: access is lost, or open to a user it must not be open to, now or soon. Warning: an operator has to
// act, in working hours. Info: worth knowing, needs nothing.
const (
	Info     Severity = "info"
	Warning  Severity = "warning"
	Critical Severity = "critical"
)

// Thresholds is where the judgements begin. The zero value of each field means its default.
type Thresholds struct {
	Prepare time.Duration // at most so long before its end the successor of a CA should be prepared. Default 30 days
	Urgent  time.Duration // at most so long before its end a CA without successor is critical. Default 7 days
	Notice  time.Duration // a break-glass CA is announced to end so long before. Default 90 days
	MaxAge  time.Duration // policy: a break-glass CA is rotated when it is older. Default 2 years, what setup.sh makes
	Reload  time.Duration // kube-apiserver has loaded a changed bundle after so long. Default 2 minutes: it polls each minute
}

func (t Thresholds) withDefaults() Thresholds {
	day := 24 * time.Hour
	for _, d := range []struct {
		field   *time.Duration
		initial time.Duration
	}{{&t.Prepare, 30 * day}, {&t.Urgent, 7 * day}, {&t.Notice, 90 * day}, {&t.MaxAge, 731 * day}, {&t.Reload, 2 * time.Minute}} {
		if *d.field <= 0 {
			*d.field = d.initial
		}
	}
	return t
}

// PrepareBy is when the successor of a certificate should be there: at half its lifetime, but at most Prepare before its end.
// Short-lived certificates that something renews by itself thus have their own, shorter, warning.
func PrepareBy(notBefore, notAfter time.Time, t Thresholds) time.Time {
	return notAfter.Add(-min(notAfter.Sub(notBefore)/2, t.withDefaults().Prepare))
}

// UrgentFrom is when a certificate without successor becomes critical: at the last sixth of its lifetime, but at most Urgent
// before its end. (The two numbers are those of SPIRE's rotation.)
func UrgentFrom(notBefore, notAfter time.Time, t Thresholds) time.Time {
	return notAfter.Add(-min(notAfter.Sub(notBefore)/6, t.withDefaults().Urgent))
}

// Expired reports whether a certificate has ended. At NotAfter itself it has.
func Expired(notAfter, now time.Time) bool { return !now.Before(notAfter) }

// ExpirySeverity judges how near the end of a certificate is. "" means that there is time.
func ExpirySeverity(notBefore, notAfter, now time.Time, t Thresholds) Severity {
	switch {
	case Expired(notAfter, now), !now.Before(UrgentFrom(notBefore, notAfter, t)):
		return Critical
	case !now.Before(PrepareBy(notBefore, notAfter, t)):
		return Warning
	}
	return ""
}

// LeadTime is the last of the announced steps (90, 30, 7 and 1 days before its end) that a certificate has passed, as "30d";
// "" before the first. It is part of the key of the finding, so that each step is told once. Steps of more than half the
// lifetime do not count: what lives a day is not announced 90 days before.
func LeadTime(notBefore, notAfter, now time.Time, t Thresholds) string {
	t = t.withDefaults()
	day := 24 * time.Hour
	passed := ""
	for _, step := range []time.Duration{t.Notice, t.Prepare, t.Urgent, day} {
		if step <= notAfter.Sub(notBefore)/2 && !now.Before(notAfter.Add(-step)) {
			passed = fmt.Sprintf("%dd", step/day)
		}
	}
	return passed
}

// Announced is LeadTime, as part of the key of a finding about an end: a responder who is told of a finding is told again when its key
// changes, and an end that becomes critical between two steps, or lives too shortly for any, must not do so in silence.
func Announced(notBefore, notAfter, now time.Time, t Thresholds) string {
	step := LeadTime(notBefore, notAfter, now, t)
	urgent := UrgentFrom(notBefore, notAfter, t)
	if now.Before(urgent) || LeadTime(notBefore, notAfter, urgent.Add(-1), t) != step {
		return step
	}
	return strings.TrimPrefix(step+"-urgent", "-")
}

// AgeSeverity judges the age of a break-glass CA against the rotation policy.
func AgeSeverity(notBefore, now time.Time, t Thresholds) Severity {
	if now.Sub(notBefore) > t.withDefaults().MaxAge {
		return Warning
	}
	return ""
}

// CanSign reports whether a CA lives long enough to sign the longest lifetime: Vault refuses what would outlive its CA.
func CanSign(notBefore, notAfter, now time.Time, maxTTL time.Duration) bool {
	return !now.Before(notBefore) && !now.Add(maxTTL).After(notAfter)
}

// Strength names a public key and judges it. Below 112 bits of security (RSA-2048, P-224 being the least of NIST SP 800-57)
// it is critical: such a CA can be forged. P-224 itself is refused by many programs.
func Strength(key any) (name string, bits int, s Severity) {
	switch k := key.(type) {
	case *rsa.PublicKey:
		bits = k.N.BitLen()
		return fmt.Sprintf("RSA-%d", bits), bits, KeySeverity("RSA", bits)
	case *ecdsa.PublicKey:
		bits = k.Curve.Params().BitSize
		return fmt.Sprintf("ECDSA P-%d", bits), bits, KeySeverity("EC", bits)
	case ed25519.PublicKey:
		return "Ed25519", 256, ""
	}
	return "unknown", 0, Warning
}

// KeySeverity judges a key by kind (RSA or EC) and size.
func KeySeverity(kind string, bits int) Severity {
	switch {
	case kind == "RSA" && bits < 2048, kind == "EC" && bits < 224:
		return Critical
	case kind == "EC" && bits < 256, kind != "RSA" && kind != "EC":
		return Warning
	}
	return ""
}

// HashSeverity judges the hash of a certificate's signature. MD5 and SHA-1 collisions can be made. Under a root it is its own
// signature that is weak, which no client verifies, so it is less than critical there.
func HashSeverity(a x509.SignatureAlgorithm, selfSigned bool) Severity {
	switch a {
	case x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512, x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA,
		x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS, x509.PureEd25519:
		return ""
	default: // MD2, MD5, SHA-1, and what Go does not know
		if selfSigned {
			return Warning
		}
		return Critical
	}
}

// SkewSeverity judges how far a clock is from ours. Beyond breakglass.Backdate a fresh certificate is not believed by a clock
// that is behind; beyond record.MaxSkew nothing is signed. Two seconds are what seconds in a header cost.
func SkewSeverity(skew time.Duration) Severity {
	switch d := skew.Abs(); {
	case d > breakglass.Backdate:
		return Critical
	case d > breakglass.Backdate/2:
		return Warning
	}
	return ""
}

// ClockDoubt reports whether two clocks, each so far ahead of ours, differ by so much that one may refuse what was signed by the
// other just now although it trusts the signer: Vault lets a certificate begin breakglass.Backdate before its own time.
func ClockDoubt(signer, verifier time.Duration) bool {
	return (signer - verifier).Abs() > breakglass.Backdate
}

// DrainedAt is when the last certificate of the old issuer (by the fingerprint of its certificate) must have ended, current being
// the id of the one that signs now. ok is false if it is not known. The end of the last certificate is known from the ledger;
// without it, one may have been signed until the switch was seen.
func DrainedAt(old, current string, maxTTL time.Duration, k Known) (at time.Time, ok bool) {
	if k.LastIssuedUnder != nil {
		last := k.LastIssuedUnder[old]
		if k.UnknownIssuerUntil.After(last) {
			last = k.UnknownIssuerUntil
		}
		if last.IsZero() {
			return time.Time{}, true // it signed nothing
		}
		return last.Add(record.MaxSkew), true
	}
	seen, ok := k.SwitchSeen[current]
	if !ok {
		return time.Time{}, false
	}
	return seen.Add(maxTTL + record.MaxSkew), true
}
