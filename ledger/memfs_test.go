package ledger

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// memFS is a disk with a page cache in front of it, which can fail in the ways
// that disks do and lose what was not synced. Names are durable after SyncDir only.
type memFS struct {
	mu      sync.Mutex
	names   map[string]*memFile
	durable map[string]*memFile

	// Faults, each used up by one call. They concern segments only.
	failWrite    int // bytes that the next write takes before it fails; -1: no fault
	failWrites   int // so many writes fail with ENOSPC, taking nothing
	failSync     int // so many syncs fail, and the kernel drops their pages
	failSyncLie  int // so many syncs fail although everything was persisted
	failSyncTear int // so many syncs fail, and leave garbage in the pages that they were to write
	failTruncate int
	failCreate   int
	writes       int
	syncs        int
}

func newMemFS() *memFS {
	return &memFS{names: map[string]*memFile{}, durable: map[string]*memFile{}, failWrite: -1}
}

const pageSize = 4096

// memFile is an inode.
type memFile struct {
	fs    *memFS
	name  string
	cache []byte
	disk  []byte
	dirty map[int64]bool // pages of cache that disk lacks
}

func isSegment(name string) bool { return strings.HasSuffix(name, segmentExt) }

func (m *memFS) OpenFile(name string, flag int, _ os.FileMode) (file, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f, ok := m.names[name]
	switch {
	case !ok && flag&os.O_CREATE == 0:
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	case ok && flag&os.O_EXCL != 0:
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrExist}
	case !ok:
		if isSegment(name) && m.failCreate > 0 {
			m.failCreate--
			return nil, &fs.PathError{Op: "open", Path: name, Err: syscall.ENOSPC}
		}
		f = &memFile{fs: m, name: name, dirty: map[int64]bool{}}
		m.names[name] = f
	}
	if flag&os.O_TRUNC != 0 {
		f.truncate(0)
	}
	return f, nil
}

func (m *memFS) Rename(oldname, newname string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.names[newname] = m.names[oldname]
	delete(m.names, oldname)
	return nil
}

func (m *memFS) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.names, name)
	return nil
}

func (m *memFS) SyncDir(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name := range m.durable {
		if filepath.Dir(name) == dir {
			delete(m.durable, name)
		}
	}
	for name, f := range m.names {
		if filepath.Dir(name) == dir {
			m.durable[name] = f
		}
	}
	return nil
}

func (m *memFS) ReadDir(dir string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for name := range m.names {
		if filepath.Dir(name) == dir {
			out = append(out, filepath.Base(name))
		}
	}
	slices.Sort(out)
	return out, nil
}

// crash gives the disk as a machine finds it that lost its power now. keep
// decides for every page that was not synced whether it reached the disk all the
// same, and for every file whether its new length did.
func (m *memFS) crash(keep func() bool) *memFS {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := newMemFS()
	for name, f := range m.durable {
		disk := bytes.Clone(f.disk)
		if keep() { // the new length
			disk = resize(disk, int64(len(f.cache)))
		}
		pages := make([]int64, 0, len(f.dirty))
		for p := range f.dirty {
			pages = append(pages, p)
		}
		slices.Sort(pages)
		for _, p := range pages {
			if keep() {
				copyPage(disk, f.cache, p)
			}
		}
		nf := &memFile{fs: out, name: name, cache: bytes.Clone(disk), disk: disk, dirty: map[int64]bool{}}
		out.names[name], out.durable[name] = nf, nf
	}
	return out
}

// clone copies a disk at rest.
func (m *memFS) clone() *memFS {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := newMemFS()
	for name, f := range m.names {
		nf := &memFile{fs: out, name: name, cache: bytes.Clone(f.cache), disk: bytes.Clone(f.cache), dirty: map[int64]bool{}}
		out.names[name], out.durable[name] = nf, nf
	}
	return out
}

