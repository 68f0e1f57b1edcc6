//go:build !race

package gate_test

// heldStack bounds the stack that a held call keeps, in bytes.
const heldStack = 12 << 10
