package main

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

type sink struct {
	mu     sync.Mutex
	buf    bytes.Buffer
	writes int
}

func (s *sink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes++
	return s.buf.Write(p)
}

func (s *sink) Sync() error { return nil }

func (s *sink) state() (lines, writes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Count(s.buf.String(), "\n"), s.writes
}

func TestLogBuffer(t *testing.T) {
	s := &sink{}
	log := zap.New(promptCore{zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), &logBuffer{below: s}, zapcore.InfoLevel)})
	for range 100 {
		log.Info("call")
	}
	log.Debug("not wanted")
	deadline := time.Now().Add(5 * time.Second)
	for {
		if lines, writes := s.state(); lines == 100 {
			if writes > 20 {
				t.Errorf("%d writes for 100 lines", writes)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the lines do not come")
		}
		time.Sleep(time.Millisecond)
	}
	log.Info("call")
	log.With(zap.Int("n", 1)).Warn("look here")
	if lines, _ := s.state(); lines != 102 {
		t.Errorf("a warning waits: %d lines", lines)
	}
	log.Info(strings.Repeat("x", 3*logBytes))
	log.Info("last")
	if err := log.Sync(); err != nil {
		t.Fatal(err)
	}
	if lines, _ := s.state(); lines != 104 {
		t.Errorf("%d lines after Sync", lines)
	}
}
