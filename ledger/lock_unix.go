//go:build unix

package ledger

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ErrLocked is in the chain of Open's error where another process holds the log.
var ErrLocked = errors.New("the log is in use")

// lockFile takes an exclusive lock that ends with the process, however it ends.
func lockFile(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("ledger: open the lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close() // nothing was written
		return nil, fmt.Errorf("ledger: lock %s: another process holds this log; stop it, or give this one a data dir of its own: %w: %w", name, ErrLocked, err)
	}
	return f, nil
}
