package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"go.uber.org/zap"

	"github.com/actpass/sidecar/gate"
)

// modesFile holds the modes that a shared database had in force when it was last
// asked: a start without it must not be looser than the run before. Who can write to
// it can tighten, or take away what was tightened until the database answers.
const modesFile = "modes.json"

// loadModes takes the modes that were set while running: from the store, or from what
// was known of it while it is away.
func (p *program) loadModes(ctx context.Context) error {
	err := p.gate.LoadModes(ctx)
	if err == nil {
		p.keepModes(ctx)
		return nil
	}
	if err := p.without("what was set of modes since it was last asked", err); err != nil {
		return err
	}
	raw, err := os.ReadFile(filepath.Join(p.dir, modesFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it was never asked from here
	}
	var list []gate.ModeOverride
	if err == nil {
		err = json.Unmarshal(raw, &list)
	}
	for _, o := range list {
		if err == nil && !gate.ValidMode(o.Mode) {
			err = fmt.Errorf("%q is no mode", o.Mode)
		}
	}
	if err != nil {
		return fmt.Errorf("the database is away, and %s, which holds the modes that were set there, cannot be used: wait for the database, or remove the file to start with the modes of the configuration: %w",
			filepath.Join(p.dir, modesFile), err)
	}
	p.gate.AssumeModes(list)
	p.modesKept = raw
	p.log.Warn("the modes that the database had when it was last asked are in force", zap.Int("overrides", len(list)))
	return nil
}

// keepModes writes what is in force, when it is another than before. Only start and
// followShared call it.
func (p *program) keepModes(ctx context.Context) {
	if p.cfg.Store.Driver != "postgres" {
		return
	}
	list := p.gate.KnownModes()
	if list == nil {
		list = []gate.ModeOverride{}
	}
	raw, err := json.Marshal(list)
	if err == nil && bytes.Equal(raw, p.modesKept) {
		return
	}
	if err == nil {
		err = replaceWhole(filepath.Join(p.dir, modesFile), raw)
	}
	if err != nil {
		p.fault(ctx, "store", fmt.Errorf("keep the modes for a start without the database: %w", err))
		return
	}
	p.modesKept = raw
}

// replaceWhole puts data in the place of what path holds, durably and whole.
func replaceWhole(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // after the rename there is nothing to remove
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}
