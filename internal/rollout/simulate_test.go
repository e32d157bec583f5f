package rollout

import (
	"fmt"
	"strings"
	"testing"
)

func percent(v int) Policy {
	return Policy{MinimumHealthy: Minimum{Type: FleetPercent, Value: v}}
}

func count(v int) Policy { return Policy{MinimumHealthy: Minimum{Type: HostCount, Value: v}} }

func named(t *testing.T, name string) Policy {
	t.Helper()
	p, err := Predefined(name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// upTo returns 1..n.
func upTo(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i + 1
	}
	return out
}

// TestMinimumHealthyTable is CodeDeploy's table of minimum healthy hosts with
// every verdict its documentation gives, and the traps in it.
func TestMinimumHealthyTable(t *testing.T) {
	one, half, all := named(t, "OneAtATime"), named(t, "HalfAtATime"), named(t, "AllAtOnce")
	tests := []struct {
		name    string
		n       int
		policy  Policy
		fail    []int
		m       int
		window  int
		status  string
		tried   int
		well    int
		failed  int
		skipped int
	}{
		{"9 HOST_COUNT 6", 9, count(6), nil, 6, 3, "Succeeded", 9, 9, 0, 0},
		{"9 HOST_COUNT 6, two fail", 9, count(6), []int{2, 5}, 6, 3, "Succeeded", 9, 7, 2, 0},
		{"9 HOST_COUNT 6, the last three fail", 9, count(6), []int{7, 8, 9}, 6, 3, "Succeeded", 9, 6, 3, 0},
		{"9 HOST_COUNT 6, the first three fail", 9, count(6), []int{1, 2, 3}, 6, 3, "Failed", 3, 0, 3, 6},
		{"9 FLEET_PERCENT 40", 9, percent(40), nil, 4, 5, "Succeeded", 9, 9, 0, 0},
		{"9 FLEET_PERCENT 40, four fail", 9, percent(40), []int{1, 3, 5, 7}, 4, 5, "Succeeded", 9, 5, 4, 0},
		{"9 FLEET_PERCENT 40, the last five fail", 9, percent(40), []int{5, 6, 7, 8, 9}, 4, 5, "Succeeded", 9, 4, 5, 0},
		{"9 HalfAtATime", 9, half, nil, 5, 4, "Succeeded", 9, 9, 0, 0},
		{"9 HalfAtATime, four fail first", 9, half, upTo(4), 5, 4, "Failed", 4, 0, 4, 5},
		{"9 HalfAtATime, the last four fail", 9, half, []int{6, 7, 8, 9}, 5, 4, "Succeeded", 9, 5, 4, 0},
		{"10 HOST_COUNT 9, first fails", 10, count(9), []int{1}, 9, 1, "Failed", 1, 0, 1, 9},
		{"10 HOST_COUNT 9, ninth fails", 10, count(9), []int{9}, 9, 1, "Failed", 9, 8, 1, 1},
		{"10 HOST_COUNT 9, last fails", 10, count(9), []int{10}, 9, 1, "Succeeded", 10, 9, 1, 0},
		{"10 HOST_COUNT 8, one fails", 10, count(8), []int{1}, 8, 2, "Succeeded", 10, 9, 1, 0},
		{"10 HOST_COUNT 8, two fail with work left", 10, count(8), []int{1, 4}, 8, 2, "Failed", 4, 2, 2, 6},
		{"10 HOST_COUNT 8, second failure on the last", 10, count(8), []int{1, 10}, 8, 2, "Succeeded", 10, 8, 2, 0},
		{"10 FLEET_PERCENT 85", 10, percent(85), nil, 9, 1, "Succeeded", 10, 10, 0, 0},
		{"10 FLEET_PERCENT 85, one fails", 10, percent(85), []int{3}, 9, 1, "Failed", 3, 2, 1, 7},
		{"10 FLEET_PERCENT 95", 10, percent(95), nil, 10, 0, "Failed", 0, 0, 0, 10},
		{"10 AllAtOnce", 10, all, nil, 0, 10, "Succeeded", 10, 10, 0, 0},
		{"10 AllAtOnce, nine fail", 10, all, upTo(9), 0, 10, "Succeeded", 10, 1, 9, 0},
		{"10 AllAtOnce, all fail", 10, all, upTo(10), 0, 10, "Failed", 10, 0, 10, 0},
		{"1 OneAtATime", 1, one, nil, 0, 1, "Succeeded", 1, 1, 0, 0},
		{"1 OneAtATime must succeed", 1, one, []int{1}, 0, 1, "Failed", 1, 0, 1, 0},
		{"2 OneAtATime, first fails", 2, one, []int{1}, 1, 1, "Failed", 1, 0, 1, 1},
		{"2 OneAtATime, second fails", 2, one, []int{2}, 1, 1, "Succeeded", 2, 1, 1, 0},
		{"trap a: OneAtATime is not 99 percent", 50, one, nil, 49, 1, "Succeeded", 50, 50, 0, 0},
		{"trap a: 99 percent below 100 hosts", 50, percent(99), nil, 50, 0, "Failed", 0, 0, 0, 50},
		{"trap a: 99 percent of 100 hosts", 100, percent(99), nil, 99, 1, "Succeeded", 100, 100, 0, 0},
		{"trap b: 75 percent of 1", 1, percent(75), nil, 1, 0, "Failed", 0, 0, 0, 1},
		{"trap b: 75 percent of 2", 2, percent(75), nil, 2, 0, "Failed", 0, 0, 0, 2},
		{"trap b: 75 percent of 3", 3, percent(75), nil, 3, 0, "Failed", 0, 0, 0, 3},
		{"trap b: 75 percent of 4", 4, percent(75), nil, 3, 1, "Succeeded", 4, 4, 0, 0},
		{"trap c: HalfAtATime of 1", 1, half, nil, 1, 1, "Succeeded", 1, 1, 0, 0},
		{"trap c: HalfAtATime of 1 must succeed", 1, half, []int{1}, 1, 1, "Failed", 1, 0, 1, 0},
		{"a minimum above the group", 3, count(20), nil, 20, 0, "Failed", 0, 0, 0, 3},
		{"HOST_COUNT 0", 3, count(0), []int{1, 2}, 0, 3, "Succeeded", 3, 1, 2, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Simulate(SimulateOptions{Hosts: tt.n, Policy: tt.policy, Fail: tt.fail})
			if err != nil {
				t.Fatal(err)
			}
			want := Simulation{Status: tt.status, MinimumHealthy: tt.m, Window: tt.window, Attempted: tt.tried, Succeeded: tt.well, Failed: tt.failed, Skipped: tt.skipped}
			if line(got) != line(want) {
				t.Errorf("got  %s (%s)\nwant %s", line(got), got.Reason, line(want))
			}
			if got.Reason == "" || !strings.Contains(got.Reason, "N=") {
				t.Errorf("the reason has no numbers: %q", got.Reason)
			}
		})
	}
}

