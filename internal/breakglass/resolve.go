package breakglass

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/breakglassd/breakglass/internal/record"
)

// signedBefore refuses a claim for which certificates exist already, and has each of them found.
func (s *Service) signedBefore(ctx context.Context, r *Request, found []*x509.Certificate) error {
	s.log.Error("a certificate exists for a request that was never claimed", slog.String("request", r.ID),
		slog.Int("certificates", len(found)))
	for _, c := range found {
		if err := s.Findings.Find(ctx, shadow(r.Ask.Cluster, c)); err != nil {
			s.log.Error("recording a certificate that the ledger does not know", slog.String("request", r.ID), slog.Any("error", err))
		}
	}
	return record.Refuse(record.ClassConflict, "signed-before", "open a new request, and have the operators look: breakglass findings",
		"the certificate authority has signed a certificate for %s already (serial %s), which this ledger does not know: "+
			"the ledger was restored from an older copy, or another client signed", r.ID, Serial(found[0]))
}

// fail records the end of a claim that gave no usable certificate and returns the refusal for the person.
func (s *Service) fail(ctx context.Context, r *Request, f Failed, cause error) error {
	if _, err := s.append(ctx, r, time.Time{}, nil, f); err != nil {
		return errors.Join(cause, fmt.Errorf("recording the failed claim of request %s: %w", r.ID, err))
	}
	return &record.Refusal{Class: record.ClassUnavailable, Code: "failed/" + f.Why, Why: f.Detail,
		Next: "open a new request; the daemon's log has the cause", Cause: cause}
}

// notNow ends a claim for which nothing was signed and keeps the approval.
func (s *Service) notNow(ctx context.Context, r *Request, cause error) error {
	after, err := s.append(ctx, r, time.Time{}, nil, NotSigned{SPKI: r.Claimed.SPKI})
	if err != nil {
		return errors.Join(cause, fmt.Errorf("recording that nothing was signed for request %s: %w", r.ID, err))
	}
	return &record.Refusal{Class: record.ClassUnavailable, Code: "not-now",
		Why: "the certificate authority takes no orders for the moment; nothing was " +
			"signed",
		Next: "claim again with the same key; the approval stays valid until " + clockTime(after.ClaimUntil()), Cause: cause}
}

// resolveClaim finds out what became of a claim without an outcome: the process died, or the answer was lost. It never signs.
func (s *Service) resolveClaim(ctx context.Context, r *Request) error {
	fctx, cancel := context.WithTimeout(ctx, 4*s.cfg.SignTimeout)
	defer cancel()
	found, err := s.cfg.Signer.Find(fctx, r.Ask.Cluster, r.Claimed.CommonName)
	if err != nil {
		return fmt.Errorf("looking for the certificate of request %s: %w", r.ID, err)
	}
	f := Failed{Why: FailUnknown, Detail: "the certificate authority's answer was lost; it holds no certificate for this request"}
	if len(found) > 0 {
		f = Failed{Why: FailOrphan, Detail: "the certificate authority's answer was lost after it had signed; the certificate was never " +
			"delivered and has no rights bound"}
		if r.Claimed.Group != "" {
			f.Detail = "the certificate authority's answer was lost after it had signed; the certificate was never delivered"
		}
		for _, c := range found {
			f.Orphans = append(f.Orphans, c.Raw)
		}
		s.log.Error("a certificate exists that was never delivered", slog.String("request", r.ID), slog.Int("certificates", len(found)))
	}
	_, err = s.note(ctx, r, func(r *Request) record.Event {
		if r.State(s.now()) != StateIssuing {
			return nil
		}
		return f
	})
	return err
}
