package rollout

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"slices"
	"strings"
)

// deploymentID derives an id in CodeDeploy's form from what makes a deployment
// one: its group, its spec hash and which attempt of the group it is. It is the
// same on every replica.
func deploymentID(group, specHash string, count uint64) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "gitopsd deployment/1\x00%s\x00%s\x00%d", group, specHash, count))
	return "d-" + base32.StdEncoding.EncodeToString(sum[:])[:9]
}

func (g *group) newDeployment(t *turn, kind Kind, creator string, spec Spec, policy Policy) *deployment {
	g.Count++
	return &deployment{
		ID: deploymentID(g.ID, spec.SpecHash, g.Count), Kind: kind, Creator: creator, Spec: spec, Attempt: g.Desired.Attempt,
		Policy: policy, Status: StateCreated, StartTime: t.at, Created: t.now, Leader: t.m.s.Leader, Term: t.m.s.Term,
	}
}

// plan lays out the hosts of a deployment: who is in N, who goes first, in
// which wave. It may be called again until the first grant.
func (g *group) plan(t *turn, d *deployment) {
	d.Rows, d.Waves, d.Wave = nil, nil, 0
	for _, mem := range g.Members {
		d.Rows = append(d.Rows, g.planRow(t, d, mem))
	}
	d.recount()
	d.U = d.count(func(r *row) bool { return r.Broken && r.Status == rowPending })
	d.First = g.Running.SpecHash == ""
	slices.SortStableFunc(d.Rows, func(a, b *row) int {
		if c := g.class(a) - g.class(b); c != 0 {
			return c
		}
		return naturalCompare(a.Host, b.Host)
	})
	g.cutWaves(d)
	d.Planned = true
}

// recount is the arithmetic over the hosts that a deployment counts. Those that
// leave the group are none of them, however they end what they were in the middle
// of; one that failed before it left stays, as a failure.
func (d *deployment) recount() {
	d.N = d.count(func(r *row) bool { return !r.Out })
	d.M, d.B = d.Policy.Minimum(d.N), d.Policy.Budget(d.N)
	for i, w := range d.Waves {
		if w.Zonal && d.Policy.Zonal != nil {
			d.Waves[i].ZoneM = d.Policy.Zonal.PerZone.Of(d.count(func(r *row) bool { return r.Zone == w.Zone && !r.Out }))
		}
	}
}

// Why a deployment leaves a host out, and why a rollback leaves it alone.
const (
	unreached = "unreachable when the deployment began"
	unchanged = "not changed by what is rolled back"
)

func (g *group) planRow(t *turn, d *deployment, mem MemberInfo) *row {
	h := g.host(mem.Host)
	r := &row{Host: mem.Host, Zone: mem.Zone, Status: rowPending}
	silent, dead := t.m.deadFor(mem.Host)
	carried := h.Grant != nil || h.Settle
	if g.runs(h, d.Spec) && g.onTrial(h, d) && g.onlyChecksRed(t, h) {
		h.Whole = false // as if the watch over it had gone on
	}
	r.Broken = !carried && !g.healthy(t, h)
	r.ChecksOnly = r.Broken && g.onlyChecksRed(t, h)
	switch {
	case dead && silent >= d.Policy.deadAfter() && !carried && (d.fast() || d.Policy.unreachable() == UnreachableSkip):
		r.Status, r.Out, r.Reason = rowBehind, true, unreached
	case dead && silent >= d.Policy.deadAfter() && !carried && d.Policy.unreachable() == UnreachableFail:
		r.Status, r.Reason = rowFailed, unreached
	case g.runs(h, d.Spec):
		r.Status, r.Unmoved = rowSucceeded, !g.onTrial(h, d)
	case d.Kind == KindRollback && !h.Touched && !carried:
		r.Status, r.Reason = rowBehind, unchanged
	}
	return r
}

// class is CodeDeploy's pick order: unhealthy, unknown, old, current. What is on
// trial already comes before healthy hosts, so that it has the places it had.
func (g *group) class(r *row) int {
	h := g.host(r.Host)
	switch {
	case r.onTrial():
		return 2
	case r.Status != rowPending:
		return 5
	case r.Broken && h.Known:
		return 0
	case r.Broken:
		return 1
	case h.Running.SpecHash != g.Running.SpecHash:
		return 3
	}
	return 4
}

