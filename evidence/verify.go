package evidence

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"

	"golang.org/x/mod/sumdb/note"
)

// Fault is the first place where a log is not what its key vouches for.
type Fault struct {
	Index   uint64 // of the first record that is missing, altered or out of order
	EventID string // of that record, as far as it can still be read
	Reason  string // a sentence
}

func (f *Fault) Error() string {
	if f.EventID != "" {
		return fmt.Sprintf("evidence: record %d (event %s): %s", f.Index, f.EventID, f.Reason)
	}
	return fmt.Sprintf("evidence: record %d: %s", f.Index, f.Reason)
}

// Verifier checks a log line by line, in order: that every record has the hash
// that stands beside it, that the indexes have no gap, and that each signed
// checkpoint fits the records before it. It stops at the first fault.
//
// What no verifier can see in the log alone: records cut off the end together
// with their checkpoints, and a log written anew by someone who holds the key.
// Expect, fed with checkpoints that were published or witnessed, sees both.
type Verifier struct {
	key      string
	verifier note.Verifier
	started  bool // the header of the first segment was seen, or the tree was given
	inside   bool // of a segment: its header was seen

	first     uint64 // index at which the verified part begins
	tree      Tree   // over everything read
	batch     uint64 // index of the first record since the last checkpoint
	batchID   string // its event
	good      Tree   // over everything that a checkpoint covers
	last      []byte // the last checkpoint, signed
	lastCheck Checkpoint
	commits   int
	expect    []Checkpoint
	fault     *Fault
}

// NewVerifier checks with the verifier key vkey (note format). With "" the key is
// taken from the first segment: that shows damage, but not a forger, who would
// bring a key of his own; compare Key with what is known from elsewhere.
func NewVerifier(vkey string) (*Verifier, error) {
	v := new(Verifier)
	if vkey == "" {
		return v, nil
	}
	return v, v.setKey(vkey)
}

// ResumeVerifier goes on behind tree, which the caller trusts, in the middle of a
// segment.
func ResumeVerifier(vkey string, tree Tree) (*Verifier, error) {
	v, err := NewVerifier(vkey)
	if err != nil {
		return nil, err
	}
	v.started, v.inside = true, true
	v.first, v.batch = tree.Size(), tree.Size()
	v.tree, v.good = tree.Clone(), tree.Clone()
	return v, nil
}

func (v *Verifier) setKey(vkey string) error {
	nv, err := note.NewVerifier(vkey)
	if err != nil {
		return fmt.Errorf("evidence: the verifier key %q: %w", vkey, err)
	}
	v.key, v.verifier = vkey, nv
	return nil
}

// Expect demands that the log contains what a checkpoint from elsewhere says: it
// reaches that size, and has that root there. Call it before the first Line; it
// must be of a size at which the log itself has a checkpoint, as all have that the
// log published.
func (v *Verifier) Expect(signed []byte) error {
	if v.verifier == nil {
		return fmt.Errorf("evidence: expect a checkpoint: the verifier key is not known yet")
	}
	c, err := OpenCheckpoint(signed, v.verifier)
	if err != nil {
		return err
	}
	v.expect = append(v.expect, c)
	return nil
}

// Key is the verifier key in use.
func (v *Verifier) Key() string { return v.key }

// First is the index of the first record that was checked: more than 0 when
// older segments were removed.
func (v *Verifier) First() uint64 { return v.first }

// Good is the tree that the last checkpoint covers.
func (v *Verifier) Good() Tree { return v.good.Clone() }

// Pending is the number of records behind the last checkpoint.
func (v *Verifier) Pending() uint64 { return v.tree.Size() - v.good.Size() }

// Checkpoint is the last one that was read, with its signed form; nil before.
func (v *Verifier) Checkpoint() (Checkpoint, []byte) { return v.lastCheck, v.last }

// Commits counts the checkpoints that were checked.
func (v *Verifier) Commits() int { return v.commits }

// Line checks the next line, without its newline, and gives it back parsed.
// After a fault every call returns the same one.
func (v *Verifier) Line(b []byte) (Line, *Fault) {
	if v.fault != nil {
		return Line{}, v.fault
	}
	l, err := ParseLine(b)
	switch {
	case err != nil && isCommit(b) && v.Pending() > 0:
		return l, v.fail(v.batch, v.batchID, fmt.Sprintf(
			"the signed checkpoint over %s cannot be read: it was altered", v.span()))
	case err != nil:
		return l, v.fail(v.tree.Size(), findID(b), "its line was altered: "+reason(err))
	case l.Header != nil:
		return l, v.header(l.Header)
	case !v.inside:
		return l, v.fail(v.tree.Size(), findID(b), "the segment's header is missing")
	case l.Entry != nil:
		return l, v.record(&l)
	default:
		return l, v.commit(l.Commit)
	}
}

// Seal says that the lines so far were all of a segment that is complete: it must
// end with a checkpoint, and a header must follow. Call it between segments, not
// behind the last one, which may end in a batch that is still being written.
func (v *Verifier) Seal() *Fault {
	if v.fault == nil && v.Pending() > 0 {
		return v.fail(v.batch, v.batchID, fmt.Sprintf("no checkpoint covers %s, though the segment is complete", v.span()))
	}
	v.inside = false
	return v.fault
}

// End says that the log ends here, and checks what Expect demanded.
func (v *Verifier) End() *Fault {
	if c, short := v.Short(); v.fault == nil && short {
		return v.fail(v.good.Size(), "", fmt.Sprintf(
			"it is missing: a published checkpoint of %s covers %d records, the log ends after %d",
			c.Time.UTC().Format(TimeLayout), c.Size, v.good.Size()))
	}
	return v.fault
}

