package agent

import (
	"reflect"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/internal/configrepo"
	"github.com/gitopsd/gitopsd/internal/desired"
	"github.com/gitopsd/gitopsd/internal/rollout"
)

func TestPolicyOf(t *testing.T) {
	base := func(change func(*rollout.Policy)) rollout.Policy {
		p := rollout.Policy{MaxUnreachable: rollout.Limit{Set: true}}
		if change != nil {
			change(&p)
		}
		return p
	}
	two, share := desired.Amount{Count: 2}, desired.Amount{IsShare: true, Percent: 25}
	for name, c := range map[string]struct {
		in   desired.Policy
		want rollout.Policy
	}{
		"nothing": {desired.Policy{}, base(nil)},
		"one":     {desired.Policy{DeploymentConfigName: "CodeDeployDefault.OneAtATime", MinimumHealthy: desired.MinimumHealthy{Type: desired.MostConcurrency, Value: 1}}, base(func(p *rollout.Policy) { p.ConfigName, p.OneAtATime = "CodeDeployDefault.OneAtATime", true })},
		"half": {desired.Policy{DeploymentConfigName: "CodeDeployDefault.HalfAtATime", MinimumHealthy: desired.MinimumHealthy{Type: desired.FleetPercent, Value: 50}}, base(func(p *rollout.Policy) {
			p.ConfigName, p.HalfAtATime = "CodeDeployDefault.HalfAtATime", true
			p.MinimumHealthy = mustPredefined(t, p.ConfigName)
		})},
		"all": {desired.Policy{DeploymentConfigName: "CodeDeployDefault.AllAtOnce", MinimumHealthy: desired.MinimumHealthy{Type: desired.HostCount}}, base(func(p *rollout.Policy) {
			p.ConfigName = "CodeDeployDefault.AllAtOnce"
			p.MinimumHealthy = mustPredefined(t, p.ConfigName)
		})},
		"own name": {desired.Policy{DeploymentConfigName: "ThreeQuarters", MinimumHealthy: desired.MinimumHealthy{Type: desired.FleetPercent, Value: 75}}, base(func(p *rollout.Policy) {
			p.ConfigName = "ThreeQuarters"
			p.MinimumHealthy = rollout.Minimum{Type: rollout.FleetPercent, Value: 75}
		})},
		"hosts": {desired.Policy{MinimumHealthy: desired.MinimumHealthy{Type: desired.HostCount, Value: 3}}, base(func(p *rollout.Policy) { p.MinimumHealthy = rollout.Minimum{Type: rollout.HostCount, Value: 3} })},
		"limits": {desired.Policy{MaxUnavailable: &two, MaxFailures: &share, MaxUnreachable: share}, base(func(p *rollout.Policy) {
			p.MaxUnavailable = rollout.Limit{Set: true, Value: 2}
			p.MaxFailures = rollout.Limit{Set: true, Percent: true, Value: 25}
			p.MaxUnreachable = p.MaxFailures
		})},
		"success":      {desired.Policy{MinSuccess: &desired.Amount{IsShare: true, Percent: 100}}, base(func(p *rollout.Policy) { p.MinSuccess = rollout.Minimum{Type: rollout.FleetPercent, Value: 100} })},
		"success of 2": {desired.Policy{MinSuccess: &two}, base(func(p *rollout.Policy) { p.MinSuccess = rollout.Minimum{Type: rollout.HostCount, Value: 2} })},
		"unreachable":  {desired.Policy{Unreachable: "wait", Supersede: "queue"}, base(func(p *rollout.Policy) { p.Unreachable, p.Supersede = "wait", "queue" })},
		"deadlines": {desired.Policy{DeadAfter: time.Second, ReadyDeadline: time.Minute, DeploymentDeadline: time.Hour}, base(func(p *rollout.Policy) {
			p.DeadAfter, p.ReadyDeadline, p.DeploymentLimit = time.Second, time.Minute, time.Hour
		})},
		"checks": {desired.Policy{Checks: make([]desired.Check, 2)}, base(func(p *rollout.Policy) { p.Checks = 2 })},
		"rollback": {desired.Policy{AutoRollback: desired.AutoRollback{Enabled: true, Events: []string{"DEPLOYMENT_STOP_ON_ALARM", "DEPLOYMENT_FAILURE"}}}, base(func(p *rollout.Policy) {
			p.AutoRollback = []rollout.RollbackEvent{"DEPLOYMENT_FAILURE", "DEPLOYMENT_STOP_ON_ALARM"}
		})},
		"no rollback": {desired.Policy{AutoRollback: desired.AutoRollback{Events: []string{"DEPLOYMENT_FAILURE"}}}, base(nil)},
		"waves": {desired.Policy{Waves: []desired.Wave{{Hosts: 1, Bake: time.Minute}, {Percent: 25}, {Tag: &desired.TagMatch{Key: "rack", Value: "a", HasKey: true, HasValue: true}}, {Rest: true}}},
			base(func(p *rollout.Policy) {
				p.Waves = []rollout.Wave{{Hosts: 1, Bake: time.Minute}, {Percent: 25}, {Tag: "rack=a"}, {Rest: true}}
			})},
		"zones": {desired.Policy{Zonal: &desired.ZonalConfig{FirstZoneMonitor: -1, Monitor: time.Minute, MinimumPerZone: desired.MinimumHealthy{Type: desired.HostCount, Value: 1}}},
			base(func(p *rollout.Policy) {
				p.Zonal = &rollout.Zonal{FirstMonitor: time.Minute, Monitor: time.Minute, PerZone: rollout.Minimum{Type: rollout.HostCount, Value: 1}}
			})},
		"first zone": {desired.Policy{Zonal: &desired.ZonalConfig{FirstZoneMonitor: time.Hour, Monitor: time.Minute}}, base(func(p *rollout.Policy) { p.Zonal = &rollout.Zonal{FirstMonitor: time.Hour, Monitor: time.Minute} })},
	} {
		if got := policyOf(c.in); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s:\ngot  %+v\nwant %+v", name, got, c.want)
		}
	}
}

