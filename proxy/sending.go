package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http/httptrace"
	"sync/atomic"
)

// sending watches what net/http's Transport does with one call. The Transport
// writes a call again where it takes that to be harmless: a safe method whose
// connection broke, a stream that an HTTP/2 upstream reset with REFUSED_STREAM or
// PROTOCOL_ERROR, or left behind with GOAWAY; the latter two without end, thousands
// of times a second. So once more is all there is, and for a call that uses
// something up, not that: the upstream's word that it did nothing is not worth a
// second use of a passport. And a dial that fails after such an attempt does not mean
// that nothing was sent.
//
// The nil sending is that of a call which no Transport saw.
type sending struct {
	counted bool // see gate.Outbound
	cancel  context.CancelCauseFunc
	written atomic.Int32 // how often the head was written to its end
}

var errWritten = errors.New("the upstream gave up the connection or the stream on which the call was written, and it is not written again")

// watch gives the context for the call's request.
func (s *sending) watch(ctx context.Context) context.Context {
	most := int32(2)
	if s.counted {
		most = 1
	}
	ctx, s.cancel = context.WithCancelCause(ctx)
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		// A head that was not written to its end is no request to anybody.
		WroteHeaders: func() { s.written.Add(1) },
		// Comes after the dial and before the first byte of each attempt.
		GotConn: func(got httptrace.GotConnInfo) {
			if s.written.Load() < most {
				return
			}
			// Over HTTP/2 the context is looked at under the lock under which the head
			// is written. A connection of HTTP/1.1 is written to without a look, but it
			// is this call's alone.
			s.cancel(errWritten)
			if c, ok := got.Conn.(*tls.Conn); !ok || c.ConnectionState().NegotiatedProtocol != "h2" {
				_ = got.Conn.Close()
			}
		},
	})
}

// mayHaveArrived says that the call was written at least once.
func (s *sending) mayHaveArrived() bool { return s != nil && s.written.Load() > 0 }

// end frees what watch took. The answer must have been relayed.
func (s *sending) end() {
	if s.cancel != nil {
		s.cancel(nil)
	}
}