// Short gives the first expected checkpoint that covers more than was found good.
func (v *Verifier) Short() (Checkpoint, bool) {
	for _, c := range v.expect {
		if c.Size > v.good.Size() {
			return c, true
		}
	}
	return Checkpoint{}, false
}

func (v *Verifier) header(h *Header) *Fault {
	next := v.tree.Size()
	if v.inside {
		return v.fail(next, "", "a second header stands in the segment where it belongs")
	}
	v.inside = true
	if v.verifier == nil {
		if err := v.setKey(h.Key); err != nil {
			return v.fail(next, "", "the segment's header names an unusable key: "+reason(err))
		}
	}
	if h.Key != v.key || h.Origin != v.verifier.Name() {
		return v.fail(next, "", fmt.Sprintf("the segment is of another log: its header names the key %q, not %q", h.Key, v.key))
	}
	tree, err := h.Tree()
	if err != nil {
		return v.fail(next, "", "the segment's header was altered: "+reason(err))
	}
	if !v.started {
		v.started = true
		v.first, v.batch = tree.Size(), tree.Size()
		v.tree, v.good = tree.Clone(), tree
		return nil
	}
	if h.First > next {
		return v.fail(next, "", fmt.Sprintf("it is missing: the next segment begins with record %d", h.First))
	}
	if h.First < next {
		return v.fail(h.First, "", fmt.Sprintf("it stands twice: the next segment begins with record %d, where record %d belongs", h.First, next))
	}
	if !tree.equal(v.tree) {
		return v.fail(next, "", "the segment's header does not fit the records before it: it was altered")
	}
	return nil
}

func (v *Verifier) record(l *Line) *Fault {
	next := v.tree.Size()
	switch e := l.Entry; {
	case LeafHash(e.Record) != l.Leaf:
		return v.fail(next, findID(e.Record), fmt.Sprintf(
			"it was altered: its bytes have the hash %s, the log says %s", LeafHash(e.Record), l.Leaf))
	case e.Index > next:
		return v.fail(next, "", fmt.Sprintf("it is missing: where it belongs stands record %d (event %s)", e.Index, findID(e.Record)))
	case e.Index < next:
		return v.fail(next, findID(e.Record), fmt.Sprintf("out of order: record %d stands where record %d belongs", e.Index, next))
	}
	if v.Pending() == 0 {
		v.batch, v.batchID = next, findID(l.Entry.Record)
	}
	v.tree.Add(l.Leaf)
	return nil
}

func (v *Verifier) commit(signed []byte) *Fault {
	next := v.tree.Size()
	c, err := OpenCheckpoint(signed, v.verifier)
	if err == nil && bytes.Count(signed, []byte("\n\u2014 ")) != 1 {
		// Witnesses sign published checkpoints; in the log only its own key does.
		err = errors.New("evidence: it carries a second signature")
	}
	if err != nil {
		if v.Pending() == 0 {
			return v.fail(next, "", "a checkpoint without records was put before it: "+reason(err))
		}
		return v.fail(v.batch, v.batchID, fmt.Sprintf("the checkpoint over %s is not signed by the log's key: %s", v.span(), reason(err)))
	}
	switch {
	case c.Size > next:
		return v.fail(next, "", fmt.Sprintf("it is missing: the checkpoint behind it covers %d records, the log has %d there", c.Size, next))
	case c.Size < next:
		return v.fail(c.Size, "", fmt.Sprintf("it was inserted: the checkpoint behind it covers only %d records, the log has %d there", c.Size, next))
	case c.Root != v.tree.Root():
		return v.fail(v.batch, v.batchID, fmt.Sprintf(
			"%s do not have the root that the log's key signed: one of them was replaced together with its hash", v.span()))
	}
	for _, e := range v.expect {
		if e.Size == c.Size && e.Root != c.Root {
			return v.fail(v.first, "", fmt.Sprintf(
				"the log was rewritten: a checkpoint from elsewhere says that %d records have the root %s, here it is %s", c.Size, e.Root, c.Root))
		}
	}
	v.good = v.tree.Clone()
	v.batch = next
	v.last, v.lastCheck = bytes.Clone(signed), c
	v.commits++
	return nil
}

// span names the records since the last checkpoint.
func (v *Verifier) span() string {
	if v.Pending() <= 1 {
		return fmt.Sprintf("record %d", v.batch)
	}
	return fmt.Sprintf("records %d to %d", v.batch, v.tree.Size()-1)
}

func (v *Verifier) fail(index uint64, id, why string) *Fault {
	v.fault = &Fault{Index: index, EventID: id, Reason: why}
	return v.fault
}

// isCommit tells a damaged checkpoint from a damaged record: it has the marks of
// the one, and none of the other's.
func isCommit(line []byte) bool {
	if bytes.Contains(line, []byte(`"r":{`)) || bytes.Contains(line, []byte(hashStart)) {
		return false
	}
	return bytes.Contains(line, []byte(`"c":"`)) || bytes.Contains(line, []byte(`\n\n`))
}

var idPattern = regexp.MustCompile(`"(?:event_)?id":"([A-Za-z0-9_.-]{1,80})"`)

// findID reads the id out of a record that may be damaged.
func findID(b []byte) string {
	if s, err := Look(b); err == nil {
		if s.EventID != "" && s.Kind == KindOutcome {
			return s.EventID
		}
		return s.ID
	}
	if m := idPattern.FindSubmatch(b); m != nil {
		return string(m[1])
	}
	return ""
}

func reason(err error) string {
	const prefix = "evidence: "
	s := err.Error()
	for len(s) > len(prefix) && s[:len(prefix)] == prefix {
		s = s[len(prefix):]
	}
	return s
}
