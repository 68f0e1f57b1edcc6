package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/actpass/sidecar/config"
	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
)

// authority keeps the gate's passport authority in step with the files that it
// is made of: the signing keys, and the passport that is mounted for the pod.
type authority struct {
	keysPath string
	keys     seenFile
	mounted  seenFile
	cfg      config.Passport
	inForce  gate.Authority
}

// seenFile is what a file looked like when it was last read.
type seenFile struct {
	path string
	info os.FileInfo // nil: it was not there
}

// changed says whether the file at path is another one than was read last. It
// costs one stat.
func (s *seenFile) changed(path string) bool {
	info, err := os.Stat(path)
	if err != nil {
		info = nil
	}
	was, same := s.info, path == s.path
	s.path, s.info = path, info
	switch {
	case !same:
		return true
	case was == nil || info == nil:
		return was != info && (was != nil || info != nil)
	}
	return !os.SameFile(was, info) || !was.ModTime().Equal(info.ModTime()) || was.Size() != info.Size() || was.Mode() != info.Mode()
}

// openAuthority loads the keys at start: without them there is no start.
func (p *program) openAuthority() error {
	a := &p.authority
	a.keysPath = filepath.Join(p.dir, passportKeysFile)
	a.keys.changed(a.keysPath)
	keys, created, err := loadPassportKeys(a.keysPath, time.Now())
	if err != nil {
		return err
	}
	if created {
		a.keys.changed(a.keysPath)
		p.log.Info("made the key that signs passports", zap.String("kid", keys[0].ID), zap.String("file", a.keysPath))
	}
	a.inForce.Keys = keys
	a.cfg = p.cfg.Passport
	p.readMounted(p.cfg)
	p.setAuthority()
	return nil
}

func (p *program) setAuthority() {
	a := p.authority.inForce
	a.Issuer, a.Audience = p.authority.cfg.Issuer, p.authority.cfg.Audience
	p.gate.SetAuthority(&a)
}

// tendAuthority looks whether keys, mounted passport or settings have changed. A
// key file that cannot be used keeps the keys that are in force, and says so
// once for each time that it was written.
func (p *program) tendAuthority(ctx context.Context) {
	a := &p.authority
	cfg := p.inForce()
	again := false
	if a.keys.changed(a.keysPath) {
		list, err := readPassportKeys(a.keysPath)
		if err != nil {
			p.gate.Fault("passport_keys", fmt.Errorf("the passport keys of before stay in force: %w", err))
		} else if keys, err := signingKeys(a.keysPath, list); err == nil {
			a.inForce.Keys, again = keys, true
			ids := make([]string, len(keys))
			for i, k := range keys {
				ids[i] = k.ID
			}
			p.log.Info("passport keys changed", zap.Strings("kids", ids))
			err := p.gate.Note(ctx, evidence.KindPassport, "passport keys changed", map[string]string{
				"signing": ids[0], "verifying": clip(strings.Join(ids, " "), 2000),
			})
			if err != nil {
				p.log.Warn("the change of the passport keys could not be put on record", zap.Error(err))
			}
		}
	}
	if p.readMounted(cfg) {
		again = true
	}
	if a.cfg != cfg.Passport {
		a.cfg, again = cfg.Passport, true
	}
	if again {
		p.setAuthority()
	}
}

// maxMounted bounds a mounted passport, in bytes; the token itself may have 16 KiB.
const maxMounted = 64 << 10

// readMounted reads passport.file when it has changed, and says whether it has.
// A file that is not there, or cannot be read, is no passport: strict then asks
// for one.
func (p *program) readMounted(cfg *config.Config) bool {
	a := &p.authority
	path := cfg.Path(cfg.Passport.File)
	if path == "" {
		was := a.inForce.Mounted
		a.inForce.Mounted, a.mounted = "", seenFile{}
		return was != ""
	}
	if !a.mounted.changed(path) {
		return false
	}
	token, err := readToken(path)
	if err != nil {
		p.gate.Fault("passport_file", fmt.Errorf("passport.file: calls go without it: %w", err))
	}
	a.inForce.Mounted = token
	return true
}

func readToken(path string) (string, error) {
	// Who can write where it is mounted must not stop the sidecar with a pipe that
	// nobody writes to: O_NONBLOCK, and the look at what was opened, not at what was
	// there before.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return "", err
	} else if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is no regular file", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxMounted+1))
	if err != nil {
		return "", err
	}
	if len(b) > maxMounted {
		return "", fmt.Errorf("%s has more than %d bytes, and should hold one passport", path, maxMounted)
	}
	return strings.TrimSpace(string(b)), nil
}
