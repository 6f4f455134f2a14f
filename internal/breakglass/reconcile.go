package breakglass

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/breakglassd/breakglass/internal/finding"
	"github.com/breakglassd/breakglass/internal/policy"
	"github.com/breakglassd/breakglass/internal/record"
)

// checkReconcile is the check that compares what the authorities have signed with the ledger.
const checkReconcile = "reconcile"

// When the check that cannot be made becomes a finding, and when that is critical: as long as it lasts, a certificate that nobody
// ordered is not seen.
const (
	blindRounds   = 3
	blindCritical = time.Hour
)

// reconcileAtOnce bounds the clusters that are compared at one time, so that one that hangs keeps few others waiting.
const reconcileAtOnce = 8

// reconcileRecord is how often a comparison is put on record when it finds nothing new.
const reconcileRecord = 24 * time.Hour

// Reconciled is what the comparison of one cluster's authority with the ledger has come to.
type Reconciled struct {
	Last    time.Time // the last comparison that came to its end; zero: none since the start
	Held    int       // certificates that the authority holds, as of Last
	Unknown int       // of these, the ones that neither the ledger nor a person accounts for, also where no finding had room
}

// reconciliations is what every cluster's comparison has come to.
type reconciliations struct {
	mu sync.Mutex
	of map[string]Reconciled
}

// Reconciled returns what each cluster's comparison has come to, by cluster. A cluster that was not compared yet has no time.
func (s *Service) Reconciled() map[string]Reconciled {
	s.reconciled.mu.Lock()
	defer s.reconciled.mu.Unlock()
	return maps.Clone(s.reconciled.of)
}

