package agent

import (
	"crypto/ed25519"
	"sync"

	"github.com/gitopsd/gitopsd/internal/desired"
)

// inventory is the transport's Directory: the hosts of the accepted commit, plus the addresses of gitopsd.yaml's `join` before there is one.
type inventory struct {
	mu    sync.RWMutex
	hosts map[desired.HostName]desired.Host
	byKey map[string]desired.HostName
	join  map[string]string
}

// newInventory knows only addresses to try.
func newInventory(join map[string]string) *inventory {
	return &inventory{join: join, byKey: map[string]desired.HostName{}}
}

// set replaces the hosts and says whether any key left, so that connections have to be swept.
func (v *inventory) set(hosts map[desired.HostName]desired.Host) (left bool) {
	byKey := make(map[string]desired.HostName, len(hosts))
	for name, h := range hosts {
		for _, key := range h.Keys {
			byKey[string(key)] = name
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for key, name := range v.byKey {
		if byKey[key] != name {
			left = true
		}
	}
	v.hosts, v.byKey = hosts, byKey
	return left
}

// Keys implements transport.Directory.
func (v *inventory) Keys(host string) []ed25519.PublicKey {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.hosts[desired.HostName(host)].Keys
}

// Host implements transport.Directory.
func (v *inventory) Host(key ed25519.PublicKey) (string, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	name, ok := v.byKey[string(key)]
	return string(name), ok
}

// Address implements transport.Directory.
func (v *inventory) Address(host string) (string, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if h, ok := v.hosts[desired.HostName(host)]; ok && h.Address != "" {
		return h.Address, true
	}
	addr, ok := v.join[host]
	return addr, ok
}

// known says whether host is in the inventory.
func (v *inventory) known(host string) bool {
	v.mu.RLock()
	defer v.mu.RUnlock()
	_, ok := v.hosts[desired.HostName(host)]
	return ok
}

// addresses lists every host with an address but self, for joining.
func (v *inventory) addresses(self string) map[string]string {
	v.mu.RLock()
	defer v.mu.RUnlock()
	all := make(map[string]string, len(v.hosts)+len(v.join))
	for name, addr := range v.join {
		all[name] = addr
	}
	for name, h := range v.hosts {
		if h.Address != "" {
			all[string(name)] = h.Address
		}
	}
	delete(all, self)
	return all
}
