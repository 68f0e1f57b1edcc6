// Package evidence is the evidence event, its canonical bytes, and the hashes,
// checkpoints and proofs of the log that holds it. It is pure: no clock, files,
// network or logger. This comment is the specification of the format; a verifier
// can be written from it alone.
//
// # Records
//
// A record is one JSON object (RFC 8259) in UTF-8 on one line. Every record has
// "kind". A record of kind "outcome" is an [OutcomeRecord] and names with
// "event_id" the action that it completes; every other is an [Event]. Members
// that a reader does not know are to be ignored. A record is never changed: what
// came of an action is a record of its own, and an action whose "outcome.state" is
// "pending" or "held" is open until an outcome names it.
//
// The writer gives the same bytes for the same record: members in the order of the
// Go struct, the members of args, unusable, data and would sorted by the bytes of their
// names; no white space; empty optional members left out; would, matched_rules and
// next_steps always there. Times are RFC 3339 in UTC with six digits. An integer
// has neither point nor exponent and is exact over all of int64; a floating-point
// number always has a point or an exponent; NaN and the infinities are the strings
// "NaN", "+Inf", "-Inf". In strings the quote and the backslash are escaped by a
// backslash, CR, LF and TAB as \r, \n, \t, and as \u00xx or \uxxxx every other
// control character (U+0000 to U+001F, U+007F to U+009F) and every character that
// is not seen but acts on the text around it (U+00AD, U+061C, U+180E, U+200B to
// U+200F, U+2028 to U+202E, U+2060 to U+206F, U+FEFF, U+FFF9 to U+FFFB). Bytes
// that are not UTF-8 became U+FFFD. A verifier hashes the bytes as they stand; it
// need not encode anything itself.
//
// # Segments
//
// A log is a sequence of segments, each a text file of lines that end with LF
// (0x0A), no byte of which stands anywhere else. There are three kinds of line.
// <h> stands for a SHA-256 hash in standard base64 with padding, 44 characters.
//
// The first line of a segment is its header:
//
//	{"s":1,"origin":"actpass/4f1c...","key":"<verifier key>","first":N,"edge":["<h>",...]}
//
// s is the version of this format. origin is the log's name, key its verifier key
// in the note format. first is the index of the segment's first record. edge is
// the right edge of the tree over the records 0 to first-1: the roots of its
// complete subtrees, the largest first, as many as first has bits set. A segment's
// file is named by first in 20 digits, and ".log".
//
// The line of a record is
//
//	{"i":N,"h":"<h>","r":<record>}
//
// without any white space, the record verbatim. i counts from 0, without a gap,
// over all segments. h is the leaf hash (RFC 6962 section 2.1):
// SHA-256(0x00 || record).
//
// A batch of records ends with the line of a checkpoint:
//
//	{"c":"<signed checkpoint>"}
//	{"c":"<signed checkpoint>","async":true}
//
// The checkpoint is a JSON string. async says that the batch was acknowledged
// before it was synced to disk. Lines behind the last checkpoint of the last
// segment are not a part of the log: a batch that is being written or was torn by
// a crash. No other segment may end without a checkpoint. Zero bytes, which no line
// has, may stand at the end of the last segment, and nowhere else: they are room
// that the writer made ahead, and are cut off when it ends.
//
// # Checkpoints
//
// A checkpoint is a signed note (golang.org/x/mod/sumdb/note, C2SP signed-note)
// with the text of C2SP tlog-checkpoint: the origin; the number of records in
// decimal; the root hash in base64; and as an extension line "time " and the time
// of the signature by the log's clock.
//
//	actpass/4f1c9b0a7d2e6538
//	1207
//	CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=
//	time 2026-03-04T05:06:07.000120Z
//
//	— actpass/4f1c9b0a7d2e6538 Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
//
// The signature is Ed25519, by the key in the header, whose name is the origin.
// The root is the Merkle tree hash (RFC 6962 section 2.1) over the records 0 to
// size-1: an inner node is SHA-256(0x01 || left || right), the left subtree the
// largest power of two below the size; the empty tree is SHA-256 of nothing.
//
// # Verifying
//
// Read the segments in order. The header of the first gives the tree to start
// from: its edge is empty when first is 0; when older segments were removed it is
// bound by the next checkpoint's root, which is computed from it. Every later header
// must have the edge of the tree so far. For every record compare its index with
// the tree's size and its hash with h, then add h to the tree. For every
// checkpoint check the signature, its size against the tree's, its root against the
// tree's. The first mismatch is the fault. Then compare with any checkpoint known
// from elsewhere: the log must reach its size and have its root there. [Verifier]
// does all of this.
//
// What verification shows: no record up to the last checkpoint was changed,
// removed, inserted or moved by anyone who does not hold the key; with a checkpoint
// from elsewhere, not by the holder of the key either, up to that checkpoint. What
// it cannot show: that the records are true, that the newest ones were not cut off
// together with their checkpoints (keep checkpoints elsewhere), and, within a
// batch whose records and hashes were both replaced, which record it was.
//
// # Bundles
//
// A bundle takes records out of a log and is verified without it. It is a text
// file of lines. The first is
//
//	{"bundle":1,"origin":"...","key":"<verifier key>","checkpoint":"<signed checkpoint>"}
//
// and each other line is a record with its inclusion proof (RFC 6962 section
// 2.1.1) in the tree of that checkpoint, by rising index:
//
//	{"i":N,"h":"<h>","p":["<h>",...],"r":<record>}
//
// There is one spelling. Every line ends with LF, the last too; a line has 4 MiB
// at most; there is no white space, no other member, and no member twice. N is in
// decimal without leading zeros, below the checkpoint's size, and rises from line
// to line. Base64 has its padding, and its unused bits are zero, in signatures of
// the checkpoint too. "],"r":" first ends a line's own members, and the record is
// what stands between it and the line's last byte, a closing brace: one JSON object in
// UTF-8 (RFC 7493), no name twice in any of its objects, no half of a surrogate pair. In the header's
// strings the quote, the backslash and LF are \", \\ and \n, and "<", ">", "&",
// U+2028 and U+2029 are \u003c, \u003e, \u0026, \u2028 and \u2029; all else stands
// as it is. The key's name is the origin. The checkpoint has no control character
// but LF; its size is in decimal without leading zeros, below 2^63; a line "time "
// holds a time of the form above, and other extension lines are ignored. Among its
// signatures must be one of the key, and none of the key may fail; those of others,
// as of witnesses, are ignored when they are well-formed. Ed25519 is that of RFC
// 8032: an S that is not below the group's order is refused.
//
// sdk/vectors/evidence.json has good and broken bundles.
package evidence
