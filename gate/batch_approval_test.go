package gate_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
)

// tiered asks the leads for small orders, finance too for larger ones, finance alone
// for large ones, and the board for the rest.
func tiered(t *testing.T) *fixture {
	t.Helper()
	f := messages(t)
	f.rules.Policy = rules(t, "enforce", `policies:
  - name: p
    version: 1
    tools: ["mcp.shop", "mcp.shop.**"]
    rules:
      - { name: free, when: tool == "mcp.shop" || args.amount < 10, decision: allow, reason_code: shop.free }
      - { name: small, when: args.amount < 100, decision: require_approval, reason_code: shop.small, approval: { approvers: [support-leads] } }
      - { name: larger, when: args.amount < 1000, decision: require_approval, reason_code: shop.larger, approval: { approvers: [finance, support-leads], required: 2 } }
      - { name: large, when: args.amount < 10000, decision: require_approval, reason_code: shop.large, approval: { approvers: [finance] } }
      - { name: huge, decision: require_approval, reason_code: shop.huge, approval: { approvers: [board] } }
`).Policy
	f.Load(f.rules)
	return f
}

// TestABatchAsksForEachOfItsCalls: whoever approves a request that holds several
// calls must be allowed to for each, and see each.
func TestABatchAsksForEachOfItsCalls(t *testing.T) {
	batch := func(amounts ...int) string {
		list := make([]string, len(amounts))
		for i, a := range amounts {
			list[i] = order(i+1, "1", a)
		}
		return "[" + strings.Join(list, ",") + "]"
	}
	for _, c := range []struct {
		amounts  []int
		groups   string // "" for denied
		required int
	}{
		{[]int{50}, "support-leads", 1},
		{[]int{50, 60}, "support-leads", 1},
		{[]int{5, 50, 6}, "support-leads", 1},
		{[]int{50, 500}, "support-leads", 2},
		{[]int{500, 50}, "support-leads", 2},
		{[]int{500, 5000}, "finance", 2},
		{[]int{5000, 500, 5, 5001}, "finance", 2},
		{[]int{50, 5000}, "", 0},
		{[]int{5000, 50}, "", 0},
		{[]int{5000, 50000}, "", 0},
		{[]int{50, 500, 5000}, "", 0},
	} {
		t.Run(fmt.Sprint(c.amounts), func(t *testing.T) {
			f := tiered(t)
			_, ref := f.Check(t.Context(), f.message(batch(c.amounts...)))
			if c.groups == "" {
				if ref == nil || ref.Status != 403 || ref.Approval != "" || !strings.Contains(ref.Sentence, "No group may approve") {
					t.Fatalf("%+v", ref)
				}
				return
			}
			a := f.pending(t)
			if strings.Join(a.Approvers, " ") != c.groups || a.Required != c.required {
				t.Errorf("asks %v, %d of them", a.Approvers, a.Required)
			}
			// All that would be sent is told, on record too.
			asked, err := json.Marshal(a.Args)
			if err != nil || len(c.amounts) > 1 && !strings.Contains(a.Summary, fmt.Sprintf("The request holds %d calls, and all of them are sent.", len(c.amounts))) {
				t.Errorf("%s, %v", a.Summary, err)
			}
			for _, amount := range c.amounts {
				for where, text := range map[string]string{"the question": string(asked), "the record": strings.Join(f.rec.actions(t)[0].Notes, " ")} {
					if len(c.amounts) > 1 && !strings.Contains(text, fmt.Sprintf(`"amount":%d`, amount)) {
						t.Errorf("%s does not tell of %d: %s", where, amount, text)
					}
				}
			}
			if a.Several() != (len(c.amounts) > 1) {
				t.Errorf("several: %v", a.Several())
			}
			if a.Several() {
				var bad *gate.FieldError
				if _, err := f.CreateGrant(t.Context(), approver, gate.NewGrant{ApprovalID: a.ID, Count: 2, TTL: time.Hour, Reason: "x"}); !errors.As(err, &bad) || bad.Field != "approval_id" {
					t.Errorf("granted after a batch: %v", err)
				}
			}
			wrong := gate.Identity{TenantID: "acme", KeyID: "key_x", Role: gate.RoleApprover, Groups: []string{"board"}}
			if _, err := f.Decide(t.Context(), wrong, a.ID, gate.Approve, "", nil); !errors.Is(err, gate.ErrNotAllowed) {
				t.Errorf("the board: %v", err)
			}
			for i := range c.required {
				who := gate.Identity{TenantID: "acme", KeyID: fmt.Sprint("key_", i), Role: gate.RoleApprover, Groups: []string{c.groups}}
				if permit, _ := f.Check(t.Context(), f.message(batch(c.amounts...))); permit != nil {
					t.Fatalf("sent after %d of %d words", i, c.required)
				}
				if _, err := f.Decide(t.Context(), who, a.ID, gate.Approve, "", nil); err != nil {
					t.Fatal(err)
				}
			}
			permit, ref := f.Check(t.Context(), f.message(batch(c.amounts...)))
			if permit == nil {
				t.Fatalf("%+v", ref)
			}
			permit.Done(gate.Outcome{State: evidence.StateForwarded, Status: 200})
		})
	}
}

// TestALongBatchIsToldInBounds: a hundred calls with long arguments do not fill the
// store or the record, and each of them is told.
func TestALongBatchIsToldInBounds(t *testing.T) {
	f := tiered(t)
	list := make([]string, 100)
	for i := range list {
		list[i] = fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"pay","arguments":{"amount":50,"memo":"%s","card":{"number":"4242424242424242"}}}}`, i, strings.Repeat("x", 50*(i%20)))
	}
	f.rules.MaxInspect = 1 << 20
	f.Load(f.rules)
	if permit, _ := f.Check(t.Context(), f.message("["+strings.Join(list, ",")+"]")); permit != nil {
		t.Fatal("not held")
	}
	a := f.pending(t)
	asked, err := json.Marshal(a.Args)
	if err != nil || len(asked) > 64<<10 || strings.Count(string(asked), `"tool":"mcp.shop.pay"`) != 100 || !strings.Contains(string(asked), evidence.OmittedKey) {
		t.Errorf("%d bytes: %.300s %v", len(asked), asked, err)
	}
	e := f.rec.actions(t)[0]
	notes := strings.Join(e.Notes, "\n")
	if len(e.Notes) != 100 || len(notes) > 64<<10 || strings.Contains(notes+string(asked), "4242424242424242") {
		t.Errorf("%d notes, %d bytes: %.300s", len(e.Notes), len(notes), notes)
	}
}
