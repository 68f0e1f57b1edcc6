package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/actpass/sidecar/config"
	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/ledger"
)

// spool takes the evidence of a command that works on the data directory while
// a sidecar holds the log: one file a record, durable before it is
// acknowledged. The sidecar moves them into the log.
//
// A crash between appending and removing writes a record twice, under one event
// id: never less than once.
type spool struct{ dir string }

func (s spool) Append(_ context.Context, record evidence.Record) (evidence.Entry, error) {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return evidence.Entry{}, fmt.Errorf("spool evidence: %w", err)
	}
	name := filepath.Join(s.dir, uuid.Must(uuid.NewV7()).String())
	f, err := os.OpenFile(name+".part", os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return evidence.Entry{}, fmt.Errorf("spool evidence: %w", err)
	}
	_, err = f.Write(record.Bytes())
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(name+".part", name+".json")
	}
	if err != nil {
		return evidence.Entry{}, fmt.Errorf("spool evidence: %w", err)
	}
	return evidence.Entry{Record: record.Bytes()}, nil
}

func (s spool) Later(record evidence.Record) bool {
	_, err := s.Append(context.Background(), record)
	return err == nil
}

func (s spool) Soon(record evidence.Record) error {
	_, err := s.Append(context.Background(), record)
	return err
}

func (p *program) importSpool(ctx context.Context) error {
	names, err := filepath.Glob(filepath.Join(p.dir, "spool", "*.json"))
	if err != nil {
		return fmt.Errorf("import spooled evidence: %w", err)
	}
	sort.Strings(names)
	for _, name := range names {
		b, err := os.ReadFile(name)
		var record evidence.Record
		if err == nil {
			record, err = evidence.ReadRecord(b)
		}
		if err == nil {
			_, err = p.trail.Append(ctx, record)
		}
		if err == nil {
			err = os.Remove(name)
		}
		if err != nil {
			return fmt.Errorf("import spooled evidence %s: %w", name, err)
		}
	}
	return nil
}

// watchFiles looks each second at the files that other processes write into the
// data directory: spooled evidence, and the passport keys.
func (p *program) watchFiles(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := p.importSpool(ctx); err != nil && ctx.Err() == nil {
				p.gate.Fault("evidence", err)
			}
			p.tendAuthority(ctx)
			p.tendAccount(ctx)
			p.tendCA(ctx)
		}
	}
}

// openLocal opens the data directory without doors, for commands that work on
// it alone: a sidecar may run on it at the same time.
func openLocal(ctx context.Context, cfg *config.Config) (*gate.Gate, func(), error) {
	dir := cfg.Path(cfg.DataDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("create data_dir: %w", err)
	}
	key, err := redactKey(cfg, dir)
	if err != nil {
		return nil, nil, err
	}
	db, err := openStore(ctx, cfg, nil)
	if err != nil {
		return nil, nil, err
	}
	var recorder gate.Recorder = spool{filepath.Join(dir, "spool")}
	closeLog := func() {}
	trail, err := ledger.Open(filepath.Join(dir, "ledger"), ledger.Options{})
	switch {
	case err == nil:
		recorder, closeLog = trail, func() { _ = trail.Close() }
	case !errors.Is(err, ledger.ErrLocked):
		_ = db.Close()
		return nil, nil, err
	}
	g, err := gate.New(gate.Options{Store: db, Recorder: recorder, RedactKey: key})
	if err != nil {
		closeLog()
		_ = db.Close()
		return nil, nil, err
	}
	g.Load(&gate.Rules{
		Mode:     cfg.Mode,
		Identity: gate.Identity{TenantID: cfg.Identity.TenantID, AgentID: "", Source: gate.SourceConfig, Role: gate.RoleAdmin},
	})
	return g, func() { closeLog(); _ = db.Close() }, nil
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails: crypto/rand ends the process instead
	return b
}

// spooled says whether evidence waits to be moved into the log.
func spooled(dir string) bool {
	entries, err := os.ReadDir(filepath.Join(dir, "spool"))
	if err != nil {
		return false
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".json") {
			return true
		}
	}
	return false
}
