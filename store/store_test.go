package store

import (
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/store/storetest"
)

func TestMain(m *testing.M) {
	if childMain() {
		return
	}
	goleak.VerifyTestMain(m)
}

func TestConformance(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) {
		storetest.Run(t, func(t *testing.T) gate.Store { return openTest(t, filepath.Join(t.TempDir(), "data", "actpass.db")) }, ErrMisuse)
	})
	t.Run("memory", func(t *testing.T) {
		storetest.Run(t, func(*testing.T) gate.Store {
			m := NewMemory()
			m.OnMisuse = func(error) {}
			return m
		}, ErrMisuse)
	})
}

func openTest(t testing.TB, path string) *SQLite {
	t.Helper()
	s, err := OpenSQLite(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}
