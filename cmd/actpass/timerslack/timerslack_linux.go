package timerslack

import (
	"os"
	"syscall"
)

const (
	wide   = 1_000_000 // ns
	usual  = 50_000    // ns, the kernel's default
	marker = "ACTPASS_TIMERSLACK_SET"

	prSetTimerSlack = 29 // include/uapi/linux/prctl.h
	prGetTimerSlack = 30
)

// Initialisation runs on the program's first thread, from which the runtime has
// started its monitor already. Should it have started another thread as well, which
// is rare, that one's sleeps may last a millisecond longer.
func init() {
	if os.Getenv(marker) != "" {
		// The monitor has what it needs; threads that this one starts sleep as usual.
		_ = os.Unsetenv(marker)
		_ = set(usual)
		return
	}
	if !serves(os.Args[min(1, len(os.Args)):]) || get() != usual || set(wide) != nil {
		return
	}
	// By its path, which is the name that ps(1) shows. The marker, because a sandbox
	// may forget the slack, and this must end.
	if exe, err := os.Readlink("/proc/self/exe"); err == nil {
		_ = syscall.Exec(exe, os.Args, append(os.Environ(), marker+"=1"))
	}
	_ = set(usual) // no /proc, or the file is gone: go on as we are
}

func set(ns uintptr) error {
	if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, prSetTimerSlack, ns, 0); errno != 0 {
		return errno
	}
	return nil
}

func get() uintptr {
	ns, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, prGetTimerSlack, 0, 0)
	if errno != 0 {
		return 0
	}
	return ns
}
