package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"github.com/actpass/sidecar/config"
	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/proxy"
)

// caFiles is where the CA is.
type caFiles struct {
	cert, key string
	made      string // the directory, where it is our own to make; "": it comes from elsewhere
}

func caFilesOf(cfg *config.Config) caFiles {
	if cfg.CA.CertFile != "" {
		return caFiles{cert: cfg.Path(cfg.CA.CertFile), key: cfg.Path(cfg.CA.KeyFile)}
	}
	dir := filepath.Join(cfg.Path(cfg.DataDir), "ca")
	return caFiles{cert: filepath.Join(dir, proxy.CACertFile), key: filepath.Join(dir, proxy.CAKeyFile), made: dir}
}

// load reads the CA, or makes it where that is for us to do.
func (f caFiles) load(now time.Time) (*proxy.CA, error) {
	if f.made == "" {
		return proxy.LoadCA(f.cert, f.key, now)
	}
	if err := os.MkdirAll(f.made, 0o700); err != nil {
		return nil, fmt.Errorf("create the directory of the CA: %w", err)
	}
	return proxy.LoadOrCreateCA(f.made, now)
}

// tendCA takes a CA whose files have changed. A pair that does not fit, as while a
// Secret is being written, leaves the last good one in use.
func (p *program) tendCA(ctx context.Context) {
	files := caFilesOf(p.cfg)
	if files.made != "" || p.role == control {
		return
	}
	cert, key := p.caSeen[0].changed(files.cert), p.caSeen[1].changed(files.key)
	if !cert && !key {
		return
	}
	ca, err := files.load(time.Now())
	if err == nil && string(ca.PEM()) == string(p.ca.Load().PEM()) {
		return
	}
	if err == nil {
		err = p.proxy.SetCA(ca)
	}
	if err != nil {
		p.fault(ctx, "ca", fmt.Errorf("the CA of before stays in use: %w", err))
		return
	}
	p.ca.Store(ca)
	sum := sha256.Sum256(ca.Certificate().Raw)
	p.log.Info("another CA signs from now on; clients that read the old one at their start trust it after theirs", zap.String("sha256", hex.EncodeToString(sum[:])),
		zap.Time("not_after", ca.Certificate().NotAfter))
	if dir := p.trust.Load(); dir != nil {
		if err := publishTrust(p.cfg, *dir, p.log); err != nil {
			p.fault(ctx, "ca", fmt.Errorf("write the trust files anew: %w", err))
		}
	}
	if err := p.gate.Note(ctx, evidence.KindConfig, "the CA has changed", map[string]string{"sha256": hex.EncodeToString(sum[:])}); err != nil {
		p.log.Warn("the change of the CA could not be put on record", zap.Error(err))
	}
}
