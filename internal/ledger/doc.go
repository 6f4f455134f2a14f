// Package ledger is an append-only log whose past cannot be edited unnoticed.
//
// An [Entry] belongs to a stream (the history of one thing) and has two
// numbers: Seq, its place in the whole log, and StreamSeq, its place in its
// stream. Both are dense. Every entry is a leaf of one Merkle tree (RFC 6962,
// as in certificate transparency and the Go checksum database), and every
// append ends with a signed [Checkpoint]: the size of the tree and its root
// hash. Whoever holds an old checkpoint can later ask for proof that the log
// only grew since; whoever holds a [Proof] can show, with nothing but a public
// key, that one entry is in the log.
//
// # What is hashed
//
// The leaf is a short text header, an empty line, and the caller's bytes:
//
//	ledger-leaf v1
//	stream 7Q4M2K
//	number 3
//	kind approved
//	time 2026-11-22T03:45:00.000000000Z
//	text comment 5wxJ…=
//
//	{"by":"carol"}
//
// Those bytes are stored and hashed as they are and never encoded again, so no
// later version of a program can change what an earlier one said. A line
// "text" is a commitment, HMAC-SHA256 under a random salt, to a piece of free
// text kept beside the log. Deleting the text and its salt ([Ledger.Erase])
// leaves a commitment that says nothing, and a log that still verifies.
//
// # What is durable, and when
//
// [Ledger.Append] is one transaction of the [Store]: entries, Merkle hashes,
// the signed checkpoint and the stream's tags become durable together or not
// at all. Concurrent appends share a transaction (group commit); each still
// gets its own answer. There is one commit point, the store's commit. Before
// it nothing has happened. After it everything has. If the commit itself fails
// in a way that leaves open which of the two is true, the answer is
// [ErrUnknownOutcome], and this Ledger refuses every later write: the process
// must exit, and opening the ledger again finds out.
//
// # Why the checkpoint is signed inside the transaction
//
// Signing before the commit is safe because of three things. The signature is
// Ed25519, deterministic and computed in this process, so it cannot hang, and
// signing the same tree twice gives the same bytes. The signed text stays
// inside the transaction until the commit has succeeded: if the commit fails,
// nobody has seen it. And the root is recomputed from bytes read back through
// the store before it is signed, so a bad write is refused rather than
// certified. The gain is that no durable entry is ever without a checkpoint.
//
// # Verification
//
// [Open] checks the signed head against the stored hashes and the newest
// entries; that takes the same time for any length of history. [VerifyStore]
// checks everything, and [VerifyExport] does so for a directory written by
// [Export], without any database.
package ledger
