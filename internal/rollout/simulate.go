package rollout

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// SimulateOptions describe a fleet that runs an old revision well and is given
// a new one.
type SimulateOptions struct {
	Hosts  int    // named h1, h2, ...
	Policy Policy // of the group
	Fail   []int  // numbers of the hosts that fail, from 1
	Zones  int    // hosts are dealt to so many zones in turn; 0 = none
}

// Simulation is what a rollout would come to, in the shape of
// `gitopsd rollout simulate -o json`.
type Simulation struct {
	Status         string   `json:"status"`
	MinimumHealthy int      `json:"minimumHealthy"` // m before any cap
	Window         int      `json:"window"`         // max(0, B): hosts that may be down at once
	Attempted      int      `json:"attempted"`
	Succeeded      int      `json:"succeeded"`
	Failed         int      `json:"failed"`
	Skipped        int      `json:"skipped"`
	Reason         string   `json:"reason"`
	Order          []string `json:"order,omitempty"` // in which hosts were attempted
}

// maxSimulated bounds a simulation; CodeDeploy allows 1,000 hosts a deployment.
const maxSimulated = 5_000

// Simulate runs the very Machine that replicas run over an invented fleet:
// hosts answer at once and, of those in flight, the first granted ends first.
func Simulate(o SimulateOptions) (Simulation, error) {
	if o.Hosts < 1 || o.Hosts > maxSimulated {
		return Simulation{}, fmt.Errorf("cannot simulate %d hosts: the number goes from 1 to %d", o.Hosts, maxSimulated)
	}
	if o.Zones < 0 || o.Zones > o.Hosts {
		return Simulation{}, fmt.Errorf("cannot simulate %d zones: the number goes from 0 to that of the hosts, %d", o.Zones, o.Hosts)
	}
	for _, f := range o.Fail {
		if f < 1 || f > o.Hosts {
			return Simulation{}, fmt.Errorf("cannot let host %d fail: hosts are numbered from 1 to %d", f, o.Hosts)
		}
	}
	o.Policy.AutoRollback, o.Policy.Checks = nil, 0
	if o.Zones > 0 && o.Policy.Zonal == nil {
		o.Policy.Zonal = &Zonal{}
	}
	s := &simulation{m: NewMachine(), o: o}
	return s.run()
}

type simulation struct {
	m     *Machine
	o     SimulateOptions
	index uint64
}

const (
	simGroup  = "simulated"
	simLeader = "leader" // beside the group, so that its turn never matters
)

func (s *simulation) apply(from string, c Command) error {
	s.index++
	b, err := Encode(c, time.Time{})
	if err != nil {
		return err
	}
	var r Response
	if err := json.Unmarshal(s.m.Apply(s.index, 1, from, b), &r); err != nil {
		return err
	}
	if !r.OK {
		return fmt.Errorf("internal error: the simulation's own %T was refused: %s", c, r.Refused)
	}
	return nil
}

func (s *simulation) host(i int) string { return fmt.Sprintf("h%d", i) }

func (s *simulation) target(base uint64, hash string, p Policy) Target {
	t := Target{Group: simGroup, Base: base, Spec: Spec{Commit: hash, SpecHash: hash}, Policy: p}
	for i := 1; i <= s.o.Hosts; i++ {
		mem := MemberInfo{Host: s.host(i)}
		if s.o.Zones > 0 {
			mem.Zone = fmt.Sprintf("zone-%d", (i-1)%s.o.Zones+1)
		}
		t.Members = append(t.Members, mem)
	}
	return t
}

func (s *simulation) run() (Simulation, error) {
	out := Simulation{MinimumHealthy: s.o.Policy.Minimum(s.o.Hosts), Window: max(0, s.o.Policy.Budget(s.o.Hosts)), Order: []string{}}
	if err := s.settle(); err != nil {
		return out, err
	}
	if err := s.apply(simLeader, s.target(1, "new", s.o.Policy)); err != nil {
		return out, err
	}
	for i := 1; i <= s.o.Hosts; i++ {
		if s.m.s.Groups[0].Active == nil {
			break // failed before anything began
		}
		if err := s.apply(s.host(i), Ready{Group: simGroup, SpecHash: "new", Commit: "new"}); err != nil {
			return out, err
		}
	}
	for s.m.s.Groups[0].Active != nil {
		if err := s.next(&out); err != nil {
			return out, err
		}
	}
	for g := s.oldest(); g != nil; g = s.oldest() { // in flight when it ended
		if err := s.end(g, &out); err != nil {
			return out, err
		}
	}
	d := s.m.s.Groups[0].main()
	out.Status, out.Reason = d.Status, d.Reason
	for _, r := range d.Rows {
		switch r.Status {
		case rowSucceeded:
			out.Succeeded++
		case rowFailed:
			out.Failed++
		case rowSkipped:
			out.Skipped++
		}
	}
	return out, nil
}

// settle brings every host to the old revision.
func (s *simulation) settle() error {
	if err := s.apply(simLeader, Lead{Host: simLeader, Voters: []string{simLeader}}); err != nil {
		return err
	}
	old := s.target(0, "old", Policy{MinimumHealthy: Minimum{Type: HostCount}})
	if err := s.apply(simLeader, old); err != nil {
		return err
	}
	for i := 1; i <= s.o.Hosts; i++ {
		hello := Hello{Group: simGroup, Boot: "1", Running: Spec{Commit: "old", SpecHash: "old"}, Whole: true}
		if err := s.apply(s.host(i), hello); err != nil {
			return err
		}
	}
	if g := s.m.s.Groups[0]; g.Running.SpecHash != "old" {
		return fmt.Errorf("internal error: the simulated fleet did not settle: %s", g.main().Reason)
	}
	return nil
}

// oldest returns the host whose grant is the first still open.
func (s *simulation) oldest() *Grant {
	var first *Grant
	for _, h := range s.m.s.Groups[0].Hosts {
		if h.Grant != nil && (first == nil || h.Grant.Token.Less(first.Token)) {
			first = h.Grant
		}
	}
	return first
}

// next ends one host's grant or, when none is open, lets time pass.
func (s *simulation) next(out *Simulation) error {
	g := s.oldest()
	if g == nil {
		return s.apply(simLeader, Tick{Elapsed: maxTick})
	}
	return s.end(g, out)
}

func (s *simulation) end(g *Grant, out *Simulation) error {
	out.Attempted++
	out.Order = append(out.Order, g.Host)
	done := Done{Group: simGroup, Grant: g.Token, Outcome: OutcomeSucceeded, Stopped: true}
	var number int
	if _, err := fmt.Sscanf(g.Host, "h%d", &number); err != nil {
		return fmt.Errorf("internal error: a simulated host is called %q", g.Host)
	}
	if slices.Contains(s.o.Fail, number) {
		done.Outcome = OutcomeFailed
	}
	return s.apply(g.Host, done)
}
