package storetest

import (
	"fmt"
	"testing"
	"time"

	"github.com/actpass/sidecar/gate"
)

// However many are past their time, one transaction takes a page of them.
func testExpirePages(t *testing.T, s *suite) {
	const n = 70
	for i := range n {
		s.opens(t, s.question(fmt.Sprint("q", i)))
	}
	total, pages := 0, 0
	for {
		list, err := s.ExpireApprovals(s.ctx, noon.Add(24*time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		if len(list) == 0 {
			break
		}
		total, pages = total+len(list), pages+1
	}
	if total != n || pages != 2 {
		t.Errorf("%d expired in %d pages", total, pages)
	}
}

func testMoved(t *testing.T, s *suite) {
	moved := func(after int64, want ...string) (last int64) {
		t.Helper()
		got, last, err := s.Moved(s.ctx, after)
		if err != nil {
			t.Fatal(err)
		}
		same(t, fmt.Sprintf("moved after %d", after), got, want)
		return last
	}
	if last := moved(-1); last != 0 || moved(0) != 0 {
		t.Errorf("an empty store starts at %d", last)
	}
	a := s.approved(t, "a")
	start := moved(-1)
	if moved(start) != start || moved(start-1, a.ID) != start {
		t.Error("the cursor is not the id of the newest move")
	}
	b := s.opens(t, s.question("b"))
	moved(start) // opening is no move
	if _, err := s.Cancel(s.ctx, "acme", b.ID, gate.Vote{KeyID: "system", Time: noon}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Consume(s.ctx, "acme", a.ID, "ev_1", noon.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	next := moved(start, b.ID, a.ID)
	moved(next)
}
