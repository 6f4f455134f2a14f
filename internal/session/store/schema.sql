CREATE TABLE events (
	id          INTEGER PRIMARY KEY,
	cluster     TEXT NOT NULL,
	key         BLOB NOT NULL CHECK (length(key) = 32), -- tells duplicates
	user        TEXT NOT NULL,
	acted_as    TEXT NOT NULL, -- whom the user impersonated, or ''
	fingerprint TEXT NOT NULL, -- of the client certificate, or ''
	kept        INTEGER NOT NULL, -- Unix seconds
	checked     INTEGER NOT NULL, -- 0 until the ledger was asked whose certificate it is
	issued      INTEGER NOT NULL, -- 1: its owner's certificate is one that the ledger knows
	imported    TEXT NOT NULL,    -- the person who handed it in with a file, or '': an API server sent it
	body        BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX events_key ON events (cluster, key);
CREATE INDEX events_user ON events (cluster, user);
CREATE INDEX events_acted_as ON events (cluster, acted_as) WHERE acted_as != '';
CREATE INDEX events_fingerprint ON events (cluster, fingerprint) WHERE fingerprint != '';
CREATE INDEX events_unchecked ON events (id) WHERE checked = 0;
CREATE INDEX events_kept ON events (kept);

-- How much room each certificate takes, or each user without one, and what was counted but not kept.
CREATE TABLE owners (
	cluster TEXT NOT NULL,
	owner   TEXT NOT NULL,
	plain   INTEGER NOT NULL, -- events that only looked at something
	notable INTEGER NOT NULL,
	dropped INTEGER NOT NULL,
	touched INTEGER NOT NULL, -- Unix seconds
	bytes   INTEGER NOT NULL, -- of the bodies of its events
	issued  INTEGER NOT NULL, -- 1: the ledger knows the certificate
	PRIMARY KEY (cluster, owner)
) STRICT, WITHOUT ROWID;

CREATE TABLE clusters (
	cluster   TEXT PRIMARY KEY,
	strangers INTEGER NOT NULL, -- bytes of the bodies of events whose owner the ledger does not know
	issued    INTEGER NOT NULL, -- bytes of the other bodies
	dropped   INTEGER NOT NULL, -- events that were counted and not kept
	lost      INTEGER NOT NULL  -- those of them whose owner the ledger did not know
) STRICT, WITHOUT ROWID;

CREATE TABLE reports (
	digest  TEXT PRIMARY KEY,
	request TEXT NOT NULL,
	made    INTEGER NOT NULL,
	body    BLOB NOT NULL
) STRICT;

CREATE TABLE snapshots (
	request TEXT PRIMARY KEY,
	made    INTEGER NOT NULL,
	body    BLOB NOT NULL
) STRICT;

CREATE TABLE heartbeats (
	cluster TEXT NOT NULL,
	server  TEXT NOT NULL,
	seen    INTEGER NOT NULL, -- Unix microseconds
	PRIMARY KEY (cluster, server, seen)
) STRICT, WITHOUT ROWID;
