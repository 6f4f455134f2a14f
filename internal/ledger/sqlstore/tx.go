package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/breakglassd/breakglass/internal/ledger"
)

// statementSet holds the prepared statements of one pool of connections.
// database/sql prepares each once per connection.
type statementSet struct {
	head, hashes, records, stream, streamLen *sql.Stmt
	tagHolder, tagged, tags, allTags         *sql.Stmt
	taggedBefore, bookmark                   *sql.Stmt

	// Only for the writing pool.
	writer, insert, insertText, setHead, putTag, dropTag, erase, setBookmark, forget, remember *sql.Stmt
}

type statements struct{ read, write *statementSet }

const selectRecords = `
	SELECT e.seq, e.stream, e.stream_seq, e.hashes, e.leaf, t.name, t.salt, t.text
	FROM ledger_entry e LEFT JOIN ledger_text t ON t.seq = e.seq `

// prepare prepares every statement; write is nil for a read-only store.
func (s *statements) prepare(ctx context.Context, read, write *sql.DB) error {
	s.read, s.write = &statementSet{}, &statementSet{}
	type text struct {
		stmt **sql.Stmt
		sql  string
	}
	reading := func(st *statementSet) []text {
		return []text{
			{&st.head, `SELECT size, root, time, note FROM ledger_head WHERE id = 1`},
			{&st.hashes, `SELECT seq, hashes FROM ledger_entry WHERE seq IN (SELECT value FROM json_each(?))`},
			{&st.records, selectRecords + `WHERE e.seq >= ? AND e.seq < ? ORDER BY e.seq, t.name`},
			{&st.stream, selectRecords + `WHERE e.stream = ? ORDER BY e.stream_seq, t.name`},
			{&st.streamLen, `SELECT coalesce(max(stream_seq), 0) FROM ledger_entry WHERE stream = ?`},
			{&st.tagHolder, `SELECT stream FROM ledger_tag WHERE name = ? AND value = ? AND uniq = 1`},
			{&st.tagged, `SELECT t.stream FROM ledger_tag t LEFT JOIN ledger_entry e ON e.stream = t.stream AND e.stream_seq = 1
				WHERE t.name = ? AND t.value = ? ORDER BY e.seq`},
			{&st.taggedBefore, `SELECT t.stream, e.seq FROM ledger_tag t JOIN ledger_entry e ON e.stream = t.stream AND e.stream_seq = 1
				WHERE t.name = ? AND t.value = ? AND e.seq < ? ORDER BY e.seq DESC LIMIT ?`},
			{&st.tags, `SELECT stream, name, value, uniq FROM ledger_tag WHERE stream = ? ORDER BY stream, name, value`},
			{&st.allTags, `SELECT stream, name, value, uniq FROM ledger_tag ORDER BY stream, name, value`},
			{&st.bookmark, `SELECT value FROM ledger_bookmark WHERE key = ?`},
		}
	}
	prepare := func(db *sql.DB, texts []text) error {
		for _, t := range texts {
			var err error
			if *t.stmt, err = db.PrepareContext(ctx, t.sql); err != nil {
				return fmt.Errorf("preparing a statement: %w", explain(err))
			}
		}
		return nil
	}
	if err := prepare(read, reading(s.read)); err != nil || write == nil {
		return err
	}
	return prepare(write, append(reading(s.write), []text{
		{&s.write.writer, `SELECT number FROM ledger_writer WHERE id = 1`},
		{&s.write.insert, `INSERT INTO ledger_entry (seq, stream, stream_seq, hashes, leaf) VALUES (?, ?, ?, ?, ?)`},
		{&s.write.insertText, `INSERT INTO ledger_text (seq, name, salt, text) VALUES (?, ?, ?, ?)`},
		{&s.write.setHead, `UPDATE ledger_head SET size = ?, root = ?, time = ?, note = ? WHERE id = 1 AND size = ?`},
		{&s.write.putTag, `INSERT INTO ledger_tag (name, value, stream, uniq) VALUES (?, ?, ?, ?)
			ON CONFLICT (name, value, stream) DO UPDATE SET uniq = max(uniq, excluded.uniq)`},
		{&s.write.dropTag, `DELETE FROM ledger_tag WHERE name = ? AND value = ? AND stream = ? AND uniq = 0`},
		{&s.write.erase, `UPDATE ledger_text SET salt = NULL, text = NULL WHERE seq = ? AND name = ?`},
		{&s.write.setBookmark, `INSERT INTO ledger_bookmark (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value`},
		{&s.write.forget, `DELETE FROM ledger_once WHERE until <= ?`},
		{&s.write.remember, `INSERT INTO ledger_once (key, until) VALUES (?, ?) ON CONFLICT (key) DO NOTHING`},
	}...))
}

