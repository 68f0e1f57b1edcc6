package web

import (
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/actpass/sidecar/api"
)

const (
	maxStreams    = 64
	streamsPerKey = 12
	streamLook    = 500 * time.Millisecond
	streamBeat    = 15 * time.Second
)

// streams counts what is open, so that pages that are left open cannot use up
// the sidecar.
type streams struct {
	mu    sync.Mutex
	all   int
	byKey map[string]int
}

func (s *streams) open(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all >= maxStreams || s.byKey[key] >= streamsPerKey {
		return false
	}
	if s.byKey == nil {
		s.byKey = map[string]int{}
	}
	s.all++
	s.byKey[key]++
	return true
}

func (s *streams) done(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all--
	if s.byKey[key]--; s.byKey[key] == 0 {
		delete(s.byKey, key)
	}
}

// stream says "changed" when something was put on record, and nothing about
// what: the page then asks with its own key. The key is looked up again before
// each word, so that a stream ends with the key that opened it.
func (d *Dashboard) stream(w http.ResponseWriter, r *http.Request, v *visit) error {
	if !d.streams.open(v.who.KeyID) {
		return &api.Error{Status: http.StatusServiceUnavailable, Code: "too_many", Message: "Too many pages are open; this one is not live."}
	}
	defer d.streams.done(v.who.KeyID)
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Time{}) // the server's deadlines are for short calls
	say := func(text string) bool {
		_ = rc.SetWriteDeadline(time.Now().Add(10 * time.Second))
		_, err := io.WriteString(w, text)
		return err == nil && rc.Flush() == nil
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no")
	last, spoke := d.Evidence.Size(), time.Now()
	if !say("retry: 3000\nevent: hello\ndata: \n\n") {
		return nil
	}
	tick := time.NewTicker(streamLook)
	defer tick.Stop()
	for {
		select {
		case <-r.Context().Done():
			return nil
		case <-d.closed:
			return nil
		case <-tick.C:
		}
		now := d.Evidence.Size()
		if now == last && time.Since(spoke) < streamBeat {
			continue
		}
		if _, ok := d.sessions.get(v.id, d.Now(), false); !ok {
			say("event: signed-out\ndata: \n\n")
			return nil
		}
		if _, err := d.Gate.Authenticate(r.Context(), v.secret, ""); err != nil {
			say("event: signed-out\ndata: \n\n")
			return nil
		}
		text := ": still here\n\n"
		if now != last {
			text = "event: changed\ndata: \n\n"
		}
		if !say(text) {
			return nil
		}
		last, spoke = now, time.Now()
	}
}
