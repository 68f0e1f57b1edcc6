package main

import (
	"bytes"
	"os"
	"strconv"
)

// machineTime is how long the machine's processors were idle so far, and how long
// there were any, in the same unit: the first line of /proc/stat, see proc_stat(5).
// Zero where it is not known.
func machineTime() (idle, all uint64) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0
	}
	line, _, _ := bytes.Cut(b, []byte("\n"))
	fields := bytes.Fields(line)
	// cpu user nice system idle iowait irq softirq steal; guests are in user.
	for i := 1; i < min(len(fields), 9); i++ {
		n, err := strconv.ParseUint(string(fields[i]), 10, 64)
		if err != nil {
			return 0, 0
		}
		all += n
		if i == 4 || i == 5 {
			idle += n
		}
	}
	return idle, all
}
