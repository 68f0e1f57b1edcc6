package ledger

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Sync is fdatasync: data and size, without the times of the inode.
func (f diskFile) Sync() error {
	if q := newQuietSync(); q != nil {
		if begun, err := q.sync(f.File); begun {
			return err
		}
	}
	defer countBlocked(time.Now())
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if !errors.Is(err, unix.EINTR) {
			if err != nil {
				return &os.PathError{Op: "fdatasync", Path: f.Name(), Err: err}
			}
			return nil
		}
	}
}

func (f diskFile) Forget() {
	// Advice: a kernel that ignores it only makes the check after it weaker.
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}
