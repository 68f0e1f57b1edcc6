//go:build race

package gate_test

// heldStack is wider here: the race detector makes frames larger.
const heldStack = 24 << 10
