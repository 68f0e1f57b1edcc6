package store

import (
	"context"
	"slices"
	"time"

	"github.com/actpass/sidecar/gate"
)

type memoryAnswer struct {
	sealed  []byte
	expires time.Time
}

// KeepAnswer implements gate.Store.
func (m *Memory) KeepAnswer(ctx context.Context, tenant, approval string, sealed []byte, _, expires time.Time) error {
	return m.do(ctx, "KeepAnswer", func(s *memoryState) error {
		if tenant == "" || approval == "" || len(sealed) == 0 || expires.IsZero() {
			return misuse("an answer is kept by tenant, approval and expiry")
		}
		s.answers[[2]string{tenant, approval}] = memoryAnswer{slices.Clone(sealed), expires}
		return nil
	})
}

// Answer implements gate.Store.
func (m *Memory) Answer(ctx context.Context, tenant, approval string, now time.Time) (sealed []byte, err error) {
	err = m.do(ctx, "Answer", func(s *memoryState) error {
		a, ok := s.answers[[2]string{tenant, approval}]
		if !ok || !now.Before(a.expires) {
			return gate.ErrNotFound
		}
		sealed = slices.Clone(a.sealed)
		return nil
	})
	return answer(sealed, err)
}
