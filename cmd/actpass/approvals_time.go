package main

import (
	"context"
	"fmt"
	"time"

	"github.com/actpass/sidecar/api"
)

// What the command line says of an approval's age, end and outcome. Ages are the
// sidecar's own: the clock of this machine may differ.

func ageOf(a *api.Approval) string { return short(time.Duration(a.Age) * time.Second) }

// leftOf is the time until a ends by itself, "" when it is closed.
func leftOf(a *api.Approval) string {
	if a.ExpiresIn == nil {
		return ""
	}
	return left(time.Duration(*a.ExpiresIn) * time.Second)
}

// unclearMark stands beside an outcome that a human has to look into.
const unclearMark = "?"

// outcomeOf is what came of a used approval's call, "" before that.
func outcomeOf(a *api.Approval) string {
	o := a.Outcome
	if o == nil {
		return ""
	}
	s := o.State
	if o.Status > 0 {
		s += fmt.Sprintf(" %d", o.Status)
	}
	if a.Unclear() {
		s += " " + unclearMark
	}
	return s
}

func unclear(list []api.Approval) (n int) {
	for i := range list {
		if list[i].Unclear() {
			n++
		}
	}
	return n
}

// Used ones that are as old as a day are looked through for outcomes that nobody
// knows; more seldom than for new ones, because they wait.
const (
	doubtsEvery = 5 * time.Second
	doubtsLive  = 24 * time.Hour
	doubtsMost  = 100
)

// doubts are the used approvals of whose call it is not known whether it took
// effect.
type doubts struct {
	at   time.Time // of the last look
	list []api.Approval
}

// look lists them, newest first; between two questions to the sidecar, as it was.
func (d *doubts) look(ctx context.Context, c *api.Client) ([]api.Approval, error) {
	if time.Since(d.at) < doubtsEvery {
		return d.list, nil
	}
	list, _, err := c.UnclearApprovals(ctx, doubtsLive, doubtsMost)
	if err != nil {
		return nil, err
	}
	d.at, d.list = time.Now(), list
	return d.list, nil
}
