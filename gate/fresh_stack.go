package gate

import (
	"fmt"
	"runtime/debug"
)

// onFreshStack runs f on a stack of its own, and returns when it is done. What a call
// does before it is held reaches deep into the database, and the stack of a
// goroutine that was there stays as large as it has become: sixteen times what
// waiting needs, for as long as a human takes. A panic of f becomes the caller's.
func onFreshStack(f func()) {
	done := make(chan any, 1)
	go func() {
		defer func() {
			p := recover()
			if p != nil {
				p = fmt.Errorf("%v\n%s", p, debug.Stack())
			}
			done <- p
		}()
		f()
	}()
	if p := <-done; p != nil {
		panic(p)
	}
}
