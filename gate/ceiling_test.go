package gate_test

import (
	"errors"
	"testing"

	"github.com/actpass/sidecar/gate"
)

func ceiling() *gate.Ceiling {
	return &gate.Ceiling{
		AllowedTools: []string{"stripe.refund.*"}, AllowedResources: []string{"stripe:charge:*"}, RiskTier: "high",
		ResourceConstraints: map[string]any{"max_amount": int64(20000), "currency": "usd"},
	}
}

// TestCeiling makes real keys and lets them issue.
func TestCeiling(t *testing.T) {
	f := withAuthority(newGate(t, "strict", nil))
	made := func(n gate.NewKey) gate.Identity {
		t.Helper()
		_, secret, err := f.CreateKey(t.Context(), admin, n)
		if err != nil {
			t.Fatal(err)
		}
		id, err := f.Authenticate(t.Context(), secret, "")
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	bound := made(gate.NewKey{Name: "bound", Role: gate.RoleGateway, AgentID: "support_agent", Ceiling: ceiling()})
	unbound := made(gate.NewKey{Name: "unbound", Role: gate.RoleApprover, Ceiling: ceiling()})
	without := made(gate.NewKey{Name: "without", Role: gate.RoleGateway})

	within := func() gate.NewPassport {
		n := wish()
		n.RiskTier = "high"
		return n
	}
	p, err := f.IssuePassport(t.Context(), bound, within())
	if err != nil {
		t.Fatal(err)
	}
	if permit, ref := f.Check(t.Context(), f.with(p.Token, "4900")); permit == nil {
		t.Errorf("%+v", ref)
	}
	for name, edit := range map[string]func(*gate.NewPassport){
		"another tool":        func(n *gate.NewPassport) { n.AllowedTools = append(n.AllowedTools, "stripe.payout.create") },
		"every tool":          func(n *gate.NewPassport) { n.AllowedTools = []string{"*"} },
		"every resource":      func(n *gate.NewPassport) { n.AllowedResources = []string{"*"} },
		"a higher amount":     func(n *gate.NewPassport) { n.ResourceConstraints["max_amount"] = int64(20001) },
		"no amount":           func(n *gate.NewPassport) { delete(n.ResourceConstraints, "max_amount") },
		"no constraints":      func(n *gate.NewPassport) { n.ResourceConstraints = nil },
		"another currency":    func(n *gate.NewPassport) { n.ResourceConstraints["currency"] = "eur" },
		"a higher risk":       func(n *gate.NewPassport) { n.RiskTier = "critical" },
		"any risk":            func(n *gate.NewPassport) { n.RiskTier = "" },
		"another agent":       func(n *gate.NewPassport) { n.AgentID = "other" },
		"another audience":    func(n *gate.NewPassport) { n.Audience = "elsewhere" },
		"an agent named star": func(n *gate.NewPassport) { n.AgentID = "*" },
	} {
		n := within()
		edit(&n)
		if _, err := f.IssuePassport(t.Context(), bound, n); !errors.Is(err, gate.ErrNotAllowed) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := f.IssuePassport(t.Context(), without, n); !errors.Is(err, gate.ErrNotAllowed) {
			t.Errorf("without a ceiling, %s: %v", name, err)
		}
	}
	n := within()
	n.Audience = "actpass"
	if _, err := f.IssuePassport(t.Context(), bound, n); err != nil {
		t.Errorf("its own audience by name: %v", err)
	}
	n = within()
	n.AgentID = "other"
	if _, err := f.IssuePassport(t.Context(), unbound, n); err != nil {
		t.Errorf("a key bound to no agent: %v", err)
	}
	for _, id := range []gate.Identity{bound, unbound} {
		if err := f.RevokePassport(t.Context(), id, p.ID, ""); !errors.Is(err, gate.ErrNotAllowed) {
			t.Errorf("a ceiling is no right to revoke: %v", err)
		}
	}
}

func TestCeilingsThatMeanNothing(t *testing.T) {
	f := withAuthority(newGate(t, "strict", nil))
	for name, tt := range map[string]struct {
		role  string
		edit  func(*gate.Ceiling)
		field string
	}{
		"of an admin":        {gate.RoleAdmin, func(*gate.Ceiling) {}, "ceiling"},
		"no tools":           {gate.RoleGateway, func(c *gate.Ceiling) { c.AllowedTools = nil }, "ceiling.allowed_tools"},
		"no resources":       {gate.RoleGateway, func(c *gate.Ceiling) { c.AllowedResources = nil }, "ceiling.allowed_resources"},
		"unknown constraint": {gate.RoleGateway, func(c *gate.Ceiling) { c.ResourceConstraints["max_amonut"] = int64(1) }, "ceiling.resource_constraints"},
		"amount as text":     {gate.RoleGateway, func(c *gate.Ceiling) { c.ResourceConstraints["max_amount"] = "1" }, "ceiling.resource_constraints"},
		"unknown risk":       {gate.RoleGateway, func(c *gate.Ceiling) { c.RiskTier = "odd" }, "ceiling.risk_tier"},
		"a glob with NUL":    {gate.RoleGateway, func(c *gate.Ceiling) { c.AllowedTools = []string{"a\x00"} }, "ceiling.allowed_tools"},
	} {
		c := ceiling()
		tt.edit(c)
		_, _, err := f.CreateKey(t.Context(), admin, gate.NewKey{Name: "n", Role: tt.role, Ceiling: c})
		var field *gate.FieldError
		if !errors.As(err, &field) || field.Field != tt.field {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The zero ceiling holds nothing.
	n := wish()
	_, err := f.IssuePassport(t.Context(), gate.Identity{TenantID: "acme", Role: gate.RoleGateway, Ceiling: &gate.Ceiling{}}, n)
	if !errors.Is(err, gate.ErrNotAllowed) {
		t.Error(err)
	}
}
