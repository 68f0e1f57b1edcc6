//go:build !linux

package main

// machineTime is not known here.
func machineTime() (idle, all uint64) { return 0, 0 }
