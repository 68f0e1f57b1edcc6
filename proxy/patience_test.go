package proxy

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"
)

// stalling is a clock for timers that fire when the test says so.
type stalling struct {
	mu      sync.Mutex
	pending func()
	asked   []time.Duration
}

func (s *stalling) after(d time.Duration, f func()) stopper {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending, s.asked = f, append(s.asked, d)
	return time.NewTimer(time.Hour)
}

// fire is the timer that is pending, however late.
func (s *stalling) fire() {
	s.mu.Lock()
	f := s.pending
	s.pending = nil
	s.mu.Unlock()
	if f != nil {
		f()
	}
}

// TestPatienceOutlivesAStall: a timer that fires late says that nobody ran, and
// takes no more than its own part of the time.
func TestPatienceOutlivesAStall(t *testing.T) {
	clock, ends := &stalling{}, 0
	p := &patience{left: patienceParts, end: func() { ends++ }, after: clock.after, part: time.Second}
	p.start()
	for range patienceParts - 1 {
		clock.fire() // an hour late, as far as this knows
	}
	if ends != 0 {
		t.Fatal("it ended early")
	}
	clock.fire()
	if ends != 1 || !p.stop() {
		t.Fatalf("ended %d times after all its parts", ends)
	}
	for i, d := range clock.asked {
		if d != time.Second {
			t.Errorf("part %d took %s", i, d)
		}
	}

	p = &patience{left: patienceParts, end: func() { ends++ }, after: clock.after, part: time.Second}
	p.start()
	if p.stop() {
		t.Error("stopped in time, and yet it says that it ended")
	}
	clock.fire() // it was under way already
	if ends != 1 {
		t.Error("ended after it was stopped")
	}
}

// TestLateLook: when a deadline is noticed long after it passed, what the client
// has sent by then counts; a deadline that was noticed in time does not wait.
func TestLateLook(t *testing.T) {
	for name, c := range map[string]struct {
		late, sends bool
	}{
		"late and there":     {true, true},
		"late and not there": {true, false},
		"in time":            {false, false},
	} {
		t.Run(name, func(t *testing.T) {
			below := &stalled{late: c.late}
			if c.sends {
				below.data = []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			}
			lc := &lintConn{Conn: below, maxHead: 1 << 10, headTimeout: time.Second}
			_ = lc.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			buf := make([]byte, 100)
			n, err := lc.Read(buf)
			if c.sends {
				if n == 0 || err != nil {
					t.Errorf("%d bytes, %v", n, err)
				}
				return
			}
			if n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%d bytes, %v", n, err)
			}
			want := 1
			if c.late {
				want = 2
			}
			if lc.lateLook() {
				t.Error("the same deadline is extended again and again")
			}
			if below.reads != want {
				t.Errorf("%d reads, not %d", below.reads, want)
			}
		})
	}
}

// stalled is a connection of a process that does not run until well after its
// deadline: its reads fail though data is there, as those of net do.
type stalled struct {
	net.Conn
	late  bool
	data  []byte
	reads int
	end   time.Time
}

func (s *stalled) SetReadDeadline(t time.Time) error { s.end = t; return nil }

func (s *stalled) Read(p []byte) (int, error) {
	s.reads++
	if s.reads == 1 {
		time.Sleep(time.Until(s.end))
		if s.late {
			time.Sleep(lateAfter + 10*time.Millisecond)
		}
		return 0, os.ErrDeadlineExceeded
	}
	if !s.end.After(time.Now()) {
		return 0, os.ErrDeadlineExceeded
	}
	if len(s.data) == 0 {
		return 0, os.ErrDeadlineExceeded
	}
	n := copy(p, s.data)
	s.data = s.data[n:]
	return n, nil
}

// TestWithinEnds: what within bounds ends in time, and leaves no deadline.
func TestWithinEnds(t *testing.T) {
	a, b := net.Pipe()
	defer b.Close()
	var err error
	began := time.Now()
	within(a, 50*time.Millisecond, func() { _, err = a.Read(make([]byte, 1)) })
	if !isTimeout(err) || time.Since(began) < 50*time.Millisecond {
		t.Errorf("%v after %s", err, time.Since(began))
	}
	go func() { _, _ = io.WriteString(b, "x") }()
	if n, err := a.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("afterwards: %d, %v", n, err)
	}
}
