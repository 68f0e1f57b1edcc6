package config

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
)

// settle is how long a change must rest before it is read: editors and
// ConfigMaps write in several steps.
const settle = 200 * time.Millisecond

// restless is how long a look that found nothing new holds for, while the
// directories stay busy: a log that is written beside the configuration must
// neither hide a change nor have every file read five times a second.
const restless = 500 * time.Millisecond

// Watch calls changed when the content of one of the watched files differs from
// before, or when a file appears that a glob of c names. files tells, after
// each call, what to watch from then on. It returns when ctx ends.
//
// Directories are watched, not files: an editor that renames, and a ConfigMap
// that swaps a symbolic link, replace the file that a watch would stand on.
func Watch(ctx context.Context, files func() (paths, globs []string), changed func()) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch configuration: %w", err)
	}
	defer w.Close()
	follow := func() string {
		paths, globs := files()
		for _, p := range append(append([]string(nil), paths...), globs...) {
			// A directory that is not there yet is met again at the next change.
			_ = w.Add(fixedDir(p))
		}
		return contentHash(paths, globs)
	}
	last := follow()
	var (
		timer  <-chan time.Time
		seen   string    // a content that differs from last and has not rested yet
		idle   time.Time // until when a look would find what the last one found
		lookAt = func() {
			// Never pushed back by a later event: where something else in the
			// directory is written all the time, the look would never come.
			if timer == nil {
				timer = time.After(max(settle, time.Until(idle)))
			}
		}
	)
	for {
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-w.Events:
			if !ok {
				return nil
			}
			lookAt()
		case <-w.Errors:
			lookAt() // an overflow may have hidden a change
		case <-timer:
			timer = nil
			switch now := follow(); now {
			case last:
				seen, idle = "", time.Now().Add(restless)
			case seen:
				// Remembered before the call: what changes during it is a change again.
				last, seen = now, ""
				changed()
				follow() // the new settings may name other directories
			default:
				seen, idle = now, time.Time{}
				lookAt()
			}
		}
	}
}

// fixedDir is the longest directory of a path or glob without a meta character.
func fixedDir(p string) string {
	dir := filepath.Dir(p)
	for hasMeta(dir) {
		dir = filepath.Dir(dir)
	}
	return dir
}

func hasMeta(p string) bool {
	for _, r := range p {
		switch r {
		case '*', '?', '[', '{':
			return true
		}
	}
	return false
}

func contentHash(paths, globs []string) string {
	h := sha256.New()
	var c Config
	for _, g := range globs {
		names, err := expand(&c, g, nil)
		if err == nil {
			paths = append(paths, names...)
		}
	}
	for _, p := range paths {
		data, err := os.ReadFile(p)
		fmt.Fprintf(h, "%q %v %d\n", p, err != nil, len(data))
		h.Write(data)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Watched are the files and globs that the settings depend on.
func (c *Config) Watched() (paths, globs []string) {
	if c.File == "" {
		return nil, nil
	}
	paths = append(paths, c.File)
	if c.Upstream.CAFile != "" {
		paths = append(paths, c.Path(c.Upstream.CAFile))
	}
	for _, f := range c.Notify.secretFiles() {
		paths = append(paths, c.Path(f))
	}
	for _, g := range slices.Concat(c.Mapping.Files, c.Mapping.Descriptors, c.Policy.Files) {
		globs = append(globs, c.Path(g))
	}
	return paths, globs
}

// NeedsRestart names the first setting that differs from old and cannot change
// while the sidecar runs, "" for none.
func (c *Config) NeedsRestart(old *Config) string {
	switch {
	case c.DataDir != old.DataDir:
		return "data_dir"
	case c.Listen != old.Listen:
		return "listen"
	case c.CA != old.CA:
		return "ca"
	case c.Identity.ServiceAccount != old.Identity.ServiceAccount:
		return "identity.service_account"
	case c.Store != old.Store:
		return "store"
	case c.Evidence != old.Evidence:
		return "evidence"
	case c.Log != old.Log:
		return "log"
	case c.Limits.APIRate != old.Limits.APIRate:
		return "limits.api_rate"
	case c.Upstream.ConnectTimeout != old.Upstream.ConnectTimeout:
		return "upstream.connect_timeout"
	case c.Upstream.ResponseTimeout != old.Upstream.ResponseTimeout:
		return "upstream.response_timeout"
	}
	return ""
}
