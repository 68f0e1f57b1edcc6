package ledger

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"github.com/actpass/sidecar/evidence"
)

// The state is derived: whatever stands in it, the log goes on as if it were right
// or not there.
func TestStateIsNotTrusted(t *testing.T) {
	dir := t.TempDir()
	m := newMemFS()
	l := open(t, dir, Options{fs: m, SegmentBytes: 2000})
	for i := range 7 {
		mustAppend(t, l, action(fmt.Sprintf("ev_%d", i)))
	}
	closeLog(t, l)
	name := filepath.Join(dir, stateName)
	state := m.content(name)
	if len(state) == 0 {
		t.Fatal("no state was saved")
	}
	try := func(what string, b []byte) {
		t.Helper()
		d := m.clone()
		if b == nil {
			delete(d.names, name)
		} else {
			d.put(name, b)
		}
		l, err := Open(dir, Options{fs: d, SegmentBytes: 2000})
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if l.Size() != 7 {
			t.Fatalf("%s: %d records", what, l.Size())
		}
		mustAppend(t, l, action("ev_7"))
		closeLog(t, l)
		if rep, err := verifyDir(d, dir); err != nil || rep.Fault != nil || rep.Size != 8 {
			t.Fatalf("%s: %+v %v", what, rep.Fault, err)
		}
	}
	try("absent", nil)
	try("empty", []byte{})
	try("null", []byte("null"))
	end := bytes.Index(state, []byte(`"open"`)) // ids are not bound by the checkpoint
	for i := 0; i < end; i += stride {
		for _, c := range []byte{state[i] ^ 1, '9'} {
			b := bytes.Clone(state)
			b[i] = c
			try(fmt.Sprintf("byte %d (%q) is %q", i, state[i], c), b)
		}
	}
}

func TestMisnamedSegment(t *testing.T) {
	dir := t.TempDir()
	m := newMemFS()
	l := open(t, dir, Options{fs: m})
	mustAppend(t, l, action("ev_0"))
	closeLog(t, l)
	m.put(segmentPath(dir, 5), m.content(segmentPath(dir, 0)))
	delete(m.names, segmentPath(dir, 0))
	var dmg *DamagedError
	if _, err := Open(dir, Options{fs: m}); !errors.As(err, &dmg) {
		t.Errorf("opened: %v", err)
	}
}

func TestUnfinished(t *testing.T) {
	dir := t.TempDir()
	held := func(id, state string) []byte {
		b, err := (&evidence.OutcomeRecord{EventID: id, Outcome: evidence.Outcome{State: state}}).Encode()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	done := func(id string) []byte {
		b, err := (&evidence.Event{ID: id, Kind: evidence.KindAction, Outcome: &evidence.Outcome{State: evidence.StateBlocked}}).Encode()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	l := open(t, dir, Options{SegmentBytes: 1500})
	for _, rec := range [][]byte{
		action("ev_a"), done("ev_blocked"), action("ev_b"), outcome("ev_a"), action("ev_c"), held("ev_c", evidence.StateHeld),
		action("ev_d"), held("ev_d", evidence.StateAmbiguous), outcome("ev_unknown"), action("ev_e"),
		held("ev_f", evidence.StatePending), // a held call that was released
	} {
		mustAppend(t, l, rec)
	}
	if n := len(l.Unfinished()); n != 0 {
		t.Errorf("%d unfinished in a new log", n)
	}
	closeLog(t, l)
	for range 2 {
		l = open(t, dir, Options{})
		if got := l.Unfinished(); !slices.Equal(got, []string{"ev_b", "ev_e", "ev_f"}) {
			t.Errorf("unfinished: %v", got)
		}
		if in := l.Intents(); in[1].Index != 9 || in[2].Index != 10 {
			t.Errorf("intents: %+v", in)
		}
		closeLog(t, l)
	}
	l = open(t, dir, Options{})
	for _, id := range l.Unfinished() {
		mustAppend(t, l, held(id, evidence.StateAmbiguous))
	}
	closeLog(t, l)
	l = open(t, dir, Options{})
	if got := l.Unfinished(); len(got) != 0 {
		t.Errorf("unfinished after they were closed: %v", got)
	}
}

// With Async an outcome can be lost by a power cut after its intent was closed in
// memory: the state on disk must not say that it is closed.
func TestAsyncOutcomeLost(t *testing.T) {
	m, dir := newMemFS(), t.TempDir()
	l := open(t, dir, Options{fs: m, Async: true})
	mustAppend(t, l, action("ev_0"))
	if err := l.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, l, outcome("ev_0"))
	if err := l.publishNow(); err != nil {
		t.Fatal(err)
	}
	after := m.crash(func() bool { return false })
	// The state needs no sync; say that it reached the disk.
	after.put(filepath.Join(dir, stateName), m.content(filepath.Join(dir, stateName)))
	l2 := open(t, t.TempDir(), Options{fs: &moved{after, dir}, Async: true})
	switch l2.Size() {
	case 1:
		if got := l2.Unfinished(); !slices.Equal(got, []string{"ev_0"}) {
			t.Errorf("unfinished: %v", got)
		}
	case 2: // the fsync was quicker than this test
	default:
		t.Errorf("%d records", l2.Size())
	}
}

func TestIntentsAreBounded(t *testing.T) {
	in := intents{}
	for i := range maxIntents + 10 {
		in.note(evidence.Summary{Kind: evidence.KindAction, ID: fmt.Sprint(i), State: evidence.StatePending}, uint64(i))
	}
	if len(in) > maxIntents {
		t.Errorf("%d are kept", len(in))
	}
	if _, newest := in[fmt.Sprint(maxIntents+9)]; !newest {
		t.Error("the newest was dropped: the oldest go first")
	}
}
