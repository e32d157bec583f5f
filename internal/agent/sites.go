package agent

import (
	"github.com/gitopsd/gitopsd/internal/desired"
	"github.com/gitopsd/gitopsd/internal/swarm"
)

// site says where a host is, as the commit in effect has it now. The swarm asks again and again, so that a bundle on its way follows a new commit.
func (a *Agent) site(host string) swarm.Site { return siteOf(a.source.current(), host) }

// siteOf finds a host's site. A host that is not in the inventory, and one whose file names none, is in the site without a name.
func siteOf(w *world, host string) swarm.Site {
	if w == nil {
		return swarm.Site{}
	}
	name := w.State.Hosts[desired.HostName(host)].Site
	site := w.State.Fleet.Sites[name]
	return swarm.Site{Name: name, Own: site.Origin == "own", Links: site.Links}
}

// nearby says whether a host is in this one's site.
func (a *Agent) nearby(host string) bool {
	w := a.source.current()
	return siteOf(w, host).Name == siteOf(w, a.config().Host).Name
}
