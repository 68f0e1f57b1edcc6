package store

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/actpass/sidecar/evidence"
)

// TestIndexModel compares queries over many blocks, with outcomes that come late
// and files that are opened again, with a plain list.
func TestIndexModel(t *testing.T) {
	dir := t.TempDir()
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		path := filepath.Join(dir, fmt.Sprintf("%d.db", n))
		log := newSliceLog("k")
		type event struct {
			id, tool, agent, state string
			index                  uint64
		}
		var all []*event
		byID := map[string]*event{}
		fill := func(records int) {
			for range records {
				if len(all) > 0 && rapid.IntRange(0, 2).Draw(t, "outcome") == 0 {
					e := all[rapid.IntRange(0, len(all)-1).Draw(t, "of")]
					e.state = rapid.SampledFrom([]string{"forwarded", "ambiguous", "refused"}).Draw(t, "state")
					b, _ := (&evidence.OutcomeRecord{Kind: evidence.KindOutcome, EventID: e.id, Time: evidence.Time{Time: indexStart}, Outcome: evidence.Outcome{State: e.state}}).Encode()
					log.add(b)
					continue
				}
				e := &event{
					id:    fmt.Sprintf("ev_%08x-0000-7000-8000-%012x", len(all), rapid.IntRange(0, 1<<30).Draw(t, "id")),
					tool:  rapid.SampledFrom([]string{"stripe.refund.create", "stripe.charge.retrieve", "http.post", "quote\"d\u00e9"}).Draw(t, "tool"),
					agent: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "agent"), state: evidence.StatePending, index: log.Size(),
				}
				all, byID[e.id] = append(all, e), e
				b, _ := action(len(all), func(ev *evidence.Event) {
					ev.ID, ev.EvidenceEventID, ev.Tool, ev.AgentID = e.id, e.id, e.tool, e.agent
				}).Encode()
				log.add(b)
			}
		}
		for range rapid.IntRange(1, 3).Draw(t, "openings") {
			ix, err := OpenIndex(path)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() { done <- ix.Follow(ctx, log) }()
			for range rapid.IntRange(1, 3).Draw(t, "batches") {
				fill(rapid.SampledFrom([]int{1, 7, 300, 1300}).Draw(t, "records"))
				if err := ix.CatchUp(ctx, log.Size()); err != nil {
					t.Fatal(err)
				}
			}
			q := Query{
				Tenant: "acme", Limit: rapid.SampledFrom([]int{1, 10, 1000}).Draw(t, "limit"),
				Tool:  rapid.SampledFrom([]string{"", "stripe.*", "http.post", "quote\"d\u00e9", "none"}).Draw(t, "query tool"),
				Agent: rapid.SampledFrom([]string{"", "a", "nobody"}).Draw(t, "query agent"),
				State: rapid.SampledFrom([]string{"", "pending", "forwarded"}).Draw(t, "query state"),
			}
			var want, got []string
			for _, e := range slices.Backward(all) {
				if (q.Agent == "" || q.Agent == e.agent) && (q.State == "" || q.State == e.state) &&
					(q.Tool == "" || q.Tool == e.tool || q.Tool == "stripe.*" && strings.HasPrefix(e.tool, "stripe.")) {
					want = append(want, e.id+" "+e.state)
				}
			}
			for {
				list, next, err := ix.Events(ctx, q)
				if err != nil {
					t.Fatal(err)
				}
				for _, v := range list {
					got = append(got, v.ID+" "+v.Outcome.State)
				}
				if q.Cursor = next; next == "" || len(got) > 20*q.Limit {
					want = want[:min(len(want), len(got))]
					break
				}
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Fatalf("%+v (-want +got):\n%s", q, d)
			}
			e := all[rapid.IntRange(0, len(all)-1).Draw(t, "one")]
			if v, err := ix.Event(ctx, "acme", e.id); err != nil || v.Log.Index != e.index || v.Outcome.State != e.state {
				t.Fatalf("%s: %+v, %v", e.id, v, err)
			}
			cancel()
			<-done
			if err := ix.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// damagedLog cannot read some of its records.
type damagedLog struct {
	*sliceLog
	bad map[uint64]bool
}

func (l *damagedLog) Read(from uint64, max int) ([]evidence.Entry, error) {
	for i := range max {
		if l.bad[from+uint64(i)] {
			return nil, fmt.Errorf("record %d was altered on disk", from+uint64(i))
		}
	}
	return l.sliceLog.Read(from, max)
}

// TestIndexShowsWhatIsDamaged: an event that was altered in the log is named as
// such, and hides none of the others.
func TestIndexShowsWhatIsDamaged(t *testing.T) {
	log := &damagedLog{newSliceLog("k"), map[uint64]bool{}}
	id := "ev_019a0000-0000-7000-8000-000000000001"
	log.add(
		encode(t, action(1)),
		encode(t, action(2, func(e *evidence.Event) { e.ID, e.EvidenceEventID = id, id })),
		encode(t, action(3)),
	)
	ix := openIndex(t, filepath.Join(t.TempDir(), "index.db"))
	follow(t, ix, log)
	catchUp(t, ix, 3)
	log.bad[1] = true
	list, _, err := ix.Events(context.Background(), Query{Tenant: "acme"})
	if err != nil || len(list) != 3 {
		t.Fatalf("%v, %v", ids(list), err)
	}
	v := list[1]
	if v.ID != id || v.Tool != "stripe.refund.create" || v.AgentID != "support_agent" || !slices.Contains(v.Flags, FlagAltered) ||
		!strings.Contains(v.Explain.Summary, "record 1 was altered on disk") {
		t.Errorf("%+v", v)
	}
	if len(list[0].Flags)+len(list[2].Flags) > 0 {
		t.Errorf("its neighbours: %v, %v", list[0].Flags, list[2].Flags)
	}
	if v, err := ix.Event(context.Background(), "acme", id); err != nil || !slices.Contains(v.Flags, FlagAltered) {
		t.Errorf("%+v, %v", v, err)
	}
}

// TestGlobber: tools are matched as SQLite's GLOB does.
func TestGlobber(t *testing.T) {
	db, err := openSQL(filepath.Join(t.TempDir(), "x.db"), 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rapid.Check(t, func(t *rapid.T) {
		pattern := rapid.StringOfN(rapid.RuneFrom([]rune(`ab.*?[]^-\(`)), 0, 8, -1).Draw(t, "pattern")
		text := rapid.StringOfN(rapid.RuneFrom([]rune(`ab.*[]^-\(`)), 0, 6, -1).Draw(t, "text")
		var want bool
		if err := db.QueryRow(`SELECT ? GLOB ?`, text, pattern).Scan(&want); err != nil {
			t.Fatal(err)
		}
		if got := globber(pattern)(text); got != want {
			t.Fatalf("%q GLOB %q: %v", text, pattern, got)
		}
	})
}

func FuzzDecodeBlock(f *testing.F) {
	b := newBlock(3)
	var r reading
	for i := range 5 {
		record, err := action(i).Encode()
		if err != nil || !r.read(record) {
			f.Fatal(err)
		}
		b.add(3*blockSize+uint64(i), &r)
	}
	f.Add(b.encode())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, content []byte) {
		b, err := decodeBlock(3, content)
		if err != nil {
			if !errors.Is(err, errOtherSchema) {
				t.Fatal(err) // would not be rebuilt
			}
			return
		}
		b.summary()
		again, err := decodeBlock(3, b.encode())
		if err != nil || cmp.Diff(b.rows, again.rows, cmp.AllowUnexported(blockRow{})) != "" || !slices.Equal(b.words, again.words) {
			t.Fatalf("%+v\n%+v\n%v", b, again, err)
		}
	})
}
