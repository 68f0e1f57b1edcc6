//go:build !linux

package main

// releaseProgram does nothing where /proc and madvise are not Linux's.
func releaseProgram() {}
