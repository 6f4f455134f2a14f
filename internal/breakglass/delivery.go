package breakglass

import (
	"context"
	"fmt"

	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/record"
)

// Delivery is what a claim returns: the certificate and the proof that its issuing is in the ledger.
type Delivery struct {
	Request     *Request
	Certificate []byte       // DER
	Chain       [][]byte     // DER intermediates to send along, often empty
	Issued      ledger.Entry // the issued entry, whose leaf the proof is about
	Proof       ledger.Proof
	Warning     string // what the person must know: for instance that the binding is not there yet
}

func (s *Service) deliverAgain(ctx context.Context, r *Request, a record.Actor) (*Delivery, error) {
	if err := s.limitRepeats(r.ID + " " + a.Person); err != nil {
		return nil, err
	}
	after, err := s.note(ctx, r, func(r *Request) record.Event {
		if r.State(s.now()) != StateActive {
			return nil
		}
		return Delivered{By: a}
	})
	if err != nil {
		return nil, err
	}
	warning := ""
	if after.Ask.Rights.Binding() && !after.Bound {
		warning = "the right could not be bound in the cluster yet; it is tried again until it works"
	}
	d, err := s.delivery(ctx, after, warning)
	if err != nil {
		return nil, err
	}
	if st := d.Request.State(s.now()); st != StateActive {
		return nil, record.Refuse(record.ClassConflict, "over", "", "%s is %s", r.ID, st)
	}
	return d, nil
}

// delivery adds the proof. The certificate and its record are read back from the ledger: what is delivered is what is stored. In the
// same instant it is seen whether the request has moved on: then it is read again, and the caller decides by what it is now.
func (s *Service) delivery(ctx context.Context, r *Request, warning string) (*Delivery, error) {
	proven, err := s.ledger.ProveEntry(ctx, r.IssuedSeq)
	if err != nil {
		return nil, fmt.Errorf("proving the issued entry of request %s: %w", r.ID, err)
	}
	ev, err := readable.Decode(proven.Entry)
	if err != nil {
		return nil, fmt.Errorf("reading the issued entry of request %s: %w", r.ID, err)
	}
	issued, ok := ev.(Issued)
	if !ok || proven.Entry.Stream != r.ID {
		return nil, fmt.Errorf("entry %d is not the issued entry of request %s", r.IssuedSeq, r.ID)
	}
	if proven.StreamLen != r.Rev {
		if r, err = s.load(ctx, r.ID); err != nil {
			return nil, err
		}
	}
	return &Delivery{Request: r, Certificate: issued.Certificate, Chain: issued.Chain, Issued: proven.Entry, Proof: proven.Proof,
		Warning: warning}, nil
}
