package main

import (
	"testing"
	"time"
)

// TestProcessors plays loads to the rule: what each would use of so many
// processors if it had them, more of it the more there are.
func TestProcessors(t *testing.T) {
	at := time.Unix(0, 0)
	play := func(p *processors, long time.Duration, need float64) (changes int) {
		for end := at.Add(long); at.Before(end); {
			at = at.Add(processorsEvery)
			was := p.now
			n := p.next(min(need*(1+0.2*float64(p.now-1)), float64(p.now)), 0.5, at)
			if n < 1 || n > p.most {
				t.Fatalf("%d processors of %d", n, p.most)
			}
			if n != was {
				changes++
			}
		}
		return changes
	}
	for _, c := range []struct {
		name    string
		most    int
		need    float64
		want    int
		changes int
	}{
		{"nothing to do", 8, 0, 1, 1},
		{"less than one", 8, 0.85, 1, 8},
		{"one is enough, two would be used more", 2, 0.9, 1, 1},
		{"all of them", 8, 50, 8, 0},
		{"one processor", 1, 5, 1, 0},
	} {
		p := newProcessors(c.most)
		if changes := play(p, 30*time.Second, c.need); p.now != c.want || changes > c.changes {
			t.Errorf("%s: %d processors after %d changes, want %d after at most %d", c.name, p.now, changes, c.want, c.changes)
		}
	}

	p := newProcessors(16)
	play(p, 10*time.Second, 0)
	if play(p, time.Second, 50); p.now != 16 {
		t.Errorf("a second of more than there is: %d processors of 16", p.now)
	}

	p = newProcessors(3)
	play(p, 10*time.Second, 0)
	if play(p, time.Second, 50); p.now != 3 {
		t.Errorf("a second of more than there is: %d processors of 3", p.now)
	}

	// What was given up last must settle before more is.
	p = newProcessors(8)
	for _, c := range []struct {
		after time.Duration
		busy  float64
		want  int
	}{{0, 4.5, 5}, {processorsEvery, 2.9, 5}, {processorsSettled, 2.9, 4}} {
		if n := p.next(c.busy, 0.5, at.Add(c.after)); n != c.want {
			t.Errorf("%.1f busy after %v: %d processors, want %d", c.busy, c.after, n, c.want)
		}
	}

	// One is too few by little, and two are used by half: each try costs a tenth of a
	// second, so they become rare.
	p = newProcessors(2)
	if changes := play(p, 10*time.Minute, 0.99); changes > 2*17 {
		t.Errorf("%d changes in ten minutes", changes)
	}
	// A load that is lighter by much is tried at once.
	if play(p, time.Second, 0.5); p.now != 1 {
		t.Errorf("a lighter load after a missed processor: %d processors", p.now)
	}
	// And what became rare for this load is not for the next.
	play(p, 2*time.Minute, 0.1)
	if p.now != 1 || p.wait != processorsWait {
		t.Errorf("after a rest: %d processors, and the next try after a failed one comes in %v", p.now, p.wait)
	}
}

// TestProcessorsShared: others want the whole machine, and each of our threads gets
// less than half a processor. Fewer threads would get less yet.
func TestProcessorsShared(t *testing.T) {
	p, at := newProcessors(4), time.Unix(0, 0)
	play := func(long time.Duration, need, idle float64) {
		for end := at.Add(long); at.Before(end); {
			at = at.Add(processorsEvery)
			p.next(min(need, 0.4*float64(p.now)), idle, at)
		}
	}
	if play(time.Minute, 0.1, 0); p.now != 1 {
		t.Errorf("with next to nothing to do: %d processors", p.now)
	}
	play(time.Second, 3, 0)
	for range 100 {
		if play(processorsEvery, 3, 0); p.now != 4 {
			t.Fatalf("with much to do, beside others: %d processors", p.now)
		}
	}
	if play(time.Minute, 0.5, 0.4); p.now > 2 {
		t.Errorf("with little to do, alone again: %d processors", p.now)
	}
}

// TestMachineTime: the machine's time goes on, and its idle time is a part of it.
func TestMachineTime(t *testing.T) {
	idle, all := machineTime()
	if all == 0 {
		t.Skip("this system does not tell")
	}
	time.Sleep(50 * time.Millisecond)
	idle2, all2 := machineTime()
	if all2 <= all || idle2 < idle || idle2-idle > all2-all {
		t.Errorf("%d of %d, then %d of %d", idle, all, idle2, all2)
	}
	m := machine{share: 1}
	now := time.Now()
	if s := m.idle(true, now); s != 1 {
		t.Errorf("nothing to compare with, and %v", s)
	}
	if s := m.idle(true, now.Add(processorsLook)); s < 0 || s > 1 {
		t.Errorf("a share of %v", s)
	}
	if s := m.idle(false, now.Add(2*processorsLook)); s != 1 {
		t.Errorf("does not matter, and %v", s)
	}
}

// TestProcessorTime: it rises with what is done.
func TestProcessorTime(t *testing.T) {
	before, ok := processorTime()
	if !ok {
		t.Skip("this system does not tell")
	}
	x := 0
	for end := time.Now().Add(50 * time.Millisecond); time.Now().Before(end); x++ {
	}
	after, _ := processorTime()
	if d := after - before; d <= 0 {
		t.Errorf("%v of CPU after a loop of %d", d, x)
	}
}
