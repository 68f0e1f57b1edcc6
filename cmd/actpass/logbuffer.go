package main

import (
	"sync"
	"time"

	"go.uber.org/zap/zapcore"
)

// logBuffer writes lines some at a time: at the latest logDelay after the first,
// and at once when a line is more than information. A write for each line is a
// system call for each request.
type logBuffer struct {
	below zapcore.WriteSyncer

	mu    sync.Mutex
	buf   []byte
	timer *time.Timer // nil: nothing waits
}

const (
	logDelay  = 50 * time.Millisecond
	logBytes  = 32 << 10
	logUrgent = zapcore.WarnLevel
)

func (w *logBuffer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.buf)+len(p) > logBytes {
		if err := w.flush(); err != nil {
			return 0, err
		}
	}
	w.buf = append(w.buf, p...)
	if w.timer == nil {
		w.timer = time.AfterFunc(logDelay, func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			_ = w.flush() // as zap does with its own
		})
	}
	return len(p), nil
}

// Sync writes what waits.
func (w *logBuffer) Sync() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.flush()
}

// flush needs mu.
func (w *logBuffer) flush() error {
	if w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
	if len(w.buf) == 0 {
		return nil
	}
	_, err := w.below.Write(w.buf)
	w.buf = w.buf[:0]
	return err
}

// promptCore writes what waits as soon as a line is urgent.
type promptCore struct {
	zapcore.Core
}

func (c promptCore) With(fields []zapcore.Field) zapcore.Core {
	return promptCore{c.Core.With(fields)}
}

func (c promptCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

func (c promptCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	err := c.Core.Write(e, fields)
	if e.Level >= logUrgent {
		_ = c.Sync()
	}
	return err
}