// reconcile compares, again and again, every certificate that the authorities hold with the ledger: one that the ledger does
// not know was signed behind its back.
func (s *Service) reconcile(ctx context.Context) error {
	tick := time.NewTicker(s.cfg.Reconcile)
	defer tick.Stop()
	watches := map[string]*reconcileWatch{}
	for {
		var wg sync.WaitGroup
		places := make(chan struct{}, reconcileAtOnce)
		for _, c := range s.clusters() {
			w := watches[c]
			if w == nil {
				w = &reconcileWatch{cluster: c, seen: map[string]bool{}, strange: map[string]string{}}
				watches[c] = w
			}
			wg.Go(func() {
				places <- struct{}{}
				defer func() { <-places }()
				s.reconcileRound(ctx, w)
			})
		}
		wg.Wait()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// reconcileWatch is what is remembered of one cluster from round to round. One round at a time uses it; mu guards what the visits
// of that round share.
type reconcileWatch struct {
	cluster string

	mu      sync.Mutex
	seen    map[string]bool   // serial numbers that need not be looked at again: a certificate never changes
	strange map[string]string // of these, the ones that the ledger does not know: serial number to fingerprint

	failed   int       // rounds without an answer, one after the other
	since    time.Time // of the first of them
	recorded time.Time // when a round was last put on record; zero: not since the start
	unknown  int       // what that record said
	ok       bool      // and whether it was good
}

// reconcileRound makes one comparison and says what it means: silence is a finding of its own.
func (s *Service) reconcileRound(ctx context.Context, w *reconcileWatch) {
	got, err := s.reconcileCluster(ctx, w)
	if ctx.Err() != nil {
		return
	}
	now := s.now()
	if err == nil {
		got.Last = now
		s.reconciled.mu.Lock()
		s.reconciled.of[w.cluster] = got
		s.reconciled.mu.Unlock()
		w.failed = 0
		err = s.Findings.Close(ctx, blindKey(w.cluster), "the comparison works again")
		verdict := fmt.Sprintf("%d certificates at the authority, %d accounted for, %d not", got.Held, got.Held-got.Unknown, got.Unknown)
		err = errors.Join(err, s.recordReconciled(ctx, w, got.Unknown == 0, got.Unknown, verdict))
	} else {
		s.log.Warn("comparing the authority's certificates with the ledger", slog.String("cluster", w.cluster), slog.Any("error", err))
		if w.failed++; w.failed == 1 {
			w.since = now
		}
		err = nil
		if w.failed >= blindRounds {
			verdict := "it could not be made since " + w.since.Format(time.RFC3339)
			err = errors.Join(s.blind(ctx, w, now), s.recordReconciled(ctx, w, false, w.unknown, verdict))
		}
	}
	if err != nil && ctx.Err() == nil {
		s.log.Error("recording the comparison of an authority with the ledger", slog.String("cluster", w.cluster), slog.Any("error", err))
	}
}

// recordReconciled puts a comparison on record: the first one, each that says something else than the one recorded before, and
// else one a day. That a good authority holds one certificate more is nothing else.
func (s *Service) recordReconciled(ctx context.Context, w *reconcileWatch, ok bool, unknown int, verdict string) error {
	now := s.now()
	if !w.recorded.IsZero() && w.ok == ok && w.unknown == unknown && now.Sub(w.recorded) < reconcileRecord {
		return nil
	}
	run := finding.CheckRun{Check: checkReconcile, Cluster: w.cluster, OK: ok, Verdict: verdict}
	for _, f := range s.Findings.Open() {
		if f.Check == checkReconcile && f.Cluster == w.cluster && len(run.Findings) < maxRecordedKeys {
			run.Findings = append(run.Findings, f.Key)
		}
	}
	if err := s.Findings.RecordCheck(ctx, run); err != nil {
		return err
	}
	w.recorded, w.ok, w.unknown = now, ok, unknown
	return nil
}

// maxRecordedKeys bounds the findings that the record of one comparison names: the verdict counts all of them.
const maxRecordedKeys = 20

func blindKey(cluster string) string { return "reconcile-blind/" + cluster }

// blind opens the finding that a cluster's authority cannot be compared with the ledger, and makes it critical in time.
func (s *Service) blind(ctx context.Context, w *reconcileWatch, now time.Time) error {
	f := finding.Opened{Key: blindKey(w.cluster), Check: checkReconcile, Cluster: w.cluster, Severity: finding.Warning,
		What: fmt.Sprintf("what the authority of %s has signed could not be compared with the ledger since %s: "+
			"a certificate that nobody ordered would not be seen", w.cluster, w.since.Format(time.RFC3339)),
		Next: "the daemon's log says why; see that Vault answers, and that the daemon's policy there lets it list and read the certificates " +
			"of the mount (breakglassd doctor, deploy/vault/setup.sh)"}
	before, open := s.Findings.Get(f.Key)
	if open { // it may be from before a restart
		f.What = before.What
		if before.Since.Before(w.since) {
			w.since = before.Since
		}
	}
	if now.Sub(w.since) >= blindCritical || open && before.Severity == finding.Critical {
		f.Severity = finding.Critical
	}
	return s.Findings.Find(ctx, f)
}

// reconcileCluster makes one comparison. An error says that it did not come to its end, and so that nothing is known. Unknown
// certificates that find no room among the findings are counted all the same, and looked at again in the next round.
func (s *Service) reconcileCluster(ctx context.Context, w *reconcileWatch) (Reconciled, error) {
	ctx, cancel := context.WithTimeout(ctx, examineTimeout)
	defer cancel()
	var bad []error
	var got Reconciled
	var strange []string // fingerprints
	late := 0
	err := s.cfg.Inventory.Scan(ctx, w.cluster, func(serial string) bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		got.Held++
		if print, ok := w.strange[serial]; ok {
			strange = append(strange, print)
		}
		return !w.seen[serial]
	}, func(cert *x509.Certificate) {
		serial, print := Serial(cert), Fingerprint(cert.Raw)
		known, err := s.accounted(ctx, w.cluster, cert)
		if err == nil && known == accountNone && !s.Findings.Settled(finding.ShadowKey(w.cluster, print)) {
			err = s.Findings.Find(ctx, shadow(w.cluster, cert))
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		switch {
		case errors.Is(err, finding.ErrTooMany):
			late++
		case err != nil:
			bad = append(bad, err)
		case known == accountLater: // of two with one name and key, at most one becomes known: the next comparison tells which
		default:
			w.seen[serial] = true
			if known == accountNone {
				w.strange[serial] = print
				strange = append(strange, print)
			}
		}
	})
	got.Unknown = late
	for _, print := range strange {
		if !s.Findings.Settled(finding.ShadowKey(w.cluster, print)) {
			got.Unknown++
		}
	}
	if late > 0 {
		s.log.Error("certificates that the ledger does not know are not recorded yet: there are too many findings",
			slog.String("cluster", w.cluster), slog.Int("certificates", late))
	}
	return got, errors.Join(append(bad, err)...)
}

// shadow is the finding of a certificate that the ledger does not know.
func shadow(cluster string, cert *x509.Certificate) finding.Opened {
	return finding.Opened{Key: finding.ShadowKey(cluster, Fingerprint(cert.Raw)), Check: checkReconcile, Cluster: cluster,
		Severity: finding.Critical,
		What: fmt.Sprintf("the certificate authority of %s signed a certificate for %q, valid until %s, serial %s, that the ledger does not know",
			cluster, record.Clip(cert.Subject.String(), 200), cert.NotAfter.UTC().Format(time.RFC3339), Serial(cert)),
		Next: "find out who signed it (the authority's own audit log), and look for its fingerprint " + Fingerprint(cert.Raw) +
			" in the API servers' audit logs"}
}

// account is what the ledger says of a certificate.
type account int

const (
	accountNone  account = iota // nothing: it was signed behind the ledger's back
	accountFull                 // it was issued, is a canary's or an orphan of a failed claim, or is a CA's own, which gives no access
	accountLater                // it may be the result of a claim or canary under way: that is known when the outcome is recorded
)

// accounted says what the ledger knows of a certificate that an authority holds.
func (s *Service) accounted(ctx context.Context, cluster string, cert *x509.Certificate) (account, error) {
	if cert.IsCA {
		return accountFull, nil
	}
	if _, known, err := s.ByFingerprint(ctx, Fingerprint(cert.Raw)); err != nil || known {
		return accountFull, err
	}
	key := SPKI(cert.RawSubjectPublicKeyInfo)
	if strings.HasPrefix(cert.Subject.CommonName, policy.CanaryPrefix) {
		ordered, _, err := s.openCanary(ctx, cert.Subject.CommonName) // its outcome is open, or was lost
		if err != nil || ordered == nil || ordered.SPKI != key {
			return accountNone, err
		}
		return accountLater, nil
	}
	r, known, err := s.ByCommonName(ctx, cert.Subject.CommonName)
	switch {
	case err != nil || !known || r.Ask.Cluster != cluster:
		return accountNone, err
	case r.Failed != nil && slices.ContainsFunc(r.Failed.Orphans, func(der []byte) bool { return bytes.Equal(der, cert.Raw) }):
		return accountFull, nil
	case r.Failed == nil && r.Claimed != nil && r.Issued == nil && r.Claimed.SPKI == key:
		return accountLater, nil
	}
	return accountNone, nil
}
