package main

import (
	"os"
	"time"

	"go.uber.org/zap"

	"github.com/actpass/sidecar/config"
	"github.com/actpass/sidecar/launch"
)

// publishTrust writes what other containers need to trust this sidecar into a
// directory that they share. It comes before the doors open, so that whoever
// waits for the sidecar to be ready finds the files.
func publishTrust(cfg *config.Config, dir string, log *zap.Logger) error {
	if dir == "" {
		return nil
	}
	authority, err := caFilesOf(cfg).load(time.Now())
	if err != nil {
		return err
	}
	warnings, err := launch.Publish(dir, authority.PEM(), os.Environ())
	for _, w := range warnings {
		log.Warn("trust files", zap.String("dir", dir), zap.String("warning", w))
	}
	return err
}
