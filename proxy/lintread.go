package proxy

import (
	"os"
	"time"
)

// net/http sets a read deadline nine times for each request, and while a handler
// runs it reads one byte in a goroutine of its own, to learn that the client left.
// Most of those deadlines are replaced before anybody waits, and most handlers end
// before a client could leave. So a deadline reaches the connection only when a
// read waits, and that one byte is not read before parkTime has gone by.

// parkTime is how much later it is noticed that a client left.
const parkTime = 50 * time.Millisecond

// SetDeadline sets both deadlines.
func (c *lintConn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.Conn.SetWriteDeadline(t)
}

// SetReadDeadline shortens the deadline while an incomplete head is held back:
// net/http still believes the connection idle then.
func (c *lintConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline, c.extended = t, false
	switch {
	case c.parked && c.expired():
		c.parked = false
		c.unpark <- true
	case c.reading:
		return c.apply()
	}
	return nil
}

// expired needs mu.
func (c *lintConn) expired() bool { return !c.deadline.IsZero() && !c.deadline.After(time.Now()) }

// apply needs mu.
func (c *lintConn) apply() error {
	t := c.effective()
	if t.Equal(c.applied) {
		return nil
	}
	c.applied = t
	return c.Conn.SetReadDeadline(t)
}

// effective needs mu. A zero deadline is left alone: nobody waits for a head.
func (c *lintConn) effective() time.Time {
	if c.partial.IsZero() || c.deadline.IsZero() || c.headTimeout <= 0 {
		return c.deadline
	}
	if end := c.partial.Add(c.headTimeout); end.Before(c.deadline) {
		return end
	}
	return c.deadline
}

// setPartial notes whether an incomplete head waits.
func (c *lintConn) setPartial(waits bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case waits == !c.partial.IsZero():
	case waits:
		c.partial = time.Now()
	default:
		c.partial = time.Time{}
	}
}

// input reads from the connection below.
func (c *lintConn) input(p []byte) (int, error) {
	if len(p) == 1 && c.park() {
		return 0, os.ErrDeadlineExceeded
	}
	c.mu.Lock()
	if err := c.apply(); err != nil {
		c.mu.Unlock()
		return 0, err
	}
	c.reading = true
	c.mu.Unlock()
	n, err := c.Conn.Read(p)
	if err != nil && n == 0 && isTimeout(err) && c.lateLook() {
		n, err = c.Conn.Read(p)
	}
	c.mu.Lock()
	c.reading = false
	c.mu.Unlock()
	return n, err
}

// How late a deadline must be noticed to say that this process did not run when it
// passed, and how long a client then has to do what it could not do either.
const (
	lateAfter = time.Second
	lateGrace = time.Second
)

// lateLook says that a deadline, which has ended a read, was noticed so late that
// nobody could have been served by then: net ends such a read though the bytes are
// there. It extends the deadline, once; see patience for why.
func (c *lintConn) lateLook() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	late := now.Sub(c.applied)
	// net/http wakes its reads with a deadline long ago.
	if c.extended || c.applied.IsZero() || late < lateAfter || late > 24*time.Hour {
		return false
	}
	c.extended, c.deadline = true, now.Add(lateGrace)
	if !c.partial.IsZero() {
		c.partial = now
	}
	return c.apply() == nil
}

// park waits before net/http's one-byte read begins below; true when a deadline
// ended it, which is how net/http ends that read.
func (c *lintConn) park() bool {
	c.mu.Lock()
	if c.expired() {
		c.mu.Unlock()
		return true
	}
	c.parked = true
	if c.unpark == nil {
		c.unpark = make(chan bool, 1)
		c.patience = time.AfterFunc(parkTime, c.parkEnds)
	} else {
		c.patience.Reset(parkTime)
	}
	c.mu.Unlock()
	if !<-c.unpark {
		return false
	}
	c.patience.Stop()
	return true
}

// parkEnds lets the read that waits begin. Should it be the timer of one before,
// which was late, this one begins early.
func (c *lintConn) parkEnds() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.parked {
		c.parked = false
		c.unpark <- false
	}
}
