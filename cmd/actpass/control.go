package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/actpass/sidecar/config"
	"github.com/actpass/sidecar/proxy"
)

// role is what a program does for the sidecars around it.
type role int

const (
	// asSidecar opens the doors that the settings name.
	asSidecar role = iota
	// control opens the API alone: keys, approvals, grants, modes, limits and passports
	// of all sidecars that share its database.
	control
)

func (r role) String() string {
	if r == control {
		return "control"
	}
	return "sidecar"
}

// Set and Type make it a flag.
func (r *role) Set(s string) error {
	switch s {
	case "sidecar":
		*r = asSidecar
	case "control":
		*r = control
	default:
		return fmt.Errorf("%q is neither sidecar nor control", s)
	}
	return nil
}

// Type is what help calls it.
func (*role) Type() string { return "ROLE" }

// load reads the settings as this role uses them, at start and at each reload: the
// settings may be the fleet's own, doors and all.
func (r role) load(cmd *cobra.Command) (*config.Config, *config.Compiled, error) {
	cfg, compiled, err := loadAll(cmd)
	if err != nil || r != control {
		return cfg, compiled, err
	}
	if cfg.Store.Driver != "postgres" {
		return nil, nil, fmt.Errorf("`store.driver`: %q is state of this process alone, and --role control is for sidecars that share a database: set `store.driver: postgres` here and at each of them, or start without --role", cfg.Store.Driver)
	}
	if cfg.Store.KeyFile == "" {
		return nil, nil, fmt.Errorf("`store.key_file`: --role control needs it, since passports that are made here would be believed nowhere else: name a file with the same secret here and at each sidecar")
	}
	if config.Off(cfg.Listen.API) {
		return nil, nil, fmt.Errorf("`listen.api` is off, and --role control opens nothing else: give it an address, such as 127.0.0.1:8090")
	}
	cfg.Listen.Proxy, cfg.Listen.Reverse, cfg.Listen.Transparent = "off", "off", "off"
	return cfg, compiled, nil
}

// openCA gives what intercepted connections are signed with. A control intercepts
// none, and must not leave a key in its data directory that could.
func (p *program) openCA(now time.Time) (*proxy.CA, error) {
	if p.role == control {
		return proxy.MemoryCA(now)
	}
	files := caFilesOf(p.cfg)
	p.caSeen[0].changed(files.cert)
	p.caSeen[1].changed(files.key)
	return files.load(now)
}
