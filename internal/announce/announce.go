// Package announce tells messengers what was recorded: each entry in the order of the ledger, at least once, also over restarts.
package announce

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/record"
	"github.com/breakglassd/breakglass/internal/retry"
)

// Notice tells a Messenger about one ledger entry that is already durable. Its Seq is the idempotency key.
type Notice struct {
	ledger.Entry
	Event record.Event // what the entry says
}

// Messenger tells people about what happened. Tell is called in ledger order by one goroutine, at least once for each entry:
// after a crash the last ones may come again. It returns an error only for what another try may cure (then the same notice
// comes again); a permanent refusal is logged and counted by the messenger and answered with nil.
type Messenger interface {
	Tell(ctx context.Context, n Notice) error
}

// Page is how many entries are read at once, and told at most between two bookmarks: after a crash so many may come again.
const Page = 100

// markAfter is how long after an entry was told the bookmark may be written. Many entries share one bookmark, which is a write to
// the disk: what a crash repeats is at most what was told in this time, and at most Page entries.
const markAfter = 250 * time.Millisecond

// backoff is how long the messenger is left alone with what it could not be told.
var backoff = retry.Backoff{First: 500 * time.Millisecond, Last: 30 * time.Second}

// Run gives each entry to a messenger, in order, until ctx is done or the ledger is closed, and remembers under the messenger's name how
// far it got. The bookmark is written after the messenger is done, so that a crash repeats notices rather than losing one. kinds is every
// kind of entry; one of a newer release is logged and passed over.
func Run(ctx context.Context, rec *record.Recorder, kinds record.Kinds, name string, m Messenger) error {
	a := announcer{rec: rec, kinds: kinds, name: name, to: m}
	mark, err := rec.Ledger.Bookmark(ctx, a.key())
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading how far %s was told: %w", name, err)
	}
	if mark != nil {
		if a.next, err = strconv.ParseInt(string(mark), 10, 64); err != nil {
			return fmt.Errorf("reading how far %s was told: %w", name, err)
		}
	}
	a.marked = a.next
	return a.run(ctx)
}

type announcer struct {
	rec   *record.Recorder
	kinds record.Kinds
	name  string
	to    Messenger

	next   int64     // the first entry that was not told
	marked int64     // what the bookmark says
	due    time.Time // when the bookmark must say more
}

func (a *announcer) key() string { return "announced/" + a.name }

// mark writes the bookmark.
func (a *announcer) mark(ctx context.Context) error {
	err := a.rec.Ledger.SetBookmark(context.WithoutCancel(ctx), a.key(), strconv.AppendInt(nil, a.next, 10))
	if err == nil {
		a.marked = a.next
	}
	return err
}

func (a *announcer) run(ctx context.Context) error {
	failures := 0
	for {
		wctx, cancel := ctx, context.CancelFunc(func() {})
		if a.next > a.marked {
			wctx, cancel = context.WithDeadline(ctx, a.due)
		}
		err := a.rec.Ledger.Wait(wctx, a.next)
		late := wctx.Err() != nil
		cancel()
		if ctx.Err() != nil || err != nil && !late { // it stops, or the ledger is closed
			a.stop(ctx)
			return nil
		}
		told := a.next
		if err == nil {
			told, err = a.tellSome(ctx)
		} else {
			err = nil // nothing new: the bookmark is due
		}
		if told > a.next {
			if a.next == a.marked {
				a.due = time.Now().Add(markAfter)
			}
			a.next, failures = told, 0
		}
		if a.next > a.marked && (a.next-a.marked >= Page || !time.Now().Before(a.due)) {
			if merr := a.mark(ctx); err == nil {
				err = merr
			}
		}
		if err == nil {
			continue
		}
		failures++
		wait := backoff.Wait(failures)
		a.rec.Log.Warn("telling people: will try again", slog.String("messenger", a.name), slog.Int64("entry", a.next),
			slog.Duration("after", wait), slog.Any("error", err))
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

func (a *announcer) stop(ctx context.Context) {
	if a.next == a.marked {
		return
	}
	if err := a.mark(ctx); err != nil {
		a.rec.Log.Warn("remembering what was told: it will be told again", slog.String("messenger", a.name), slog.Any("error", err))
	}
}

// tellSome gives the next entries to the messenger and returns the index of the first that was not told.
func (a *announcer) tellSome(ctx context.Context) (int64, error) {
	next := a.next
	entries, err := a.rec.Ledger.Entries(ctx, next, Page)
	if err != nil {
		return next, err
	}
	for _, e := range entries {
		ev, err := a.kinds.Decode(e)
		if errors.Is(err, record.ErrNewerRelease) { // it must not keep the entries behind it from being told
			a.rec.Log.Error("an entry of a newer release cannot be told", slog.String("messenger", a.name), slog.Int64("entry", e.Seq),
				slog.String("kind", e.Kind))
			next = e.Seq + 1
			continue
		}
		if err != nil {
			return next, err
		}
		if err := a.to.Tell(ctx, Notice{Entry: e, Event: ev}); err != nil {
			return next, err
		}
		next = e.Seq + 1
	}
	return next, nil
}