func line(s Simulation) string {
	return fmt.Sprintf("%s m=%d window=%d attempted=%d succeeded=%d failed=%d skipped=%d", s.Status, s.MinimumHealthy, s.Window, s.Attempted, s.Succeeded, s.Failed, s.Skipped)
}

// TestOneKnobThreeJobs: what CodeDeploy cannot say, ours can.
func TestOneKnobThreeJobs(t *testing.T) {
	p := count(0)
	p.MaxUnavailable = Limit{Set: true, Value: 3}
	p.MinSuccess = Minimum{Type: FleetPercent, Value: 100}
	got, err := Simulate(SimulateOptions{Hosts: 10, Policy: p, Fail: []int{10}})
	if err != nil {
		t.Fatal(err)
	}
	if got.Status != "Failed" || got.Attempted != 10 {
		t.Errorf("three at a time and all must succeed: %+v", got)
	}
	p = count(0)
	p.MaxUnavailable = Limit{Set: true, Value: 2}
	p.MaxFailures = Limit{Set: true, Value: 1}
	got, err = Simulate(SimulateOptions{Hosts: 10, Policy: p, Fail: []int{1, 2}})
	if err != nil {
		t.Fatal(err)
	}
	if got.Status != "Failed" || got.Failed != 2 || got.Attempted > 4 {
		t.Errorf("one failure is allowed, two are not: %+v", got)
	}
}

// TestFailuresDoNotFillMaxUnavailable: it is the window, and they are the verdict's matter.
func TestFailuresDoNotFillMaxUnavailable(t *testing.T) {
	p := count(1)
	p.MaxUnavailable = Limit{Set: true, Value: 2}
	for _, c := range []struct {
		fail []int
		want string
	}{
		{[]int{1, 2}, "Succeeded m=1 window=9 attempted=10 succeeded=8 failed=2 skipped=0"},
		{[]int{1, 2, 3, 4, 5, 6, 7, 8, 9}, "Failed m=1 window=9 attempted=9 succeeded=0 failed=9 skipped=1"},
	} {
		got, err := Simulate(SimulateOptions{Hosts: 10, Policy: p, Fail: c.fail})
		if err != nil {
			t.Fatal(err)
		}
		if line(got) != c.want {
			t.Errorf("%v: %s: %s, want %s", c.fail, line(got), got.Reason, c.want)
		}
	}
}

func TestSimulateZones(t *testing.T) {
	got, err := Simulate(SimulateOptions{Hosts: 9, Zones: 3, Policy: count(6)})
	if err != nil {
		t.Fatal(err)
	}
	if want := "h1 h4 h7 h2 h5 h8 h3 h6 h9"; strings.Join(got.Order, " ") != want {
		t.Errorf("order %v, want %s: one zone after the other", got.Order, want)
	}
	p := count(0)
	p.Zonal = &Zonal{PerZone: Minimum{Type: HostCount, Value: 3}}
	got, err = Simulate(SimulateOptions{Hosts: 9, Zones: 3, Policy: p})
	if err != nil {
		t.Fatal(err)
	}
	if got.Status != "Failed" || got.Attempted != 0 {
		t.Errorf("a zone whose minimum is its size cannot be deployed: %+v", got)
	}
}

func TestSimulateRefuses(t *testing.T) {
	for _, o := range []SimulateOptions{{Hosts: 0}, {Hosts: maxSimulated + 1}, {Hosts: 3, Fail: []int{4}}, {Hosts: 3, Fail: []int{0}}, {Hosts: 3, Zones: 4}} {
		if _, err := Simulate(o); err == nil {
			t.Errorf("%+v was simulated", o)
		}
	}
	if _, err := Predefined("CodeDeployDefault.ECSAllAtOnce"); err == nil {
		t.Error("a configuration for ECS was taken for hosts")
	}
}
