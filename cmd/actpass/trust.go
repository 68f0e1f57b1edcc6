package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"github.com/actpass/sidecar/config"
	"github.com/actpass/sidecar/launch"
	"github.com/actpass/sidecar/proxy"
)

// publishTrust writes what other containers need to trust this sidecar into a
// directory that they share. It comes before the doors open, so that whoever
// waits for the sidecar to be ready finds the files.
func publishTrust(cfg *config.Config, dir string, log *zap.Logger) error {
	if dir == "" {
		return nil
	}
	ca := filepath.Join(cfg.Path(cfg.DataDir), "ca")
	if err := os.MkdirAll(ca, 0o700); err != nil {
		return fmt.Errorf("create the directory of the CA: %w", err)
	}
	authority, err := proxy.LoadOrCreateCA(ca, time.Now())
	if err != nil {
		return err
	}
	warnings, err := launch.Publish(dir, authority.PEM(), os.Environ())
	for _, w := range warnings {
		log.Warn("trust files", zap.String("dir", dir), zap.String("warning", w))
	}
	return err
}
