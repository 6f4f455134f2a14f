CREATE TABLE events (
	id          INTEGER PRIMARY KEY,
	cluster     TEXT NOT NULL,
	key         BLOB NOT NULL CHECK (length(key) = 32), -- tells duplicates
	user        TEXT NOT NULL,
	acted_as    TEXT NOT NULL, -- whom the user impersonated, or ''
	fingerprint TEXT NOT NULL, -- of the client certificate, or ''
	kept        INTEGER NOT NULL, -- Unix seconds
	checked     INTEGER NOT NULL, -- 0 until the ledger was asked whose certificate it is
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
	PRIMARY KEY (cluster, owner)
) STRICT, WITHOUT ROWID;

CREATE TABLE totals (
	id      INTEGER PRIMARY KEY CHECK (id = 1),
	bytes   INTEGER NOT NULL, -- of all bodies
	dropped INTEGER NOT NULL
) STRICT;
INSERT INTO totals VALUES (1, 0, 0);

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
