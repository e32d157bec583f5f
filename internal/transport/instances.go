package transport

import (
	"slices"
	"sync"
	"time"
)

const pastInstances = 8 // replaced instances remembered per host

// instances tells restarts from clones: each host has one current instance,
// and one that was replaced never comes back unless two machines share a key.
type instances struct {
	mu    sync.Mutex
	hosts map[string]*instanceRecord
}

type instanceRecord struct {
	current string
	since   time.Time // when current was first seen
	past    []string
}

type sighting int

const (
	sameInstance sighting = iota
	newInstance           // the first, or one that replaces another
	oldInstance           // one that had been replaced: a clone
)

func newInstances() *instances { return &instances{hosts: map[string]*instanceRecord{}} }

// see notes that instance of host proved its key. current is the instance
// taken for the host from now on, since when it was first seen.
func (i *instances) see(host, instance string, now time.Time) (s sighting, current string, since time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	r := i.hosts[host]
	if r == nil {
		i.hosts[host] = &instanceRecord{current: instance, since: now}
		return newInstance, instance, now
	}
	if r.current == instance {
		return sameInstance, instance, r.since
	}
	if slices.Contains(r.past, instance) {
		return oldInstance, r.current, r.since
	}
	r.past = append(r.past, r.current)
	if len(r.past) > pastInstances {
		r.past = slices.Delete(r.past, 0, 1)
	}
	r.current, r.since = instance, now
	return newInstance, instance, now
}

// keep forgets the hosts for which wanted says no.
func (i *instances) keep(wanted func(host string) bool) {
	i.mu.Lock()
	hosts := make([]string, 0, len(i.hosts))
	for host := range i.hosts {
		hosts = append(hosts, host)
	}
	i.mu.Unlock()
	for _, host := range hosts {
		if wanted(host) {
			continue
		}
		i.mu.Lock()
		delete(i.hosts, host)
		i.mu.Unlock()
	}
}

// reporter hands events on, equal ones at most once a minute.
type reporter struct {
	sink func(Event)
	mu   sync.Mutex
	last map[string]time.Time
}

const reportedMax = 1024 // events remembered for the pause between equal ones

func (r *reporter) report(now time.Time, key string, e Event) bool {
	r.mu.Lock()
	last, ok := r.last[key]
	due := !ok || now.Sub(last) >= eventPause
	due = due && (ok || len(r.last) < reportedMax)
	if due {
		r.last[key] = now
	}
	r.mu.Unlock()
	if due && r.sink != nil {
		r.sink(e)
	}
	return due
}

func (r *reporter) forget(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, at := range r.last {
		if now.Sub(at) >= eventPause {
			delete(r.last, key)
		}
	}
}
