package agent

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"github.com/gitopsd/gitopsd/internal/desired"
	"github.com/gitopsd/gitopsd/internal/desired/strict"
	"github.com/gitopsd/gitopsd/internal/durable"
	"github.com/gitopsd/gitopsd/internal/rollout"
	"github.com/gitopsd/gitopsd/internal/status"
)

// stranger says why no other host takes this one for who it says it is, and what to do about it; "" when the inventory has it with its key, or is not known yet.
func stranger(w *world, self, dataDir string, key ed25519.PublicKey) string {
	if w == nil {
		return ""
	}
	host, known := w.State.Hosts[desired.HostName(self)]
	if known && hasKey(host, key) {
		return ""
	}
	what := "is not in the inventory"
	if known {
		what = "has another key than in the inventory"
	}
	at := fmt.Sprintf("this host %s of commit %s, so no other talks to it: ", what, w.Commit.Short())
	for name, other := range w.State.Hosts {
		if hasKey(other, key) {
			return at + fmt.Sprintf("its key is that of %s; did you mean `host: %s` in its gitopsd.yaml?", name, name)
		}
	}
	print := fmt.Sprintf("`gitopsd host init --name %s --data-dir %s`", self, dataDir)
	switch {
	case slices.Contains(w.State.Broken.Hosts, desired.HostName(self)):
		return at + fmt.Sprintf("hosts/%s.yaml cannot be used; mend it", self)
	case known:
		return at + fmt.Sprintf("commit `publicKey: %s` in hosts/%s.yaml, or restore %s/%s", desired.FormatPublicKey(key), self, dataDir, keyFile)
	}
	names := make([]string, 0, len(w.State.Hosts))
	for _, name := range slices.Sorted(maps.Keys(w.State.Hosts)) {
		names = append(names, string(name))
	}
	if hint := strict.NearOrKnown(self, names); hint != "" {
		hint = " (" + hint + ")"
		return at + fmt.Sprintf("correct `host:` in its gitopsd.yaml%s, or commit the hosts/%s.yaml that %s prints", hint, self, print)
	}
	return at + fmt.Sprintf("commit the hosts/%s.yaml that %s prints", self, print)
}

// OwnerOf names the host whose agent has accepted grants in a data directory; "" where none has yet, or that cannot be read.
func OwnerOf(dataDir string) string {
	state, err := durable.ReadSlots(filepath.Join(dataDir, memberStateFile))
	if err != nil {
		return ""
	}
	var whose *rollout.StateError
	if _, err := rollout.NewMember("", state); errors.As(err, &whose) {
		return whose.OtherHost
	}
	return ""
}

// hasKey says whether a key is one of a host's.
func hasKey(host desired.Host, key ed25519.PublicKey) bool {
	return slices.ContainsFunc(host.Keys, func(k ed25519.PublicKey) bool { return k.Equal(key) })
}

// stranger is why no other host takes this one for who it says it is, "" when they do.
func (a *Agent) stranger() string {
	return stranger(a.source.current(), a.config().Host, a.config().DataDir, a.key)
}

// strangerNotice tells operators what warnStranger logs.
func (a *Agent) strangerNotice() []status.Notice {
	why := a.stranger()
	if why == "" {
		return nil
	}
	return []status.Notice{{Kind: "NotInInventory", Host: a.config().Host, Message: why}}
}

// warnStranger logs once, as long as it stays the same, that the inventory does not have this host. The source's loop calls it for each commit.
func (a *Agent) warnStranger() {
	why := a.stranger()
	if why != "" && why != a.warned {
		a.log.Warn("this host is not who the inventory says", "why", why)
	}
	a.warned = why
}