// A view implements ledger.View inside one transaction.
type view struct {
	ctx context.Context
	tx  *sql.Tx
	st  *statementSet
}

func (v *view) row(stmt *sql.Stmt, args ...any) *sql.Row {
	ctx := context.WithoutCancel(v.ctx)
	return v.tx.StmtContext(ctx, stmt).QueryRowContext(ctx, args...)
}

// rows calls scan for each row until it returns an error, and looks at the
// view's context as it goes.
func (v *view) rows(stmt *sql.Stmt, scan func(*sql.Rows) error, args ...any) error {
	ctx := context.WithoutCancel(v.ctx)
	if err := v.ctx.Err(); err != nil {
		return err
	}
	rows, err := v.tx.StmtContext(ctx, stmt).QueryContext(ctx, args...)
	if err != nil {
		return explain(err)
	}
	defer rows.Close()
	for n := 1; rows.Next(); n++ {
		if n%1024 == 0 && v.ctx.Err() != nil {
			return v.ctx.Err()
		}
		if err := scan(rows); err != nil {
			return err
		}
	}
	return explain(rows.Err())
}

func (v *view) Head() (ledger.Head, error) {
	var h ledger.Head
	var root []byte
	var instant string
	if err := v.row(v.st.head).Scan(&h.Size, &root, &instant, &h.Note); err != nil {
		return ledger.Head{}, fmt.Errorf("reading the head: %w", explain(err))
	}
	if copy(h.Root[:], root) != len(h.Root) {
		return ledger.Head{}, fmt.Errorf("%w: the root in the head row has %d bytes", ledger.ErrCorrupt, len(root))
	}
	var err error
	if h.Time, err = time.Parse(time.RFC3339Nano, instant); err != nil || formatTime(h.Time) != instant {
		return ledger.Head{}, fmt.Errorf("%w: the head row has the malformed time %.40q", ledger.ErrCorrupt, instant)
	}
	return h, nil
}

func formatTime(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// ReadHashes finds each stored hash in the row of the leaf that completed its
// subtree.
func (v *view) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	type place struct {
		seq   int64
		level int
	}
	places := make([]place, len(indexes))
	list := []byte{'['}
	for i, index := range indexes {
		level, n := tlog.SplitStoredHashIndex(index)
		places[i] = place{seq: (n+1)<<level - 1, level: level}
		if i > 0 {
			list = append(list, ',')
		}
		list = strconv.AppendInt(list, places[i].seq, 10)
	}
	bySeq := make(map[int64][]byte, len(indexes))
	err := v.rows(v.st.hashes, func(rows *sql.Rows) error {
		var seq int64
		var hashes []byte
		if err := rows.Scan(&seq, &hashes); err != nil {
			return err
		}
		bySeq[seq] = hashes
		return nil
	}, string(append(list, ']')))
	if err != nil {
		return nil, fmt.Errorf("reading hashes: %w", err)
	}
	result := make([]tlog.Hash, len(indexes))
	for i, p := range places {
		hashes := bySeq[p.seq]
		if len(hashes) < (p.level+1)*tlog.HashSize {
			return nil, fmt.Errorf("%w: entry %d has no stored hash of level %d", ledger.ErrCorrupt, p.seq, p.level)
		}
		copy(result[i][:], hashes[p.level*tlog.HashSize:])
	}
	return result, nil
}

func (v *view) Records(from, limit int64, yield func(ledger.Record) error) error {
	return v.records(v.st.records, yield, from, from+limit)
}

func (v *view) StreamRecords(stream string) ([]ledger.Record, error) {
	var records []ledger.Record
	err := v.records(v.st.stream, func(r ledger.Record) error {
		records = append(records, r)
		return nil
	}, stream)
	return records, err
}

// records yields the records of a query that gives one row for each text, or
// one row for a record without texts.
func (v *view) records(stmt *sql.Stmt, yield func(ledger.Record) error, args ...any) error {
	var r ledger.Record
	have := false
	err := v.rows(stmt, func(rows *sql.Rows) error {
		var next ledger.Record
		var name sql.NullString
		var salt, text []byte
		if err := rows.Scan(&next.Seq, &next.Stream, &next.StreamSeq, &next.Hashes, &next.Leaf, &name, &salt, &text); err != nil {
			return err
		}
		if !have || next.Seq != r.Seq {
			if have {
				if err := yield(r); err != nil {
					return err
				}
			}
			r, have = next, true
		}
		if name.Valid {
			r.Texts = append(r.Texts, ledger.Text{Name: name.String, Salt: salt, Text: string(text), Erased: salt == nil})
		}
		return nil
	}, args...)
	if err != nil || !have {
		return err
	}
	return yield(r)
}