func mustPredefined(t *testing.T, name string) rollout.Minimum {
	t.Helper()
	p, err := rollout.Predefined(name)
	if err != nil {
		t.Fatal(err)
	}
	return p.MinimumHealthy
}

func TestTargetOf(t *testing.T) {
	g := desired.Group{ID: "g1", Folder: "shop/web", ApplicationName: "website", Name: "website-production", Coordinators: "web", Members: []desired.HostName{"web-1", "web-2"},
		SpecHash: "hash", Revision: desired.Revision{Digest: "sha256:d"},
		Policy: desired.Policy{Attempt: 3, Waves: []desired.Wave{{Tag: &desired.TagMatch{Key: "rack", HasKey: true}}, {Rest: true}}}}
	w := &world{Commit: configrepo.Commit{ID: "c1", Signers: []string{"anna"}, Subject: "release"}, State: &desired.State{
		Hosts: map[desired.HostName]desired.Host{"web-1": {Storage: "0000000000000001", Zone: "z1", Tags: map[string]string{"rack": "a", "role": "web"}}, "web-2": {Tags: map[string]string{"role": "web"}}},
		Sets:  map[string]desired.CoordinatorSet{"web": {MaxActiveDeployments: 5, MaxHostsInFlight: 7}}}}
	want := rollout.Target{Group: "g1", Spec: rollout.Spec{Commit: "c1", SpecHash: "hash", Digest: "sha256:d"}, Attempt: 3, Application: "website", Name: "website-production", Folder: "shop/web",
		Policy: policyOf(g.Policy), Signers: []string{"anna"}, Subject: "release", SetActive: 5, SetInFlight: 7,
		Members: []rollout.MemberInfo{{Host: "web-1", Storage: "0000000000000001", Zone: "z1", Tags: map[string]string{"rack": "a"}}, {Host: "web-2"}}}
	if got := targetOf(w, g); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	g.Policy.Suspend = true
	if !targetOf(w, g).Suspend {
		t.Error("suspend is lost")
	}
}

func TestWaveTags(t *testing.T) {
	tags := map[string]string{"rack": "a", "role": "web"}
	for name, c := range map[string]struct {
		match desired.TagMatch
		want  map[string]string
	}{
		"both":    {desired.TagMatch{Key: "rack", Value: "a", HasKey: true, HasValue: true}, map[string]string{"rack": "a"}},
		"other":   {desired.TagMatch{Key: "rack", Value: "b", HasKey: true, HasValue: true}, nil},
		"key":     {desired.TagMatch{Key: "role", HasKey: true}, map[string]string{"role": "web"}},
		"value":   {desired.TagMatch{Value: "web", HasValue: true}, map[string]string{"role": "web"}},
		"neither": {desired.TagMatch{}, tags},
	} {
		if got := waveTags([]desired.Wave{{Hosts: 1}, {Tag: &c.match}}, tags); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %v", name, got)
		}
	}
}
