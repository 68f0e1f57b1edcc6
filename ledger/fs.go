package ledger

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"
)

// fileSystem is what the log asks of the disk. The tests put one in that fails,
// lies and crashes; the promises below are what the log relies on.
type fileSystem interface {
	// OpenFile is os.OpenFile.
	OpenFile(name string, flag int, perm os.FileMode) (file, error)
	// Rename replaces newname atomically; it lasts after SyncDir.
	Rename(oldname, newname string) error
	Remove(name string) error
	// SyncDir makes the names in a directory last.
	SyncDir(name string) error
	// ReadDir gives the names in a directory, sorted.
	ReadDir(name string) ([]string, error)
}

// file is an open file, read and written at offsets.
type file interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Truncate cuts the file; it lasts after Sync.
	Truncate(size int64) error
	// Sync returns when everything written is on stable storage, with the size.
	// After an error nothing is known about what was written since the last
	// success: the kernel may drop those pages and still call the next Sync a
	// success.
	Sync() error
	// Size in bytes.
	Size() (int64, error)
	// Forget drops the clean pages of the file from memory, as far as the system
	// can, so that the next read asks the disk.
	Forget()
}

type disk struct{}

func (disk) OpenFile(name string, flag int, perm os.FileMode) (file, error) {
	f, err := os.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return diskFile{f}, nil
}

func (disk) Rename(oldname, newname string) error { return os.Rename(oldname, newname) }
func (disk) Remove(name string) error             { return os.Remove(name) }

func (disk) SyncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (disk) ReadDir(name string) ([]string, error) {
	entries, err := os.ReadDir(name)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

type diskFile struct{ *os.File }

var blocked atomic.Int64

// Blocked is how long fsyncs of this process have held a processor in a system call
// so far: where the kernel has no quieter way, see quietSync.
func Blocked() time.Duration { return time.Duration(blocked.Load()) }

func countBlocked(began time.Time) { blocked.Add(int64(time.Since(began))) }

func (f diskFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// Sync, Forget and lockFile: see fs_linux.go and fs_unix.go.

// writeFile puts data under name all at once: whoever reads name sees the old
// content or the new one, before and after a crash. sync makes it last.
func writeFile(fs fileSystem, name string, data []byte, perm os.FileMode, sync bool) (err error) {
	tmp := name + ".tmp"
	f, err := fs.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, perm)
	if err != nil {
		return fmt.Errorf("ledger: write %s: %w", name, err)
	}
	_, err = f.WriteAt(data, 0)
	if err == nil && sync {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = fs.Rename(tmp, name)
	}
	if err == nil && sync {
		err = fs.SyncDir(filepath.Dir(name))
	}
	if err != nil {
		return fmt.Errorf("ledger: write %s: %w", name, err)
	}
	return nil
}

// readFile reads a small file whole.
func readFile(fs fileSystem, name string) ([]byte, error) {
	f, err := fs.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	b := make([]byte, size)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return b[:n], nil
}
