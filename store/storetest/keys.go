package storetest

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/actpass/sidecar/gate"
)

func testKeys(t *testing.T, s *suite) {
	full := gate.Key{
		ID: "key_1", TenantID: "acme", Name: "lead", Role: gate.RoleApprover, AgentID: "a", Groups: []string{"support-leads", "x"},
		Mode: gate.ModeEnforce, Prefix: "sk_live_ab", CreatedAt: noon, ExpiresAt: at(time.Hour),
		Ceiling: &gate.Ceiling{
			AllowedTools: []string{"stripe.refund.*"}, AllowedResources: []string{"*"}, RiskTier: "high",
			ResourceConstraints: map[string]any{"max_amount": int64(1<<53 + 1), "max": map[string]any{"x": 0.5}, "one_of": map[string]any{"c": []any{"usd", int64(1)}}},
		},
	}
	if err := s.CreateKey(s.ctx, full, hashOf("one")); err != nil {
		t.Fatal(err)
	}
	bare := gate.Key{ID: "key_2", TenantID: "acme", Role: gate.RoleGateway, CreatedAt: noon}
	if err := s.CreateKey(s.ctx, bare, hashOf("two")); err != nil {
		t.Fatal(err)
	}
	for _, taken := range []struct {
		id     string
		secret string
	}{{"key_1", "three"}, {"key_3", "one"}} {
		k := bare
		k.ID = taken.id
		if err := s.CreateKey(s.ctx, k, hashOf(taken.secret)); !errors.Is(err, gate.ErrIllegalState) {
			t.Errorf("a second %s/%s: %v", taken.id, taken.secret, err)
		}
	}

	got, err := s.KeyByHash(s.ctx, hashOf("one"))
	if err != nil {
		t.Fatal(err)
	}
	same(t, "key", got, full)
	got, err = s.KeyByHash(s.ctx, hashOf("two"))
	if err != nil {
		t.Fatal(err)
	}
	same(t, "bare key", got, bare)
	if _, err := s.KeyByHash(s.ctx, hashOf("nobody")); !errors.Is(err, gate.ErrNotFound) {
		t.Errorf("unknown secret: %v", err)
	}

	for _, use := range []time.Duration{90 * time.Second, 100 * time.Second, 30 * time.Second} {
		if err := s.TouchKey(s.ctx, "key_1", at(use)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.TouchKey(s.ctx, "key_9", noon); !errors.Is(err, gate.ErrNotFound) {
		t.Errorf("touch an unknown key: %v", err)
	}
	full.LastUsedAt = at(90 * time.Second).Truncate(time.Minute)

	// Revoking is once, by the right tenant, and the key can still be found.
	if _, err := s.RevokeKey(s.ctx, "other", "key_1", noon); !errors.Is(err, gate.ErrNotFound) {
		t.Errorf("another tenant revokes: %v", err)
	}
	full.RevokedAt = at(time.Minute)
	for _, when := range []time.Duration{time.Minute, time.Hour} {
		got, err = s.RevokeKey(s.ctx, "acme", "key_1", at(when))
		if err != nil {
			t.Fatal(err)
		}
		same(t, "revoked", got, full)
	}
	got, err = s.KeyByHash(s.ctx, hashOf("one"))
	if err != nil {
		t.Fatal(err)
	}
	same(t, "revoked, by hash", got, full)
}

func testKeyPages(t *testing.T, s *suite) {
	var want []string
	for i := range 7 {
		// Two at a time share a moment, so that the id has to decide.
		k := gate.Key{ID: fmt.Sprintf("key_%d", i), TenantID: "acme", Role: gate.RoleGateway, CreatedAt: at(time.Duration(i/2) * time.Second)}
		if err := s.CreateKey(s.ctx, k, hashOf(k.ID)); err != nil {
			t.Fatal(err)
		}
		want = append([]string{k.ID}, want...)
	}
	other := gate.Key{ID: "key_other", TenantID: "other", Role: gate.RoleGateway, CreatedAt: noon}
	if err := s.CreateKey(s.ctx, other, hashOf("o")); err != nil {
		t.Fatal(err)
	}
	for limit := 1; limit <= 8; limit++ {
		var got []string
		cursor := ""
		for {
			keys, next, err := s.Keys(s.ctx, "acme", cursor, limit)
			if err != nil {
				t.Fatal(err)
			}
			if len(keys) > limit {
				t.Fatalf("%d keys with limit %d", len(keys), limit)
			}
			for _, k := range keys {
				got = append(got, k.ID)
			}
			if next == "" {
				break
			}
			cursor = next
		}
		same(t, fmt.Sprintf("pages of %d", limit), got, want)
	}
	var fe *gate.FieldError
	if _, _, err := s.Keys(s.ctx, "acme", "made up", 5); !errors.As(err, &fe) || fe.Field != "cursor" {
		t.Errorf("a made up cursor: %v", err)
	}
}
