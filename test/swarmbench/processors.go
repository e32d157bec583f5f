package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// processors notes how busy this machine is: all hosts share its processors, and where those are busy throughout, it is them that a measurement measures, and not the links.
type processors struct {
	agents  []int    // process ids
	samples []sample // in order of time
	err     error
	done    chan struct{}
}

// sample is the time since boot that the processors were not idle, and all of it, and what agents had used of it when they were looked at last, in ticks.
type sample struct {
	at          time.Time
	busy, total int64
	agents      int64
}

// agentsEvery is in how many samples the agents are looked at once: with sixteen of them and their threads that takes a millisecond, and takes it from them.
const agentsEvery = 5

// ticksPerSecond is the unit in which Linux tells times to programs (USER_HZ, proc(5)).
const ticksPerSecond = 100

// watch takes samples until ctx ends.
func watch(ctx context.Context, agents []*exec.Cmd) *processors {
	p := &processors{done: make(chan struct{})}
	for _, agent := range agents {
		p.agents = append(p.agents, agent.Process.Pid)
	}
	go func() {
		defer close(p.done)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil && p.err == nil {
			p.take()
			select {
			case <-ctx.Done():
			case <-tick.C:
			}
		}
	}()
	return p
}

func (p *processors) take() {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		p.err = err
		return
	}
	s := sample{at: time.Now()}
	line, _, _ := strings.Cut(string(text), "\n")
	for i, field := range strings.Fields(line) { // proc(5): cpu user nice system idle iowait irq softirq steal guest guest_nice, of which user and nice hold the guests
		if i == 0 || i > 8 {
			continue
		}
		ticks, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			p.err = fmt.Errorf("/proc/stat says %q: %w", line, err)
			return
		}
		s.total += ticks
		if i != 4 && i != 5 {
			s.busy += ticks
		}
	}
	if n := len(p.samples); n%agentsEvery > 0 {
		s.agents = p.samples[n-1].agents
	} else {
		for _, pid := range p.agents {
			s.agents += used(pid)
		}
	}
	p.samples = append(p.samples, s)
}

// used is the processor time of a process and of the children it has waited for, in ticks; nothing if it is gone.
func used(pid int) (ticks int64) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(text), ") ") // the third field, the state, comes first then; 14 to 17 are utime, stime, cutime, cstime
	if fields := strings.Fields(rest); len(fields) > 14 {
		for _, field := range fields[11:15] {
			n, _ := strconv.ParseInt(field, 10, 64)
			ticks += n
		}
	}
	return ticks
}

// busy says how much of the processors' time between two moments was used, in words. The watch must have ended.
func (p *processors) busy(from, to time.Time) string {
	<-p.done
	if p.err != nil {
		return "the processors' load is not known: " + p.err.Error()
	}
	var first, last sample
	for _, s := range p.samples {
		if !s.at.After(from) || first.at.IsZero() {
			first = s
		}
		if !s.at.After(to) {
			last = s
		}
	}
	if last.total <= first.total {
		return "the processors' load is not known"
	}
	return fmt.Sprintf("processors %d %% busy, %.2f s of them an agent", 100*(last.busy-first.busy)/(last.total-first.total),
		float64(last.agents-first.agents)/ticksPerSecond/float64(len(p.agents)))
}
