package store

import (
	"context"
	"sync"
)

// localLocks keep those of one process that want the same lock of the database
// from each taking a connection to wait for it with: at a hot key of a limit one
// waits there, and the others here.
type localLocks struct {
	mu sync.Mutex
	m  map[int64]*localLock
}

type localLock struct {
	held  chan struct{} // full while somebody has it
	users int
}

// take waits for all exclusive ones of ids, which are sorted.
func (l *localLocks) take(ctx context.Context, ids []lockID) (free func(), err error) {
	var have []int64
	free = func() {
		for _, id := range have {
			l.leave(id, true)
		}
	}
	for _, one := range ids {
		if one.shared {
			continue
		}
		lk := l.join(one.id)
		select {
		case lk.held <- struct{}{}:
			have = append(have, one.id)
		case <-ctx.Done():
			l.leave(one.id, false)
			free()
			return nil, ctx.Err()
		}
	}
	return free, nil
}

func (l *localLocks) join(id int64) *localLock {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.m == nil {
		l.m = map[int64]*localLock{}
	}
	lk := l.m[id]
	if lk == nil {
		lk = &localLock{held: make(chan struct{}, 1)}
		l.m[id] = lk
	}
	lk.users++
	return lk
}

func (l *localLocks) leave(id int64, held bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lk := l.m[id]
	if held {
		<-lk.held
	}
	if lk.users--; lk.users == 0 {
		delete(l.m, id)
	}
}
