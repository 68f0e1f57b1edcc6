package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/actpass/sidecar/config"
	"github.com/actpass/sidecar/store"
	"github.com/actpass/sidecar/store/pgtest"
)

func fleetConfig(t *testing.T, secret string) *config.Config {
	t.Helper()
	cfg := config.Default()
	cfg.Dir = t.TempDir()
	cfg.Store.KeyFile = filepath.Join(cfg.Dir, "secret")
	if err := os.WriteFile(cfg.Store.KeyFile, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	return cfg
}

// TestFleetKeys: sidecars that start together on a new database end with one key; the
// database has it sealed, and opens it to nobody with another secret.
func TestFleetKeys(t *testing.T) {
	pg := pgtest.Start(t)
	ctx := context.Background()
	db, err := store.OpenPostgres(ctx, pg.Database(t), store.PostgresOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	secret := strings.Repeat("s3cret ", 6)
	paths := make([]string, 5)
	var wg sync.WaitGroup
	var first *fleet
	for i := range paths {
		cfg := fleetConfig(t, secret)
		f, err := fleetOf(cfg, db)
		if err != nil || f == nil {
			t.Fatal(f, err)
		}
		first, paths[i] = f, filepath.Join(cfg.Dir, passportKeysFile)
		wg.Go(func() {
			if _, _, err := f.adopt(ctx, paths[i]); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	want, err := os.ReadFile(paths[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s has other keys: %v", path, err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", info.Mode(), err)
		}
	}
	list, version, err := first.keys(ctx)
	if err != nil || version != 1 || len(list) != 1 {
		t.Fatalf("%d keys of version %d, %v", len(list), version, err)
	}
	sealed, _, err := db.SharedSecret(ctx, passportSecret)
	seed, _ := base64.StdEncoding.DecodeString(list[0].Seed)
	if err != nil || len(sealed) == 0 || bytes.Contains(sealed, []byte(list[0].Seed)) || bytes.Contains(sealed, seed) {
		t.Errorf("the database shows the key: %v", err)
	}

	other, err := fleetOf(fleetConfig(t, strings.Repeat("another ", 6)), db)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), passportKeysFile)
	if _, _, err := other.adopt(ctx, path); err == nil || !strings.Contains(err.Error(), "need the same") {
		t.Errorf("another secret: %v", err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("another secret made keys of its own: %v", err)
	}

	// Of two rotations at a time one takes place, and everybody ends with its key.
	var mu sync.Mutex
	done := 0
	for _, path := range paths[:2] {
		wg.Go(func() {
			_, _, err := first.rotate(ctx, path, time.Now(), false)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				done++
			}
		})
	}
	wg.Wait()
	now, version, err := first.keys(ctx)
	if err != nil || done == 0 || len(now) != 1+done || version != uint64(1+done) {
		t.Fatalf("%d rotations were told of; %d keys of version %d, %v", done, len(now), version, err)
	}
	for _, path := range paths {
		if _, _, err := first.adopt(ctx, path); err != nil {
			t.Fatal(err)
		}
		if got, err := readPassportKeys(path); err != nil || !sameKeys(got, now) {
			t.Errorf("%s: %v, %v", path, got, err)
		}
	}
}
