
-- From version 2 to 3. What is there counts as of certificates that the ledger knows: nothing that was kept is given up.
ALTER TABLE events ADD COLUMN issued INTEGER NOT NULL DEFAULT 1;
ALTER TABLE events ADD COLUMN imported TEXT NOT NULL DEFAULT '';
ALTER TABLE owners ADD COLUMN issued INTEGER NOT NULL DEFAULT 1;
CREATE TABLE clusters (
	cluster   TEXT PRIMARY KEY,
	strangers INTEGER NOT NULL,
	issued    INTEGER NOT NULL,
	dropped   INTEGER NOT NULL,
	lost      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
-- What was dropped without a row of its owner may be of any of the clusters.
INSERT INTO clusters SELECT cluster, 0, sum(length(body)), 0, max(0, (SELECT dropped FROM totals) - (SELECT coalesce(sum(dropped), 0) FROM owners))
	FROM events GROUP BY cluster;
DROP TABLE totals;
