package api

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/actpass/sidecar/gate"
)

// pagedGate lists approvals as a store does: by pages, newest first.
type pagedGate struct {
	*fakeGate
	list  []gate.Approval
	pages int
}

func (g *pagedGate) Approvals(_ context.Context, _ gate.Identity, q gate.ApprovalQuery) ([]gate.Approval, string, error) {
	g.pages++
	from, _ := strconv.Atoi(q.Cursor)
	var page []gate.Approval
	for i := from; i < len(g.list); i++ {
		if q.State != "" && g.list[i].State != q.State {
			continue
		}
		if len(page) == q.Limit {
			return page, strconv.Itoa(i), nil
		}
		page = append(page, g.list[i])
	}
	return page, "", nil
}

// TestApprovalsByOutcome: the few that a human has to look into are found among
// thousands that were used, all of them and each once, whatever the size of a page.
func TestApprovalsByOutcome(t *testing.T) {
	used := time.Date(2026, 1, 31, 9, 30, 0, 0, time.UTC)
	g := &pagedGate{}
	a := newAPI(t, func(o *Options) {
		o.Now = func() time.Time { return used.Add(time.Hour) }
		g.fakeGate = o.Gate.(*fakeGate)
		o.Gate = g
	})
	want := map[string][]string{}
	for i := range 2600 {
		one := approval(fmt.Sprintf("apr_%d", i), "support_agent", "key_gateway")
		one.State, one.ConsumedBy, one.ClosedAt = gate.ApprovalConsumed, fmt.Sprintf("ev_%d", i), used
		state := "forwarded"
		switch {
		case i%10 == 0:
			one.State, one.ConsumedBy = gate.ApprovalPending, ""
			g.list = append(g.list, one)
			continue
		case i == 7 || i == 8 || i == 2101 || i == 2599:
			state = "ambiguous"
		case i == 2345:
			state = "pending" // for an hour
		case i == 2347:
			state = "" // the record is gone
		case i > 400 && i < 460:
			state = "refused"
		}
		if state != "" {
			a.events.events[one.ConsumedBy] = fmt.Sprintf(`{"id":%q,"door":"connect","outcome":{"state":%q,"bytes":0}}`, one.ConsumedBy, state)
		}
		switch state {
		case "ambiguous", "pending", "":
			want["unclear"] = append(want["unclear"], one.ID)
		}
		if state == "" {
			state = "unknown"
		}
		want[state] = append(want[state], one.ID)
		g.list = append(g.list, one)
	}
	for _, outcome := range outcomes {
		for _, limit := range []int{3, 50, 200} {
			if outcome == "forwarded" && limit < 50 {
				continue
			}
			var got []string
			asked := 0
			for cursor := ""; ; {
				g.pages = 0
				r := a.call("GET", fmt.Sprintf("/api/v1/approvals?outcome=%s&limit=%d&cursor=%s", outcome, limit, cursor), approverKey, "")
				if r.status != 200 {
					t.Fatalf("%s: %d %s", outcome, r.status, r.body)
				}
				page := r.at("data").([]any)
				if len(page) > limit || g.pages*limit > maxLooked+limit {
					t.Errorf("%s: %d on a page of %d, %d pages of the store", outcome, len(page), limit, g.pages)
				}
				for _, one := range page {
					got = append(got, one.(map[string]any)["id"].(string))
				}
				asked++
				if cursor, _ = r.at("next_cursor").(string); cursor == "" {
					break
				}
			}
			if !slices.Equal(got, want[outcome]) {
				t.Errorf("%s by %d: %d found, want %d", outcome, limit, len(got), len(want[outcome]))
			}
			if outcome == "ambiguous" && asked > 8 {
				t.Errorf("%d questions for %d ambiguous ones", asked, len(got))
			}
		}
	}
	list, more, err := NewClient(a.server.URL, approverKey, nil).UnclearApprovals(t.Context(), 30*24*time.Hour, 4)
	if err != nil || len(list) != 4 || !more || list[0].ID != "apr_7" {
		t.Errorf("the newest unclear ones: %d, %v, %v", len(list), more, err)
	}
	if list, more, err = NewClient(a.server.URL, approverKey, nil).UnclearApprovals(t.Context(), 30*24*time.Hour, 100); err != nil || len(list) != 6 || more {
		t.Errorf("all unclear ones: %d, %v, %v", len(list), more, err)
	}
	if list, _, err = NewClient(a.server.URL, approverKey, nil).UnclearApprovals(t.Context(), time.Minute, 100); err != nil || len(list) != 0 {
		t.Errorf("those of the last minute: %d, %v", len(list), err)
	}
	for _, bad := range []string{"outcome=held", "outcome=", "outcome=ambiguous&state=pending"} {
		if r := a.call("GET", "/api/v1/approvals?"+bad, approverKey, ""); r.status != 400 {
			t.Errorf("%s: %d %s", bad, r.status, r.body)
		}
	}
	if r := a.call("GET", "/api/v1/approvals?outcome=unclear&state=consumed", approverKey, ""); r.status != 200 || !strings.Contains(r.body, "apr_7") {
		t.Errorf("with its state: %d", r.status)
	}
}
