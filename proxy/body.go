package proxy

import (
	"errors"
	"io"
	"net/http"
	"time"
)

// How long an agent may take to send a body that is read before the decision:
// altogether, and from one piece to the next. Bodies that stream are bounded by
// the upstream's patience.
const (
	bodyTimeout  = 5 * time.Minute
	pieceTimeout = 30 * time.Second
)

// body is a request body as the gate sees it (gate.Body).
type body struct {
	src     io.Reader
	length  int64 // -1: not known
	control *http.ResponseController
	lint    *lintConn // nil: HTTP/2

	peeked bool
	whole  bool
	extra  []byte // read beyond what Peek gave away
	err    error  // the client's body could not be read to where Peek wanted
}

// Peek implements gate.Body. A body whose length is announced and above max is
// not read at all: nothing could be judged by it, and a client that waits for
// 100 Continue need not send it.
func (b *body) Peek(limit int64) ([]byte, bool, error) {
	if b.peeked {
		return nil, false, errors.New("read request body: it was read already")
	}
	b.peeked = true
	if b.length > limit {
		return nil, false, nil
	}
	if b.control != nil {
		defer func() { _ = b.control.SetReadDeadline(time.Time{}) }()
	}
	data, err := b.read(limit)
	if err != nil {
		b.err = err
		return data, false, err
	}
	if int64(len(data)) > limit {
		b.extra = data[limit:]
		return data[:limit:limit], false, nil
	}
	b.whole = true
	if b.lint != nil {
		if fault := b.lint.bodyFault(); fault != "" {
			return data, true, errors.New("read request body: " + fault)
		}
	}
	return data, true, nil
}

// read reads up to one byte more than limit, or to the end.
func (b *body) read(limit int64) ([]byte, error) {
	size := b.length
	if size < 0 {
		size = min(limit, 4096)
	}
	buf := make([]byte, 0, size+1)
	end := time.Now().Add(bodyTimeout)
	for first := true; int64(len(buf)) <= limit; first = false {
		b.patience(first, end)
		if len(buf) == cap(buf) {
			grown := make([]byte, len(buf), min(2*int64(cap(buf)), limit+1))
			copy(grown, buf)
			buf = grown
		}
		n, err := b.src.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if errors.Is(err, io.EOF) {
			return buf, nil
		}
		if err != nil {
			return buf, err
		}
	}
	return buf, nil
}

// patience sets the deadline of the next read. For HTTP/2 that is a message to
// the connection's loop, so it is set once there.
func (b *body) patience(first bool, end time.Time) {
	switch {
	case b.control == nil || b.lint == nil && !first:
	case b.lint == nil:
		_ = b.control.SetReadDeadline(end)
	default:
		if next := time.Now().Add(pieceTimeout); next.Before(end) {
			end = next
		}
		_ = b.control.SetReadDeadline(end)
	}
}