// onTrial says whether what a host runs of a deployment's spec was brought to it
// by one before that did not end well, as one that was stopped: nobody has yet
// watched it to the end.
func (g *group) onTrial(h *host, d *deployment) bool { return h.Touched && !d.fast() }

// onTrial says whether the row's host was so when the deployment was planned.
func (r *row) onTrial() bool { return r.Status == rowSucceeded && !r.Unmoved }

// cutWaves deals the rows that are pending or to be watched, in their order, to
// the policy's waves.
func (g *group) cutWaves(d *deployment) {
	var left []*row
	for _, r := range d.Rows {
		if r.Status == rowPending || r.onTrial() {
			left = append(left, r)
		}
	}
	add := func(w wave, take []*row) {
		if len(take) == 0 {
			return
		}
		w.Hosts = len(take)
		for _, r := range take {
			r.Wave = len(d.Waves)
		}
		d.Waves = append(d.Waves, w)
	}
	switch {
	case d.fast() || d.Kind == KindCatchUp:
	case d.Policy.Zonal != nil:
		g.cutZones(d, left, add)
		left = nil
	default:
		for _, pw := range d.Policy.Waves {
			var take []*row
			take, left = g.takeWave(d, pw, left)
			add(wave{Bake: pw.Bake}, take)
		}
	}
	add(wave{}, left)
	if len(d.Waves) == 0 {
		d.Waves = []wave{{}}
	}
}

func (g *group) takeWave(d *deployment, w Wave, left []*row) (take, rest []*row) {
	n := 0
	switch {
	case w.Rest:
		n = len(left)
	case w.Tag != "":
		for _, r := range left {
			mem, _ := g.member(r.Host)
			if tagMatches(w.Tag, mem.Tags) {
				take = append(take, r)
			} else {
				rest = append(rest, r)
			}
		}
		return take, rest
	case w.Percent > 0:
		n = (d.N*w.Percent + 99) / 100
	default:
		n = w.Hosts
	}
	n = min(n, len(left))
	return left[:n], left[n:]
}

// tagMatches understands KEY=VALUE, KEY= (any value) and =VALUE (any key).
func tagMatches(pattern string, tags map[string]string) bool {
	key, value, _ := strings.Cut(pattern, "=")
	for k, v := range tags {
		if (key == "" || k == key) && (value == "" || v == value) && pattern != "=" {
			return true
		}
	}
	return false
}

func (g *group) cutZones(d *deployment, left []*row, add func(wave, []*row)) {
	var zones []string
	for _, r := range left {
		if !slices.Contains(zones, r.Zone) {
			zones = append(zones, r.Zone)
		}
	}
	slices.SortFunc(zones, naturalCompare)
	for i, zone := range zones {
		bake := d.Policy.Zonal.Monitor
		if i == 0 && d.Policy.Zonal.FirstMonitor >= 0 {
			bake = d.Policy.Zonal.FirstMonitor
		}
		size := d.count(func(r *row) bool { return r.Zone == zone && !r.Out })
		var take []*row
		for _, r := range left {
			if r.Zone == zone {
				take = append(take, r)
			}
		}
		add(wave{Bake: bake, Zonal: true, Zone: zone, ZoneM: d.Policy.Zonal.PerZone.Of(size)}, take)
	}
}

// impossible says why a deployment would fail before it touched a host, or "":
// the minimum leaves no budget and no host is down already. A first deployment,
// and the way back, are never judged so.
func (g *group) impossible(d *deployment) string {
	if d.First || d.fast() || d.count(func(r *row) bool { return r.Status == rowPending }) == 0 {
		return ""
	}
	if d.U == 0 && d.B <= 0 {
		return sentence("%s: the minimum leaves no host that may be taken down", d.numbers())
	}
	for _, w := range d.Waves {
		size := d.count(func(r *row) bool { return r.Zone == w.Zone && !r.Out })
		broken := d.count(func(r *row) bool { return r.Zone == w.Zone && r.Broken })
		pending := d.count(func(r *row) bool { return r.Zone == w.Zone && r.Status == rowPending })
		if w.Zonal && pending > 0 && broken == 0 && w.ZoneM >= size {
			return sentence("zone %q: N=%d m=%d: the minimum leaves no host that may be taken down there", w.Zone, size, w.ZoneM)
		}
	}
	return ""
}

func (d *deployment) numbers() string { return fmt.Sprintf("N=%d m=%d B=%d", d.N, d.M, d.B) }
