//go:build race

package ledger

// stride thins out the exhaustive tests: the race detector makes each
// signature many times slower, and byte 7 races no more than byte 1.
const stride = 13
