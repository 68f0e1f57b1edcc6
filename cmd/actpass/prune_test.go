package main

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/actpass/sidecar/config"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/store"
)

// TestServePrunes: a sidecar that starts removes what was over for longer than
// store.keep, says so in the log, and with 0 keeps it.
func TestServePrunes(t *testing.T) {
	for _, keep := range []string{"30d", "0"} {
		dir := t.TempDir()
		old := time.Now().Add(-40 * 24 * time.Hour)
		db, err := store.OpenSQLite(filepath.Join(dir, "actpass.db"), store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = db.OpenApproval(t.Context(), gate.Approval{ID: "apr_old", TenantID: "default", Fingerprint: "f", Required: 1, CreatedAt: old, ExpiresAt: old.Add(time.Hour)}, gate.Room{Tenant: 9, Agent: 9})
		if err == nil {
			_, err = db.Cancel(t.Context(), "default", "apr_old", gate.Vote{KeyID: "key_1", Time: old})
		}
		if err = errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
		cfg, compiled, err := config.LoadAll(config.Source{Embedded: []byte("data_dir: " + dir + "\nlisten: { proxy: \"off\", reverse: \"off\", api: \"127.0.0.1:0\" }\nstore: { keep: " + keep + " }\n")}, nil)
		if err != nil {
			t.Fatal(err)
		}
		p, err := start(t.Context(), asSidecar, cfg, compiled, nil, zap.NewNop())
		if err != nil {
			t.Fatal(err)
		}
		gone := func() bool {
			_, err := p.store.GetApproval(context.Background(), "default", "apr_old")
			return errors.Is(err, gate.ErrNotFound)
		}
		wait := 5 * time.Second
		if keep == "0" {
			wait = 300 * time.Millisecond
		}
		for end := time.Now().Add(wait); !gone() && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		}
		if gone() != (keep != "0") {
			t.Errorf("keep %s: gone %v", keep, gone())
		}
		told := func() (told bool) {
			list, err := p.trail.Read(0, 100)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range list {
				told = told || strings.Contains(string(e.Record), "old approvals and grants were removed")
			}
			return told
		}
		for end := time.Now().Add(wait); !told() && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		}
		if told() != (keep != "0") {
			t.Errorf("keep %s: on record %v", keep, told())
		}
		if err := p.shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	}
}
