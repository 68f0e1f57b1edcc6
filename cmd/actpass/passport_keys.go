package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/actpass/sidecar/passport"
)

// passportKeysFile holds the keys that sign passports. Who can read it can make
// a passport for anything; who can write it decides which ones are believed.
const passportKeysFile = "passport.keys"

// overlap is how long a key goes on verifying after another has taken over: the
// longest life of what it signed, and a day for clocks and restarts.
const overlap = passport.MaxTTL + 24*time.Hour

// maxPassportKeys bounds the file: one rotation a minute fills the overlap.
const maxPassportKeys = 2000

// keyID is what a kid may be, never a path or a URL.
var keyID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// storedKey is one key in the file. The first signs; the others verify.
type storedKey struct {
	ID        string    `json:"kid"`
	CreatedAt time.Time `json:"created_at"`
	Seed      string    `json:"seed"` // base64 of the 32 bytes of RFC 8032
}

func newStoredKey(now time.Time) storedKey {
	seed := randomBytes(ed25519.SeedSize)
	pub := ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey)
	return storedKey{
		ID:        "pk_" + base64.RawURLEncoding.EncodeToString(pub[:12]),
		CreatedAt: now.UTC().Truncate(time.Second), Seed: base64.StdEncoding.EncodeToString(seed),
	}
}

// loadPassportKeys reads the keys, and makes the first one when there is no
// file. created says that it did.
func loadPassportKeys(path string, now time.Time) (keys []passport.Key, created bool, err error) {
	list, err := readPassportKeys(path)
	if errors.Is(err, fs.ErrNotExist) {
		created = true
		list = []storedKey{newStoredKey(now)}
		if err = createPassportKeys(path, list); errors.Is(err, fs.ErrExist) {
			created = false
			list, err = readPassportKeys(path)
		}
	}
	if err != nil {
		return nil, false, err
	}
	keys, err = signingKeys(path, list)
	return keys, created, err
}

// createPassportKeys makes the file, once: it is written beside and linked into
// place, so of two processes that start at once, one makes the key and the other
// gets fs.ErrExist and uses it.
func createPassportKeys(path string, list []storedKey) error {
	part := path + "." + hex.EncodeToString(randomBytes(8))
	f, err := createPart(part)
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(part) }()
	return putPart(f, path, list, os.Link)
}

// writePassportKeys puts list in the place of what the file holds, or where there is
// none.
func writePassportKeys(path string, list []storedKey) error {
	part := path + "." + hex.EncodeToString(randomBytes(8))
	f, err := createPart(part)
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(part) }() // after the rename there is nothing to remove
	return putPart(f, path, list, os.Rename)
}

// readPassportKeys reads the file as it is.
func readPassportKeys(path string) ([]storedKey, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read the passport keys: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read the passport keys: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s can be read by others than its owner (mode %04o), and whoever reads it can make passports: run `chmod 600 %s`, and `actpass passport rotate --drop-old` if somebody may have read it",
			path, info.Mode().Perm(), path)
	}
	data, err := io.ReadAll(io.LimitReader(f, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("read the passport keys: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var list []storedKey
	if err = dec.Decode(&list); err == nil {
		if _, more := dec.Token(); more != io.EOF {
			err = errors.New("something follows the list")
		}
	}
	if err == nil && (len(list) == 0 || len(list) > maxPassportKeys) {
		err = fmt.Errorf("it holds %d keys", len(list))
	}
	if err != nil {
		return nil, fmt.Errorf("%s is not a list of keys as `actpass passport rotate` writes it (%w): restore it from a backup, or remove it to start with a new key, which ends every passport", path, err)
	}
	_, err = signingKeys(path, list)
	return list, err
}

func signingKeys(path string, list []storedKey) ([]passport.Key, error) {
	keys := make([]passport.Key, len(list))
	seen := make(map[string]bool, len(list))
	for i, k := range list {
		seed, err := base64.StdEncoding.DecodeString(k.Seed)
		if err != nil || len(seed) != ed25519.SeedSize || !keyID.MatchString(k.ID) || seen[k.ID] || k.CreatedAt.IsZero() {
			return nil, fmt.Errorf("%s: key %d has no usable kid, created_at or seed, or a kid that is there twice: restore the file from a backup", path, i+1)
		}
		seen[k.ID] = true
		keys[i] = passport.Key{ID: k.ID, Private: ed25519.NewKeyFromSeed(seed)}
	}
	return keys, nil
}

// rotatePassportKeys puts a new signing key in front. Those of before go on
// verifying for the overlap, or are dropped at once. The part file stands while
// it works, so that of two rotations at a time one is refused, instead of losing
// the other's key.
func rotatePassportKeys(path string, now time.Time, dropOld bool) (list []storedKey, dropped int, err error) {
	part := path + ".part"
	if info, err := os.Stat(part); err == nil && time.Since(info.ModTime()) > time.Minute {
		_ = os.Remove(part) // left by a crash: nobody takes a minute
	}
	f, err := createPart(part)
	if errors.Is(err, fs.ErrExist) {
		return nil, 0, fmt.Errorf("rotate the passport keys: another rotation is under way, or crashed just now: try again in a minute")
	}
	if err != nil {
		return nil, 0, err
	}
	defer func() { _ = os.Remove(part) }() // after the rename there is nothing to remove
	old, err := readPassportKeys(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		_ = f.Close()
		return nil, 0, err
	}
	list = []storedKey{newStoredKey(now)}
	if !dropOld {
		list = append(list, stillNeeded(old, now)...)
	}
	if len(list) > maxPassportKeys {
		_ = f.Close()
		return nil, 0, fmt.Errorf("rotate the passport keys: %d of them are still within their overlap of %s: rotate less often", len(old), overlap)
	}
	if err := putPart(f, path, list, os.Rename); err != nil {
		return nil, 0, err
	}
	return list, len(old) - (len(list) - 1), nil
}

// stillNeeded are the keys whose passports may still be in use. A key signs
// until the next one is made, so its own age says nothing: what counts is how
// long ago its successor took over. The first one's takes over now.
func stillNeeded(list []storedKey, now time.Time) []storedKey {
	for i := 1; i < len(list); i++ {
		if now.Sub(list[i-1].CreatedAt) > overlap {
			return list[:i]
		}
	}
	return list
}

func createPart(part string) (*os.File, error) {
	f, err := os.OpenFile(part, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("write the passport keys: %w", err)
	}
	return f, nil
}

// putPart writes the keys to f, durably, and has place put it where it belongs.
// If we crash here, the file of before stands, or none, and never half of one.
func putPart(f *os.File, path string, list []storedKey, place func(from, to string) error) error {
	data, err := json.MarshalIndent(list, "", "  ")
	if err == nil {
		_, err = f.Write(append(data, '\n'))
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = place(f.Name(), path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("write the passport keys: %w", err)
	}
	return nil
}

func syncDir(name string) error {
	dir, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
