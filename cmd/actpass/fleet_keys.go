package main

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"github.com/actpass/sidecar/config"
	"github.com/actpass/sidecar/store"
)

// fleet is what the sidecars of one database hold in common and the database does not
// know: everything here is made from store.key_file. What is sealed with it tells
// nothing to who reads the database; who reads the file as well can make passports.
type fleet struct {
	db   *store.Postgres
	seal cipher.AEAD
}

// fleetSecret is one key of the fleet; nil when it has none in common.
func fleetSecret(cfg *config.Config, use string) ([]byte, error) {
	secret, err := cfg.StoreKey()
	if err != nil || secret == "" {
		return nil, err
	}
	return hkdf.Key(sha256.New, []byte(secret), nil, "actpass fleet: "+use, 32)
}

// fleetOf gives the fleet of db; nil when its sidecars have no key in common.
func fleetOf(cfg *config.Config, db state) (*fleet, error) {
	pg, ok := db.(*store.Postgres)
	if !ok {
		return nil, nil
	}
	key, err := fleetSecret(cfg, "seal")
	if err != nil || key == nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("use store.key_file: %w", err)
	}
	seal, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("use store.key_file: %w", err)
	}
	return &fleet{db: pg, seal: seal}, nil
}

// redactKey is the fleet's, so that equal values look equal and an answer that one
// sidecar kept can be read by another; else that of the data directory.
func redactKey(cfg *config.Config, dir string) ([]byte, error) {
	if key, err := fleetSecret(cfg, "redact"); err != nil || key != nil {
		return key, err
	}
	return secretFile(filepath.Join(dir, "redact.key"))
}

// passportSecret is the name of the keys that sign passports, as in passport.keys.
const passportSecret = "passport.keys"

// keys are the passport keys that the fleet has; version 0: none yet.
func (f *fleet) keys(ctx context.Context) (list []storedKey, version uint64, err error) {
	sealed, version, err := f.db.SharedSecret(ctx, passportSecret)
	if err != nil || version == 0 {
		return nil, 0, err
	}
	n := f.seal.NonceSize()
	if len(sealed) < n {
		return nil, 0, errors.New("the passport keys in the database are cut off")
	}
	plain, err := f.seal.Open(nil, sealed[:n], sealed[n:], []byte(passportSecret))
	if err != nil {
		return nil, 0, errors.New("the passport keys in the database were sealed with another secret than the one in `store.key_file`: all sidecars of a database need the same")
	}
	if err := json.Unmarshal(plain, &list); err != nil || len(list) == 0 {
		return nil, 0, fmt.Errorf("the passport keys in the database are no list of keys: %v", err)
	}
	if _, err := signingKeys("the passport keys in the database", list); err != nil {
		return nil, 0, err
	}
	return list, version, nil
}

// put makes list the fleet's keys in the place of version was.
func (f *fleet) put(ctx context.Context, list []storedKey, was uint64) (bool, error) {
	plain, err := json.Marshal(list)
	if err != nil {
		return false, fmt.Errorf("keep the passport keys: %w", err)
	}
	nonce := randomBytes(f.seal.NonceSize())
	return f.db.PutSharedSecret(ctx, passportSecret, f.seal.Seal(nonce, nonce, plain, []byte(passportSecret)), was)
}

// adopt makes the file in the data directory what the fleet has, and gives the fleet
// what is there when it has none. The file is what this sidecar works with, and all
// that it has while the database is away. changed says that the file is another now.
func (f *fleet) adopt(ctx context.Context, path string) (version uint64, changed bool, err error) {
	for {
		list, version, err := f.keys(ctx)
		if err != nil {
			return 0, false, err
		}
		own, err := readPassportKeys(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, false, err
		}
		if version > 0 {
			if sameKeys(own, list) {
				return version, false, nil
			}
			return version, true, writePassportKeys(path, list)
		}
		if own == nil {
			if _, _, err := loadPassportKeys(path, time.Now()); err != nil {
				return 0, false, err
			}
			continue
		}
		// Of several that start together one succeeds, and the others find its keys.
		if _, err := f.put(ctx, own, 0); err != nil {
			return 0, false, err
		}
	}
}

func sameKeys(a, b []storedKey) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].ID != b[i].ID || a[i].Seed != b[i].Seed || !a[i].CreatedAt.Equal(b[i].CreatedAt) {
			return false
		}
	}
	return true
}

// rotate is rotatePassportKeys for all sidecars of the database.
func (f *fleet) rotate(ctx context.Context, path string, now time.Time, dropOld bool) (list []storedKey, dropped int, err error) {
	version, _, err := f.adopt(ctx, path)
	if err != nil {
		return nil, 0, err
	}
	list, dropped, err = rotatePassportKeys(path, now, dropOld)
	if err != nil {
		return nil, 0, err
	}
	done, err := f.put(ctx, list, version)
	if err == nil && !done {
		err = errors.New("another rotation was quicker")
	}
	if err != nil {
		// If it was kept all the same, the sidecars have the new key; else the old one
		// comes back here, with the next look at the database.
		_, _, again := f.adopt(ctx, path)
		return nil, 0, errors.Join(fmt.Errorf("rotate the passport keys of the fleet: %w", err), again)
	}
	return list, dropped, nil
}

// openFleet brings the keys of the fleet in at the start.
func (p *program) openFleet(ctx context.Context) (err error) {
	if p.fleet, err = fleetOf(p.cfg, p.store); err != nil || p.fleet == nil {
		return err
	}
	_, _, err = p.fleet.adopt(ctx, filepath.Join(p.dir, passportKeysFile))
	return p.without("taking the fleet's passport keys", err)
}

// followFleet takes keys that were made at another sidecar: watchFiles sees the file
// change.
func (p *program) followFleet(ctx context.Context) {
	if p.fleet == nil {
		return
	}
	_, changed, err := p.fleet.adopt(ctx, filepath.Join(p.dir, passportKeysFile))
	switch {
	case errors.Is(err, store.ErrAway):
	case err != nil:
		p.fault(ctx, "passport_keys", fmt.Errorf("the passport keys of before stay in force: %w", err))
	case changed:
		p.log.Info("the fleet has new passport keys", zap.String("file", filepath.Join(p.dir, passportKeysFile)))
	}
}
