package config

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/actpass/sidecar/strictyaml"
)

// maxConns bounds store.max_conns: a sidecar that needs more has another trouble.
const maxConns = 200

// minKeep bounds store.keep and store.evidence_keep: people look for what was decided yesterday.
const minKeep = 24 * time.Hour

func (c *Config) validateStore(at func(string) strictyaml.Pos, faults *strictyaml.Faults) {
	s := c.Store
	if s.MaxConns < 1 || s.MaxConns > maxConns {
		faults.Addf(at("store.max_conns"), "`store.max_conns` must be 1 to %d", maxConns)
	}
	if s.Keep != 0 && s.Keep.D() < minKeep {
		faults.Addf(at("store.keep"), "`store.keep` must be at least 1d, or 0 to keep everything")
	}
	if s.EvidenceKeep != 0 && s.EvidenceKeep.D() < minKeep {
		faults.Addf(at("store.evidence_keep"), "`store.evidence_keep` must be at least 1d, or 0 to keep everything")
	}
	switch {
	case s.EvidenceKeep != 0 && (s.Driver != "postgres" || s.Evidence != "shared"):
		faults.Addf(at("store.evidence_keep"), "`store.evidence_keep` is about the copy of the evidence in a shared database, and there is none: remove it, or set `store.driver: postgres` and `store.evidence: shared`")
	case s.Driver == "postgres" && s.DSN == "" && s.DSNFile == "":
		faults.Addf(at("store.driver"), "`store.dsn`: postgres needs a connection string: name a file that holds it in `store.dsn_file`, or set ACTPASS_STORE_DSN")
	case s.DSN != "" && s.DSNFile != "":
		faults.Addf(at("store.dsn_file"), "`store.dsn` and `store.dsn_file` are both set: remove one")
	case s.Driver == "sqlite" && s.DSN != "":
		faults.Addf(at("store.dsn"), "`store.dsn` is not used by the sqlite driver, which lives in data_dir: remove it, or set `store.driver: postgres`")
	case s.Driver == "sqlite" && s.KeyFile != "":
		faults.Addf(at("store.key_file"), "`store.key_file` is not used by the sqlite driver, which no other sidecar shares: remove it, or set `store.driver: postgres`")
	case s.Driver == "sqlite" && s.DSNFile != "":
		faults.Addf(at("store.dsn_file"), "`store.dsn_file` is not used by the sqlite driver, which lives in data_dir: remove it, or set `store.driver: postgres`")
	}
}

// minStoreKey is the shortest secret that cannot be guessed: 32 random characters of
// base64 have 192 bits.
const minStoreKey = 32

// StoreKey is the secret that the sidecars of a database have in common, "" for none.
// Its errors do not hold it.
func (c *Config) StoreKey() (string, error) {
	if c.Store.KeyFile == "" {
		return "", nil
	}
	raw, err := os.ReadFile(c.Path(c.Store.KeyFile))
	if err != nil {
		return "", fmt.Errorf("`store.key_file`: %w", err)
	}
	key := strings.TrimSpace(string(raw))
	if len(key) < minStoreKey {
		return "", fmt.Errorf("`store.key_file`: the secret has %d characters, and %d are needed: make one with `openssl rand -base64 32`", len(key), minStoreKey)
	}
	return key, nil
}

// StoreDSN is the connection string of postgres, from where the settings say. Its
// errors do not hold it.
func (c *Config) StoreDSN() (string, error) {
	if c.Store.DSNFile == "" {
		return c.Store.DSN, nil
	}
	raw, err := os.ReadFile(c.Path(c.Store.DSNFile))
	if err != nil {
		return "", fmt.Errorf("`store.dsn_file`: %w", err)
	}
	dsn := strings.TrimSpace(string(raw))
	if dsn == "" {
		return "", errors.New("`store.dsn_file`: the file is empty")
	}
	return dsn, nil
}