func (v *view) StreamLen(stream string) (int64, error) {
	var n int64
	err := v.row(v.st.streamLen, stream).Scan(&n)
	return n, explain(err)
}

func (v *view) TagHolder(name, value string) (string, error) {
	var stream string
	err := v.row(v.st.tagHolder, name, value).Scan(&stream)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return stream, explain(err)
}

func (v *view) Tagged(name, value string) ([]string, error) {
	var streams []string
	err := v.rows(v.st.tagged, func(rows *sql.Rows) error {
		var stream string
		if err := rows.Scan(&stream); err != nil {
			return err
		}
		streams = append(streams, stream)
		return nil
	}, name, value)
	return streams, err
}

func (v *view) TaggedBefore(name, value string, before, limit int64) ([]ledger.Place, error) {
	var places []ledger.Place
	err := v.rows(v.st.taggedBefore, func(rows *sql.Rows) error {
		var p ledger.Place
		if err := rows.Scan(&p.Stream, &p.Seq); err != nil {
			return err
		}
		places = append(places, p)
		return nil
	}, name, value, before, limit)
	return places, err
}

func (v *view) StreamTags(stream string) ([]ledger.Tag, error) {
	var tags []ledger.Tag
	err := v.tags(v.st.tags, func(_ string, tag ledger.Tag) error {
		tags = append(tags, tag)
		return nil
	}, stream)
	return tags, err
}

func (v *view) AllTags(yield func(string, ledger.Tag) error) error {
	return v.tags(v.st.allTags, yield)
}

func (v *view) tags(stmt *sql.Stmt, yield func(string, ledger.Tag) error, args ...any) error {
	return v.rows(stmt, func(rows *sql.Rows) error {
		var stream string
		var tag ledger.Tag
		if err := rows.Scan(&stream, &tag.Name, &tag.Value, &tag.Unique); err != nil {
			return err
		}
		return yield(stream, tag)
	}, args...)
}

func (v *view) Bookmark(key string) ([]byte, error) {
	var value []byte
	err := v.row(v.st.bookmark, key).Scan(&value)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return value, explain(err)
}

// A txn implements ledger.Tx inside one immediate transaction.
type txn struct{ view }

// exec runs a statement and returns how many rows it changed.
func (t *txn) exec(stmt *sql.Stmt, args ...any) (int64, error) {
	result, err := t.tx.StmtContext(t.ctx, stmt).ExecContext(t.ctx, args...)
	if err != nil {
		return 0, explain(err)
	}
	return result.RowsAffected()
}

func (t *txn) Insert(r ledger.Record) error {
	if _, err := t.exec(t.st.insert, r.Seq, r.Stream, r.StreamSeq, r.Hashes, r.Leaf); err != nil {
		return fmt.Errorf("inserting entry %d: %w", r.Seq, err)
	}
	for _, text := range r.Texts {
		if _, err := t.exec(t.st.insertText, r.Seq, text.Name, text.Salt, []byte(text.Text)); err != nil {
			return fmt.Errorf("inserting text %q of entry %d: %w", text.Name, r.Seq, err)
		}
	}
	return nil
}

func (t *txn) SetHead(oldSize int64, h ledger.Head) error {
	n, err := t.exec(t.st.setHead, h.Size, h.Root[:], formatTime(h.Time), h.Note, oldSize)
	if err == nil && n != 1 {
		err = fmt.Errorf("it is no longer at size %d", oldSize)
	}
	if err != nil {
		return fmt.Errorf("moving the head to size %d: %w", h.Size, err)
	}
	return nil
}

func (t *txn) PutTag(stream string, tag ledger.Tag) error {
	if _, err := t.exec(t.st.putTag, tag.Name, tag.Value, stream, tag.Unique); err != nil {
		return fmt.Errorf("tagging %s with %s: %w", stream, tag.Name, err)
	}
	return nil
}

func (t *txn) DropTag(stream string, tag ledger.Tag) error {
	if _, err := t.exec(t.st.dropTag, tag.Name, tag.Value, stream); err != nil {
		return fmt.Errorf("taking tag %s from %s: %w", tag.Name, stream, err)
	}
	return nil
}

func (t *txn) EraseText(seq int64, name string) (bool, error) {
	n, err := t.exec(t.st.erase, seq, name)
	return n == 1, err
}

func (t *txn) SetBookmark(key string, value []byte) error {
	if value == nil {
		value = []byte{} // nil would be NULL
	}
	_, err := t.exec(t.st.setBookmark, key, value)
	return err
}

func (t *txn) Remember(key string, now, until time.Time) (bool, error) {
	if _, err := t.exec(t.st.forget, now.UnixNano()); err != nil {
		return false, err
	}
	n, err := t.exec(t.st.remember, key, until.UnixNano())
	return n == 1, err
}
