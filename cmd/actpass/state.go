package main

import (
	"context"
	"encoding/hex"
	"errors"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"github.com/actpass/sidecar/config"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/ledger"
	"github.com/actpass/sidecar/notify"
	"github.com/actpass/sidecar/store"
)

// state is what must not be forgotten: SQLite in the data directory, or the
// PostgreSQL that several sidecars share.
type state interface {
	gate.Store
	notify.Outbox
}

// openStore opens the store that the settings name. changed hears when a shared
// database goes away and comes back; nil for nobody.
func openStore(ctx context.Context, cfg *config.Config, changed func(error)) (state, error) {
	dir := cfg.Path(cfg.DataDir)
	if cfg.Store.Driver != "postgres" {
		db, err := store.OpenSQLite(filepath.Join(dir, "actpass.db"), store.Options{})
		if err != nil {
			return nil, err // and not a nil pointer that looks like a store
		}
		return db, nil
	}
	dsn, err := cfg.StoreDSN()
	if err != nil {
		return nil, err
	}
	// Who it is among the sidecars: what it took and did not record is its to mend.
	owner, err := secretFile(filepath.Join(dir, "store.owner"))
	if err != nil {
		return nil, err
	}
	db, err := store.OpenPostgres(ctx, dsn, store.PostgresOptions{
		Owner: hex.EncodeToString(owner[:16]), Conns: cfg.Store.MaxConns, Changed: changed,
	})
	if err != nil {
		return nil, err
	}
	return db, nil
}

// blocked is how long the log and the store have waited for the disk in system calls,
// see tuneProcessors.
func (p *program) blocked() time.Duration {
	d := ledger.Blocked()
	if db, ok := p.store.(*store.SQLite); ok {
		d += db.Blocked()
	}
	return d
}

// storeChanged is told by the store itself, and must not wait for it.
func (p *program) storeChanged(err error) {
	if err != nil {
		p.log.Error("the database is away: calls that need no shared state go on, enforce and strict refuse the others", zap.Error(err))
		return
	}
	p.log.Info("the database answers again")
	select {
	case p.storeBack <- struct{}{}:
	default:
	}
}

// without says that the store is away, and lets the start go on: what needed it is
// done when it is back.
func (p *program) without(what string, err error) error {
	if !errors.Is(err, store.ErrAway) {
		return err
	}
	p.log.Warn("started without the database: "+what+" waits until it answers", zap.Error(err))
	return nil
}

// countByStore has limits count by the clock of the database, where sidecars share
// one: by that of each machine they would count apart.
func (p *program) countByStore(ctx context.Context) error {
	shared, ok := p.store.(interface {
		Clock(ctx context.Context) (time.Time, error)
	})
	if !ok {
		return nil
	}
	now, err := shared.Clock(ctx)
	if err != nil {
		return err
	}
	if off := time.Since(now); off.Abs() > time.Second {
		p.log.Warn("the clocks of this machine and of the database are apart; limits count by the database's", zap.Duration("by", off.Round(time.Millisecond)))
	}
	p.gate.CountLimitsFrom(now)
	return nil
}

// followShared keeps this sidecar in step with what others put into a shared
// database, and does what waited for it.
func (p *program) followShared(ctx context.Context) {
	tick := time.NewTicker(sharedEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-p.storeBack:
			// Also after a start without it; and it may be another server now.
			if err := p.countByStore(ctx); err != nil {
				p.fault(ctx, "store", err)
			}
			if err := p.gate.RecordTransitions(ctx); err != nil {
				p.fault(ctx, "evidence", err)
			}
			p.lock.Lock()
			err := p.notifier.Load(ctx, p.channels)
			p.lock.Unlock()
			if err != nil {
				p.fault(ctx, "notify", err)
			}
		}
		if err := p.gate.LoadModes(ctx); err != nil {
			p.fault(ctx, "store", err)
		} else {
			p.keepModes(ctx)
		}
		p.followFleet(ctx)
	}
}

// sharedEvery is how soon a mode that was set at one sidecar holds at the others.
const sharedEvery = 5 * time.Second

func (p *program) fault(ctx context.Context, kind string, err error) {
	if ctx.Err() == nil {
		p.gate.Fault(kind, err)
	}
}
