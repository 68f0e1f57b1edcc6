// Package timerslack makes the Go runtime's monitor thread of a sidecar cheap.
//
// That thread wakes every 20 µs for as long as system calls last longer than
// that, and on a busy machine writes to sockets do: up to a tenth of a sidecar's
// CPU. There is no switch for it, but the kernel may let a sleep last longer by a
// thread's timer slack, prctl(2) PR_SET_TIMERSLACK, which is 50 µs by default.
// Only a thread itself may change it, and the monitor thread runs no code of
// ours; but it starts with the slack of the thread that starts it, which
// outlives execve(2). So the program sets the slack and executes itself again,
// before anything else of it is initialised, some 2 ms after its start.
//
// What it costs: a system call that blocks is noticed up to a millisecond
// later. Where the kernel or a sandbox has no such call, nothing changes.
package timerslack

// serves says whether the arguments, without the program's name, start a
// sidecar: the other commands end too soon to gain.
func serves(args []string) bool {
	for _, a := range args {
		switch a {
		case "--":
			return false
		case "serve":
			return true
		}
	}
	return false
}
