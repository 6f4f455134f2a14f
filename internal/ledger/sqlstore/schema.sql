-- One row for each leaf of the Merkle tree. stream and stream_seq repeat what
-- the leaf says so that they can be indexed. hashes holds the stored hashes that
-- the leaf added to the tree: its own, then one for each subtree it completed.
-- hashes stands before leaf because SQLite reads a row from its left end, and
-- proofs need hashes of many rows but leaves of none.
CREATE TABLE ledger_entry (
    seq        INTEGER PRIMARY KEY CHECK (seq >= 0),
    stream     TEXT    NOT NULL CHECK (stream <> ''),
    stream_seq INTEGER NOT NULL CHECK (stream_seq >= 1),
    hashes     BLOB    NOT NULL CHECK (length(hashes) >= 32 AND length(hashes) % 32 = 0),
    leaf       BLOB    NOT NULL,
    UNIQUE (stream, stream_seq)
) STRICT;

-- Forbidding UPDATE and DELETE is not enough: INSERT OR REPLACE deletes without
-- firing a DELETE trigger. So an insert must be the next of the log, or it could
-- replace an entry by its seq, and the next of its stream, or it could replace
-- one by its place in the stream.
CREATE TRIGGER ledger_entry_no_update BEFORE UPDATE ON ledger_entry
BEGIN SELECT RAISE(ABORT, 'ledger entries are never changed'); END;

CREATE TRIGGER ledger_entry_no_delete BEFORE DELETE ON ledger_entry
BEGIN SELECT RAISE(ABORT, 'ledger entries are never deleted'); END;

CREATE TRIGGER ledger_entry_next BEFORE INSERT ON ledger_entry
WHEN NEW.seq IS NOT (SELECT coalesce(max(seq) + 1, 0) FROM ledger_entry)
  OR NEW.stream_seq IS NOT (SELECT coalesce(max(stream_seq), 0) + 1 FROM ledger_entry WHERE stream = NEW.stream)
BEGIN SELECT RAISE(ABORT, 'ledger entries are only appended'); END;

-- The erasable texts. An erased one keeps its row, without salt and text, so
-- that an erasure differs from a loss.
CREATE TABLE ledger_text (
    seq  INTEGER NOT NULL REFERENCES ledger_entry (seq),
    name TEXT    NOT NULL,
    salt BLOB,
    text BLOB,
    PRIMARY KEY (seq, name),
    CHECK ((salt IS NULL) = (text IS NULL))
) STRICT, WITHOUT ROWID;

CREATE TRIGGER ledger_text_only_erase BEFORE UPDATE ON ledger_text
WHEN NEW.seq IS NOT OLD.seq OR NEW.name IS NOT OLD.name OR NEW.text IS NOT NULL
BEGIN SELECT RAISE(ABORT, 'ledger texts are erased or left alone'); END;

CREATE TRIGGER ledger_text_no_delete BEFORE DELETE ON ledger_text
BEGIN SELECT RAISE(ABORT, 'ledger texts are erased, not deleted'); END;

-- The summary of the log: its only mutable row, and it only grows.
CREATE TABLE ledger_head (
    id   INTEGER PRIMARY KEY CHECK (id = 1),
    size INTEGER NOT NULL CHECK (size >= 0),
    root BLOB    NOT NULL CHECK (length(root) = 32),
    time TEXT    NOT NULL,
    note BLOB    NOT NULL
) STRICT;

CREATE TRIGGER ledger_head_no_delete BEFORE DELETE ON ledger_head
BEGIN SELECT RAISE(ABORT, 'the ledger head is never deleted'); END;

CREATE TRIGGER ledger_head_one BEFORE INSERT ON ledger_head
WHEN EXISTS (SELECT 1 FROM ledger_head)
BEGIN SELECT RAISE(ABORT, 'there is one ledger head'); END;

CREATE TRIGGER ledger_head_grows BEFORE UPDATE ON ledger_head
WHEN NEW.size < OLD.size OR NEW.size = OLD.size AND NEW.root IS NOT OLD.root
BEGIN SELECT RAISE(ABORT, 'the ledger only grows'); END;

-- The index of streams. It can be rebuilt from the entries.
CREATE TABLE ledger_tag (
    name   TEXT    NOT NULL,
    value  TEXT    NOT NULL,
    stream TEXT    NOT NULL,
    uniq   INTEGER NOT NULL CHECK (uniq IN (0, 1)),
    PRIMARY KEY (name, value, stream)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX ledger_tag_unique ON ledger_tag (name, value) WHERE uniq = 1;

CREATE INDEX ledger_tag_stream ON ledger_tag (stream);

CREATE TRIGGER ledger_tag_kept BEFORE DELETE ON ledger_tag WHEN OLD.uniq = 1
BEGIN SELECT RAISE(ABORT, 'a unique tag is never released'); END;

-- Side values that are not part of the log.
CREATE TABLE ledger_bookmark (
    key   TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- Keys that were seen, until a time in nanoseconds since 1970.
CREATE TABLE ledger_once (
    key   TEXT PRIMARY KEY,
    until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX ledger_once_until ON ledger_once (until);

-- Who may write: a process takes the next number when it opens the store, and
-- stops when it sees that another has taken a later one. The lock file beside
-- the database says the same earlier and more politely; this also holds where
-- file locks do not reach.
CREATE TABLE ledger_writer (
    id     INTEGER PRIMARY KEY CHECK (id = 1),
    number INTEGER NOT NULL
) STRICT;

INSERT INTO ledger_writer (id, number) VALUES (1, 0);
