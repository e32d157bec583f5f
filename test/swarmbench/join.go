package main

import (
	"context"
	"fmt"
)

// join measures a host that comes to a group of which all others run the release: from the moment it has accepted the commit that names it until it has the bundle.
func join(ctx context.Context, b *bed, o options, m measurement) (outcome, error) {
	others := b.spec.hosts - 1
	f, err := newFleet(ctx, b, o, others)
	if err != nil {
		return outcome{}, err
	}
	one, err := f.pushRandom(ctx, m.mib)
	if err != nil {
		return outcome{}, err
	}
	if err := f.startAgents(ctx, others); err != nil {
		return outcome{}, err
	}
	if err := f.settle(ctx, one, others); err != nil {
		return outcome{}, err
	}
	before, err := b.sent(ctx, originHost)
	if err != nil {
		return outcome{}, err
	}
	if _, err := f.addHost(ctx, others); err != nil {
		return outcome{}, err
	}
	commit, err := f.commit(ctx, "add a host")
	if err != nil {
		return outcome{}, err
	}
	if err := await(ctx, "the others know the new host", func() bool { return f.allAccepted(commit, others) }); err != nil {
		return outcome{}, err
	}
	if err := f.startAgent(others); err != nil {
		return outcome{}, err
	}
	end, err := f.complete(ctx, others, b.spec.hosts, one)
	if err != nil {
		return outcome{}, err
	}
	begun, _ := f.logged(others, "commit accepted", commit)
	after, err := b.sent(ctx, originHost)
	return outcome{all: end.Sub(begun), moved: after - before, note: fmt.Sprintf("%d bytes left the origin", after-before)}, err
}

// allAccepted says whether the first so many hosts have verified a commit.
func (f *fleet) allAccepted(commit string, hosts int) bool {
	for i := range hosts {
		if _, ok := f.logged(i, "commit accepted", commit); !ok {
			return false
		}
	}
	return true
}
