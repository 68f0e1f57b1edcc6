package main

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestTheFirstKeyIsMadeOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), passportKeysFile)
	var wg sync.WaitGroup
	var mu sync.Mutex
	ids, made := map[string]bool{}, 0
	for range 8 {
		wg.Go(func() {
			keys, created, err := loadPassportKeys(path, time.Now())
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
				return
			}
			ids[keys[0].ID] = true
			if created {
				made++
			}
		})
	}
	wg.Wait()
	if len(ids) != 1 || made != 1 {
		t.Errorf("%d keys were used and %d made", len(ids), made)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	left, err := filepath.Glob(path + ".*")
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

// TestRotationKeepsWhatMayBeInUse rotates at any times. After each, every key
// that signed within the overlap is there, and no other, the newest first.
func TestRotationKeepsWhatMayBeInUse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		until := map[string]time.Time{} // when a key signed last
		list := []storedKey{newStoredKey(now)}
		for range rapid.IntRange(1, 6).Draw(t, "rotations") {
			now = now.Add(rapid.SampledFrom([]time.Duration{0, time.Minute, 24 * time.Hour, overlap, overlap + time.Second, 90 * 24 * time.Hour}).Draw(t, "pause"))
			until[list[0].ID] = now
			list = append([]storedKey{newStoredKey(now)}, stillNeeded(list, now)...)
			there := map[string]bool{}
			for _, k := range list {
				there[k.ID] = true
			}
			for id, last := range until {
				if now.Sub(last) <= overlap && !there[id] {
					t.Fatalf("a key that signed %s ago is gone", now.Sub(last))
				}
				if now.Sub(last) > overlap && there[id] {
					t.Fatalf("a key that signed last %s ago is still there", now.Sub(last))
				}
			}
		}
	})
}

func TestRotate(t *testing.T) {
	path := filepath.Join(t.TempDir(), passportKeysFile)
	now := time.Now()
	first, _, err := loadPassportKeys(path, now.Add(-90*24*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	list, dropped, err := rotatePassportKeys(path, now.Add(-overlap-time.Minute), false)
	if err != nil || dropped != 0 || list[1].ID != first[0].ID {
		t.Fatalf("%v, %d dropped, %v", list, dropped, err)
	}
	list, dropped, err = rotatePassportKeys(path, now, false)
	if err != nil || dropped != 1 || len(list) != 2 {
		t.Fatalf("%v, %d dropped, %v", list, dropped, err)
	}
	keys, created, err := loadPassportKeys(path, now)
	if err != nil || created || len(keys) != 2 || keys[0].ID != list[0].ID {
		t.Errorf("%v %v %v", keys, created, err)
	}
	if list, dropped, err = rotatePassportKeys(path, now, true); err != nil || len(list) != 1 || dropped != 2 {
		t.Errorf("%v, %d dropped, %v", list, dropped, err)
	}
}

func TestTwoRotationsAtATime(t *testing.T) {
	path := filepath.Join(t.TempDir(), passportKeysFile)
	if _, _, err := rotatePassportKeys(path, time.Now(), false); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".part", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := rotatePassportKeys(path, time.Now(), false); err == nil || !strings.Contains(err.Error(), "another rotation") {
		t.Errorf("%v", err)
	}
	old := time.Now().Add(-2 * time.Minute)
	if err := os.Chtimes(path+".part", old, old); err != nil {
		t.Fatal(err)
	}
	list, _, err := rotatePassportKeys(path, time.Now(), false)
	if err != nil || len(list) != 2 {
		t.Errorf("what a crash left behind is in the way: %v", err)
	}
}

func TestKeysThatCannotBeUsed(t *testing.T) {
	good := newStoredKey(time.Now())
	seed := `"seed":"` + good.Seed + `"`
	for name, text := range map[string]string{
		"empty": "", "no list": "{}", "no keys": "[]", "torn": `[{"kid":"a",`, "two documents": `[{"kid":"a","created_at":"2026-01-01T00:00:00Z",` + seed + `}][]`,
		"unknown member": `[{"kid":"a","created_at":"2026-01-01T00:00:00Z","x":1,` + seed + `}]`,
		"no time":        `[{"kid":"a",` + seed + `}]`,
		"short seed":     `[{"kid":"a","created_at":"2026-01-01T00:00:00Z","seed":"YWJj"}]`,
		"path as kid":    `[{"kid":"../a","created_at":"2026-01-01T00:00:00Z",` + seed + `}]`,
		"kid twice":      `[{"kid":"a","created_at":"2026-01-01T00:00:00Z",` + seed + `},{"kid":"a","created_at":"2026-01-01T00:00:00Z",` + seed + `}]`,
	} {
		path := filepath.Join(t.TempDir(), passportKeysFile)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := loadPassportKeys(path, time.Now()); err == nil || !strings.Contains(err.Error(), "restore") {
			t.Errorf("%s: %v", name, err)
		}
		if _, _, err := rotatePassportKeys(path, time.Now(), false); err == nil {
			t.Errorf("%s: rotated away", name)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != text {
			t.Errorf("%s: the file was changed", name)
		}
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o644, 0o620} {
		path := filepath.Join(t.TempDir(), passportKeysFile)
		if _, _, err := loadPassportKeys(path, time.Now()); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, _, err := loadPassportKeys(path, time.Now()); err == nil || !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
}
