package ledger

import (
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// quietSync is fdatasync without a thread that waits in it. A blocked thread costs
// more than its own time: the runtime's monitor sees it, gives its processor to
// another thread, and looks again every 20 us for as long as this goes on, which
// was a twelfth of a busy sidecar's processor time.
//
// It is Linux AIO's IOCB_CMD_FDSYNC (io_submit(2), since Linux 4.18), whose end an
// eventfd(2) tells to the runtime's poller.
type quietSync struct {
	mu    sync.Mutex // one at a time
	ctx   uintptr    // aio_context_t
	event *os.File
	fd    int // of event; asking it for the number would make it block
}

// newQuietSync is nil where the kernel, or what stands around the process
// (seccomp), does not have it.
var newQuietSync = sync.OnceValue(func() *quietSync {
	q := &quietSync{}
	if _, _, errno := unix.Syscall(unix.SYS_IO_SETUP, 1, uintptr(unsafe.Pointer(&q.ctx)), 0); errno != 0 {
		return nil
	}
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err == nil {
		q.fd = fd
		q.event = os.NewFile(uintptr(fd), "eventfd")
		// Only what the poller knows can be waited for; it says so here.
		err = q.event.SetReadDeadline(time.Time{})
	}
	if err != nil {
		_, _, _ = unix.Syscall(unix.SYS_IO_DESTROY, q.ctx, 0, 0)
		return nil
	}
	return q
})

// iocb is struct iocb of linux/aio_abi.h.
type iocb struct {
	_        uint64    // data
	_        [2]uint32 // key, rw_flags
	opcode   uint16
	_        int16 // priority
	fd       uint32
	_        [2]uint64 // buf, bytes
	_        int64     // offset
	_        uint64    // reserved
	flags    uint32
	resultFD uint32
}

// ioEvent is struct io_event.
type ioEvent struct {
	_, _ uint64 // data, obj
	res  int64
	_    int64 // res2
}

const (
	iocbFdsync = 3
	iocbResFD  = 1
)

// sync makes the file's data last. begun is false when the kernel would not.
func (q *quietSync) sync(f *os.File) (begun bool, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	cb := &iocb{opcode: iocbFdsync, fd: uint32(f.Fd()), flags: iocbResFD, resultFD: uint32(q.fd)}
	list := [1]*iocb{cb}
	n, _, errno := unix.Syscall(unix.SYS_IO_SUBMIT, q.ctx, 1, uintptr(unsafe.Pointer(&list)))
	runtime.KeepAlive(cb)
	if errno != 0 || n != 1 {
		return false, nil
	}
	// From here on the kernel works on it, so there is no way back: the result is
	// awaited, however long it takes.
	var ended ioEvent
	for {
		var count [8]byte
		if _, err := q.event.Read(count[:]); err != nil {
			return true, &os.PathError{Op: "wait for fdatasync", Path: f.Name(), Err: err}
		}
		if binary.NativeEndian.Uint64(count[:]) == 0 {
			continue
		}
		got, _, errno := unix.Syscall6(unix.SYS_IO_GETEVENTS, q.ctx, 0, 1, uintptr(unsafe.Pointer(&ended)), 0, 0)
		switch {
		case errors.Is(errno, unix.EINTR):
			continue
		case errno != 0:
			return true, &os.PathError{Op: "wait for fdatasync", Path: f.Name(), Err: errno}
		case got == 1:
			if ended.res < 0 {
				return true, &os.PathError{Op: "fdatasync", Path: f.Name(), Err: unix.Errno(-ended.res)}
			}
			return true, nil
		}
	}
}
