package store

import (
	"testing"
	"time"

	"github.com/actpass/sidecar/gate"
)

// TestIssuedPassportsAreForgotten: a week after its end a passport leaves the list,
// so that the list stays as short as what is issued in a week.
func TestIssuedPassportsAreForgotten(t *testing.T) {
	now := time.Now().UTC().Truncate(time.Second)
	passport := func(id string, ended time.Duration) gate.Passport {
		return gate.Passport{ID: id, TenantID: "acme", AgentID: "a", Tools: []string{"t"}, Resources: []string{"*"}, IssuedAt: now.Add(-ended - time.Minute), ExpiresAt: now.Add(-ended)}
	}
	fill := func(s gate.Store) {
		t.Helper()
		for _, p := range []gate.Passport{passport("ap_old", passportGrace+time.Minute), passport("ap_kept", passportGrace-time.Minute), passport("ap_new", 0)} {
			if err := s.KeepPassport(t.Context(), p); err != nil {
				t.Fatal(err)
			}
		}
	}
	check := func(s gate.Store) {
		t.Helper()
		list, _, err := s.Passports(t.Context(), gate.PassportQuery{TenantID: "acme"})
		if err != nil || len(list) != 2 || list[0].ID != "ap_new" || list[1].ID != "ap_kept" {
			t.Errorf("%v %v", list, err)
		}
	}
	s := openTest(t, t.TempDir()+"/x.db")
	fill(s) // each takes along what is over
	check(s)
	pg := openPostgres(t, postgres(t).Database(t), PostgresOptions{})
	fill(pg)
	if err := pg.forget(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	check(pg)
}
