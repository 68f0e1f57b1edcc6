package storetest

import (
	"errors"
	"testing"
	"time"

	"github.com/actpass/sidecar/gate"
)

func testAnswers(t *testing.T, s *suite) {
	now := time.Now()
	soon := now.Add(10 * time.Minute)
	get := func(tenant, id, want string, at time.Time) {
		t.Helper()
		b, err := s.Answer(s.ctx, tenant, id, at)
		if want == "" {
			if !errors.Is(err, gate.ErrNotFound) {
				t.Errorf("%s: %q %v", id, b, err)
			}
			return
		}
		if err != nil || string(b) != want {
			t.Errorf("%s: %q %v, want %q", id, b, err, want)
		}
	}
	get("acme", "apr_1", "", now)
	for _, text := range []string{"one", "two"} {
		if err := s.KeepAnswer(s.ctx, "acme", "apr_1", []byte(text), now, soon); err != nil {
			t.Fatal(err)
		}
		get("acme", "apr_1", text, now)
	}
	get("other", "apr_1", "", now)
	get("acme", "apr_1", "", soon)
	if err := s.KeepAnswer(s.ctx, "acme", "apr_2", []byte("x"), soon.Add(time.Second), soon.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	get("acme", "apr_2", "x", soon)
}