func (m *memFS) content(name string) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	f, ok := m.names[name]
	if !ok {
		return nil
	}
	return bytes.Clone(f.cache)
}

func (m *memFS) put(name string, b []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := &memFile{fs: m, name: name, cache: bytes.Clone(b), disk: bytes.Clone(b), dirty: map[int64]bool{}}
	m.names[name], m.durable[name] = f, f
}

func (m *memFS) segments() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for name := range m.names {
		if isSegment(name) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

func resize(b []byte, n int64) []byte {
	if int64(len(b)) >= n {
		return b[:n]
	}
	return append(b, make([]byte, n-int64(len(b)))...)
}

func copyPage(dst, src []byte, p int64) {
	from, to := p*pageSize, (p+1)*pageSize
	from, to = min(from, int64(len(dst)), int64(len(src))), min(to, int64(len(dst)), int64(len(src)))
	copy(dst[from:to], src[from:to])
}

func (f *memFile) Close() error { return nil }

func (f *memFile) Size() (int64, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	return int64(len(f.cache)), nil
}

func (f *memFile) ReadAt(b []byte, off int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if off >= int64(len(f.cache)) {
		return 0, io.EOF
	}
	n := copy(b, f.cache[off:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) WriteAt(b []byte, off int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	var err error
	if isSegment(f.name) {
		f.fs.writes++
		if f.fs.failWrites > 0 {
			f.fs.failWrites--
			return 0, &fs.PathError{Op: "write", Path: f.name, Err: syscall.ENOSPC}
		}
		if n := f.fs.failWrite; n >= 0 {
			f.fs.failWrite = -1
			b = b[:min(n, len(b))]
			err = &fs.PathError{Op: "write", Path: f.name, Err: syscall.ENOSPC}
		}
	}
	if end := off + int64(len(b)); end > int64(len(f.cache)) {
		f.cache = resize(f.cache, end)
	}
	copy(f.cache[off:], b)
	for p := off / pageSize; p*pageSize < off+int64(len(b)); p++ {
		f.dirty[p] = true
	}
	return len(b), err
}

func (f *memFile) Truncate(n int64) error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if isSegment(f.name) && f.fs.failTruncate > 0 {
		f.fs.failTruncate--
		return &fs.PathError{Op: "truncate", Path: f.name, Err: syscall.EIO}
	}
	f.truncate(n)
	return nil
}

func (f *memFile) truncate(n int64) {
	f.cache = resize(f.cache, n)
	for p := range f.dirty {
		if p*pageSize >= n {
			delete(f.dirty, p)
		}
	}
}

func (f *memFile) Sync() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	bad := errors.New("")
	if isSegment(f.name) {
		f.fs.syncs++
		bad = &fs.PathError{Op: "fdatasync", Path: f.name, Err: syscall.EIO}
		if f.fs.failSync > 0 {
			f.fs.failSync--
			// The pages are clean now, and nowhere but in memory. The length may
			// have made it.
			clear(f.dirty)
			f.disk = resize(f.disk, int64(len(f.cache)))
			return bad
		}
	}
	f.disk = resize(f.disk, int64(len(f.cache)))
	if isSegment(f.name) && f.fs.failSyncTear > 0 {
		f.fs.failSyncTear--
		for p := range f.dirty {
			copyPage(f.disk, bytes.Repeat([]byte("garbage "), len(f.cache)/8+1), p)
		}
		clear(f.dirty)
		return bad
	}
	for p := range f.dirty {
		copyPage(f.disk, f.cache, p)
	}
	clear(f.dirty)
	if isSegment(f.name) && f.fs.failSyncLie > 0 {
		f.fs.failSyncLie--
		return bad
	}
	return nil
}

// Forget drops the clean pages: the disk's content shows.
func (f *memFile) Forget() {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	cache := resize(bytes.Clone(f.disk), int64(len(f.cache)))
	for p := range f.dirty {
		copyPage(cache, f.cache, p)
	}
	f.cache = cache
}
