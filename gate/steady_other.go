//go:build !linux

package gate

import "time"

func sinceBoot() time.Duration { return sinceStart() }
