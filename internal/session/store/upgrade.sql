-- From version 1 to 2.
CREATE TABLE owners_2 (
	cluster TEXT NOT NULL,
	owner   TEXT NOT NULL,
	plain   INTEGER NOT NULL,
	notable INTEGER NOT NULL,
	dropped INTEGER NOT NULL,
	touched INTEGER NOT NULL,
	bytes   INTEGER NOT NULL,
	PRIMARY KEY (cluster, owner)
) STRICT, WITHOUT ROWID;
INSERT INTO owners_2 SELECT o.cluster, o.owner, o.plain, o.notable, o.dropped, o.touched, coalesce(e.bytes, 0) FROM owners o LEFT JOIN (
	SELECT cluster, CASE fingerprint WHEN '' THEN user ELSE fingerprint END AS owner, sum(length(body)) AS bytes FROM events GROUP BY 1, 2
) e ON e.cluster = o.cluster AND e.owner = o.owner;
DROP TABLE owners;
ALTER TABLE owners_2 RENAME TO owners;

CREATE TABLE heartbeats_2 (
	cluster TEXT NOT NULL,
	server  TEXT NOT NULL,
	seen    INTEGER NOT NULL,
	PRIMARY KEY (cluster, server, seen)
) STRICT, WITHOUT ROWID;
INSERT OR IGNORE INTO heartbeats_2 SELECT cluster, server, seen FROM heartbeats;
DROP TABLE heartbeats;
ALTER TABLE heartbeats_2 RENAME TO heartbeats;
