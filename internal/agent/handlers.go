package agent

import (
	"net/http"

	"github.com/gitopsd/gitopsd/internal/configrepo"
	"github.com/gitopsd/gitopsd/internal/status"
	"github.com/gitopsd/gitopsd/internal/transport"
)

// handlers are the two faces of the API: operators may ask for the whole fleet and steer; hosts may read what this host follows.
type handlers struct{ operators, hosts http.Handler }

func (a *Agent) handlers() handlers {
	local := &reader{self: a.config().Host, source: a.source, sets: a.sets, repo: func() *configrepo.Repo { return a.repo.Load() }, applier: a.applier,
		heard: func() map[string]configrepo.Refusal {
			return heardRefusals(a.gossip.Facts(factRefused), a.config().Host)
		},
		shelf: shelf{a.swarm, a.store},
		coming: func() map[string][]coming {
			all := heardComing(a.gossip.Facts(factFetch), a.config().Host)
			all[a.config().Host] = comingHere(a.swarm)
			return all
		},
		alive: a.lives, extra: a.hostNotices, outcast: a.stranger, changed: &a.changed, log: a.log}
	fleet := *local
	client := a.transport.HTTPClient(transport.APIALPN)
	fleet.remotes = newRemotes()
	fleet.verify = a.source.verify
	fleet.ask = func(host string) *status.Client { return status.NewHTTPClient(client, host) }
	return handlers{
		operators: status.Handler(status.Options{Source: &fleet, Metrics: status.Metrics(local, a.opt.Version), Write: true, Log: a.log}),
		hosts:     status.Handler(status.Options{Source: local, Log: a.log}),
	}
}
