package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// ownLive is what lives without held calls, heap and stacks, and perHold what
	// each of them adds: most of it is net/http's buffers, crypto/tls's, and two
	// goroutines.
	ownLive, perHold = 16 << 20, 24 << 10
	// holdRoom is how much garbage each held call lets the heap gather before a
	// collection, beside growth percent of ownLive. Marking what ten thousand of
	// them keep takes 0.2 s of CPU, so that a fixed room would make every other
	// call pay for them, and growth percent of all would take five times their memory.
	holdRoom = 24 << 10
	// waveRoom and wavePerHold are the room while a wave of calls begins to wait.
	// What they keep lies among the garbage that their opening makes, and the heap
	// does not become smaller than what the two took between collections: the less
	// garbage there may be, the less of it is kept. Ten thousand calls cost some
	// twenty collections on their way, 2 s of CPU of twenty-five.
	waveRoom, wavePerHold = 24 << 20, 4 << 10
	// holdStep is by how many held calls the pace is set anew.
	holdStep = 256
	// settleAfter a wave of calls that began to wait, memory is given back.
	settleAfter = 2 * time.Second
	settleTries = 15
)

// holdPace is how much the heap may grow between two collections, in percent, with
// so many calls held.
func holdPace(holds int, wave bool) int {
	room := growth/100*ownLive + holds*holdRoom
	if wave {
		room = min(room, waveRoom+holds*wavePerHold)
	}
	return room * 100 / (ownLive + holds*perHold)
}

// holdMemory fits the pace of collections to the calls that are held, and gives
// back what their opening took: garbage, and stacks, which shrink by half with each
// collection until they are as small as waiting needs.
type holdMemory struct {
	now atomic.Int64 // held now
	set atomic.Int64 // when the pace was last set; -1: it must not be set

	mu       sync.Mutex
	settled  int // when memory was last given back, or fewer since
	settling bool
	pace     func(holds int, wave bool) // sets it
	release  func()
	after    func(time.Duration, func())
}

func newHoldMemory() *holdMemory {
	m := &holdMemory{release: releaseHeld, after: func(d time.Duration, f func()) { time.AfterFunc(d, f) }}
	m.pace = func(holds int, wave bool) {
		if os.Getenv("GOGC") == "" {
			debug.SetGCPercent(holdPace(holds, wave))
		}
		if os.Getenv("GOMEMLIMIT") == "" {
			debug.SetMemoryLimit(memoryLimit(os.DirFS("/sys/fs/cgroup"), softLimit+int64(holds)*(perHold+holdRoom)))
		}
	}
	return m
}

// held is told of each change.
func (m *holdMemory) held(n int) {
	m.now.Store(int64(n))
	if d := int64(n) - m.set.Load(); d > -holdStep && d < holdStep {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.set.Store(int64(n))
	m.settled = min(m.settled, n)
	if n >= m.settled+holdStep && !m.settling {
		m.settling = true
		m.await(n, settleTries)
	}
	m.pace(n, m.settling)
}

// await gives memory back once no more calls begin to wait, or after some tries.
func (m *holdMemory) await(seen, tries int) {
	m.after(settleAfter, func() {
		n := int(m.now.Load())
		if tries > 0 && n > seen+holdStep/8 {
			m.await(n, tries-1)
			return
		}
		m.release()
		m.mu.Lock()
		defer m.mu.Unlock()
		m.settled, m.settling = int(m.now.Load()), false
		m.pace(m.settled, false)
	})
}

// releaseHeld collects until stacks have shrunk from the 64 KiB that a look into
// the database takes to the 8 KiB of waiting.
func releaseHeld() {
	for range 3 {
		runtime.GC()
	}
	debug.FreeOSMemory()
}
