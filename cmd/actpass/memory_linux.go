package main

import (
	"bufio"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// releaseProgram unmaps the pages of the program that only starting needed: the
// kernel maps sixteen around each one that is touched, so that after a start all
// of a 38 MB file counts as resident, and most of it is never used again. They
// stay in the page cache, and one that is needed comes back with a minor fault.
func releaseProgram() {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return
	}
	defer maps.Close() //nolint:errcheck // read only
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		if start, length, ok := programPages(lines.Text(), exe); ok {
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, start, length, unix.MADV_DONTNEED)
		}
	}
}

// programPages reads a line of /proc/self/maps, proc_pid_maps(5): "start-end perms
// offset dev inode path". Only what is mapped from the program and cannot be
// written qualifies: the same bytes come back from the file.
func programPages(line, exe string) (start, length uintptr, ok bool) {
	f := strings.Fields(line)
	if len(f) < 6 || strings.Join(f[5:], " ") != exe || (f[1] != "r-xp" && f[1] != "r--p") {
		return 0, 0, false
	}
	from, to, _ := strings.Cut(f[0], "-")
	a, err := strconv.ParseUint(from, 16, 64)
	if err != nil {
		return 0, 0, false
	}
	b, err := strconv.ParseUint(to, 16, 64)
	if err != nil || b <= a {
		return 0, 0, false
	}
	return uintptr(a), uintptr(b - a), true
}
