package status

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// scrapeTimeout bounds the reading of the state for one scrape.
const scrapeTimeout = 5 * time.Second

// Metrics returns the handler of /metrics: the process, the Go runtime, and what source reports at the moment of the scrape.
func Metrics(source Source, version string) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		newCollector(source, version),
	)
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
}

// collector reads the report at each scrape, so that no counter has to be kept beside the state.
type collector struct {
	source  Source
	version string

	build, ready, commit, notices, group, host, bytes, rate, eta, term *prometheus.Desc
}

func newCollector(source Source, version string) *collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("gitopsd_"+name, help, labels, nil)
	}
	return &collector{
		source: source, version: version,
		build:   desc("build_info", "Always 1; the labels say what runs.", "version"),
		ready:   desc("ready", "1 when this host has a verified commit, is in its inventory, and has a leader for each set it follows."),
		commit:  desc("commit_info", "Always 1; the label is the accepted commit.", "commit"),
		notices: desc("notices", "Conditions a person should know of.", "kind"),
		group:   desc("group_state", "1 for the state each deployment group is in.", "group", "id", "state"),
		host:    desc("group_hosts", "Hosts of a group by status and health.", "group", "id", "status", "health"),
		bytes:   desc("bundle_bytes", "Bytes that came for the host's deployment, by where they came from.", "group", "id", "host", "from"),
		rate:    desc("bundle_bytes_per_second", "Bytes in a second of a bundle that comes, wherever from.", "group", "id", "host"),
		eta:     desc("bundle_eta_seconds", "Seconds until a bundle that comes is there, at that rate.", "group", "id", "host"),
		term:    desc("group_leader_term", "Raft term of the group's coordinator set.", "group", "id", "leader"),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.build, c.ready, c.commit, c.notices, c.group, c.host, c.bytes, c.rate, c.eta, c.term} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		for i := range labels {
			labels[i] = strings.ToValidUTF8(labels[i], "?") // a label that is not would panic
		}
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(c.build, 1, c.version)
	ready := 1.0
	if c.source.Ready() != nil {
		ready = 0
	}
	gauge(c.ready, ready)
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	report, err := c.source.Report(ctx, "")
	if err != nil {
		return
	}
	if report.Commit != "" {
		gauge(c.commit, 1, report.Commit)
	}
	kinds := map[string]float64{}
	for _, n := range report.Notices {
		kinds[n.Kind]++
	}
	for kind, n := range kinds {
		gauge(c.notices, n, kind)
	}
	for _, g := range report.Groups {
		c.collectGroup(gauge, g)
	}
}

// collectGroup reports one group.
func (c *collector) collectGroup(gauge func(*prometheus.Desc, float64, ...string), g Group) {
	gauge(c.group, 1, g.Group, g.ID, g.State)
	if g.Deployment != nil && g.Deployment.Leader != "" {
		gauge(c.term, float64(g.Deployment.Term), g.Group, g.ID, g.Deployment.Leader)
	}
	counts := map[[2]string]float64{}
	for _, h := range g.Hosts {
		counts[[2]string{h.Status, h.Health}]++
		gauge(c.bytes, float64(h.BytesFromOrigin), g.Group, g.ID, h.Name, "origin")
		gauge(c.bytes, float64(h.BytesFromPeers), g.Group, g.ID, h.Name, "peers")
		if h.BytesPerSecond > 0 {
			gauge(c.rate, float64(h.BytesPerSecond), g.Group, g.ID, h.Name)
		}
		if h.ETASeconds > 0 {
			gauge(c.eta, float64(h.ETASeconds), g.Group, g.ID, h.Name)
		}
	}
	for key, n := range counts {
		gauge(c.host, n, g.Group, g.ID, key[0], key[1])
	}
}
