package store

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
)

// TestSharedSecret: of several that put the same version, one does.
func TestSharedSecret(t *testing.T) {
	p := openPostgres(t, postgres(t).Database(t), PostgresOptions{})
	ctx := context.Background()
	if b, v, err := p.SharedSecret(ctx, "a"); b != nil || v != 0 || err != nil {
		t.Fatalf("%q, %d, %v", b, v, err)
	}
	for version := range uint64(3) {
		var won atomic.Int64
		var winner atomic.Value
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				text := fmt.Sprintf("\x00%d of %d", i, version)
				done, err := p.PutSharedSecret(ctx, "a", []byte(text), version)
				if err != nil {
					t.Error(err)
				}
				if done {
					won.Add(1)
					winner.Store(text)
				}
			})
		}
		wg.Wait()
		b, v, err := p.SharedSecret(ctx, "a")
		if won.Load() != 1 || v != version+1 || err != nil || string(b) != winner.Load() {
			t.Errorf("%d put version %d; there is %q, %d, %v", won.Load(), version, b, v, err)
		}
	}
	if done, err := p.PutSharedSecret(ctx, "a", []byte("old"), 1); done || err != nil {
		t.Errorf("an old version: %v, %v", done, err)
	}
	if done, err := p.PutSharedSecret(ctx, "b", []byte("new"), 7); done || err != nil {
		t.Errorf("a version of nothing: %v, %v", done, err)
	}
}
