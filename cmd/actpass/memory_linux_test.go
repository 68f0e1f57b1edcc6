package main

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

func TestProgramPages(t *testing.T) {
	for _, c := range []struct {
		line          string
		start, length uintptr
	}{
		{"00400000-00402000 r-xp 00001000 08:01 77 /bin/actpass", 0x400000, 0x2000},
		{"014a1000-014a2000 r--p 010a1000 08:01 77 /bin/actpass", 0x14a1000, 0x1000},
		{"0270a000-02866000 rw-p 0230a000 08:01 77 /bin/actpass", 0, 0},               // data: what was written would be lost
		{"0270a000-02866000 r--s 0230a000 08:01 77 /bin/actpass", 0, 0},               // shared
		{"7f00000000-7f00001000 r-xp 00000000 08:01 78 /lib/libc.so.6", 0, 0},         // another file
		{"7f00000000-7f00001000 r--p 00000000 08:01 78 /bin/actpass (deleted)", 0, 0}, // another name
		{"7ffd0000-7ffd1000 r-xp 00000000 00:00 0 [vdso]", 0, 0},
		{"02866000-04adc000 rw-p 00000000 00:00 0", 0, 0},
		{"", 0, 0},
	} {
		start, length, ok := programPages(c.line, "/bin/actpass")
		if start != c.start || length != c.length || ok != (c.length > 0) {
			t.Errorf("%q: %#x, %#x, %v", c.line, start, length, ok)
		}
	}
}

// What is given back is no longer resident, and the program goes on.
func TestReleaseProgram(t *testing.T) {
	before := residentFile(t)
	releaseProgram()
	after := residentFile(t)
	if after > before*3/4 {
		t.Errorf("%d KiB of files are resident, %d before", after, before)
	}
}

func residentFile(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "RssFile:"); ok {
			n, err := strconv.Atoi(strings.Fields(v)[0])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("no RssFile in /proc/self/status")
	return 0
}
