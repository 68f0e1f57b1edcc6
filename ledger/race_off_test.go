//go:build !race

package ledger

const stride = 1
