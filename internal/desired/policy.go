package desired

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/gitopsd/gitopsd/internal/desired/strict"
)

const predefinedPrefix = "CodeDeployDefault."

// OneAtATime is the deployment configuration of a group that names none.
const OneAtATime = predefinedPrefix + "OneAtATime"

// Predefined gives CodeDeploy's own deployment configurations for servers. OneAtATime is a window of one, never a percentage: 99 % of any fleet below 100
// hosts would be all of it.
func Predefined(name string) (DeploymentConfig, bool) {
	switch name {
	case OneAtATime:
		return DeploymentConfig{MinimumHealthy: MinimumHealthy{MostConcurrency, 1}}, true
	case predefinedPrefix + "HalfAtATime":
		return DeploymentConfig{MinimumHealthy: MinimumHealthy{FleetPercent, 50}}, true
	case predefinedPrefix + "AllAtOnce":
		return DeploymentConfig{MinimumHealthy: MinimumHealthy{HostCount, 0}}, true
	}
	return DeploymentConfig{}, false
}

// DeploymentConfig finds a configuration by name, predefined or of fleet.yaml.
func (f Fleet) DeploymentConfig(name string) (DeploymentConfig, bool) {
	if c, ok := Predefined(name); ok {
		return c, true
	}
	c, ok := f.DeploymentConfigs[name]
	return c, ok
}

// configNames lists what deploymentConfigName may be.
func (f Fleet) configNames() []string {
	names := slices.Sorted(maps.Keys(f.DeploymentConfigs))
	for _, short := range []string{"OneAtATime", "HalfAtATime", "AllAtOnce"} {
		names = append(names, predefinedPrefix+short)
	}
	return names
}

// checkMinimum refuses what CodeDeploy refuses.
func checkMinimum(doc *strict.Doc, at string, m MinimumHealthy) []Problem {
	if m.Type == FleetPercent && m.Value > 99 {
		return []Problem{doc.Problem(at+".value", "to let no host fail write minSuccess: 100%", "%s: FLEET_PERCENT is 0 to 99, got %d: with all hosts healthy none could be deployed to", at, m.Value)}
	}
	return nil
}

// buildConfig resolves minimumHealthyHosts, deploymentConfigName and what narrows them. groupSays tells group.yaml's own keys from fleet.yaml's defaults.
func (p policyFile) buildConfig(doc *strict.Doc, fleet Fleet, out *Policy) []Problem {
	hasName, hasMinimum := doc.Has("deploymentConfigName"), doc.Has("minimumHealthyHosts")
	if hasName && hasMinimum {
		return []Problem{doc.Problem("minimumHealthyHosts", "keep one of the two", "deploymentConfigName and minimumHealthyHosts exclude each other")}
	}
	var config DeploymentConfig
	switch {
	case hasMinimum || p.minimum != nil && !hasName:
		config.MinimumHealthy = *orZero(p.minimum)
	default:
		out.DeploymentConfigName = p.configName
		if p.configName == "" {
			out.DeploymentConfigName = OneAtATime
		}
		var ok bool
		if config, ok = fleet.DeploymentConfig(out.DeploymentConfigName); !ok {
			hint := strict.DidYouMean(out.DeploymentConfigName, fleet.configNames())
			return []Problem{doc.Problem("deploymentConfigName", hint, "deploymentConfigName: there is no %q, neither predefined nor in fleet.yaml", out.DeploymentConfigName)}
		}
	}
	out.MinimumHealthy, out.Zonal = config.MinimumHealthy, config.Zonal
	out.MaxUnavailable = first(p.maxUnavailable, config.MaxUnavailable)
	out.MaxFailures = first(p.maxFailures, config.MaxFailures)
	out.MinSuccess = first(p.minSuccess, config.MinSuccess)
	problems := checkMinimum(doc, "minimumHealthyHosts", out.MinimumHealthy)
	if a := out.MaxUnavailable; a != nil && a.Count == 0 && a.Percent == 0 {
		problems = append(problems, doc.Problem("maxUnavailable", "write at least 1", "maxUnavailable: with 0 no host could ever be deployed to"))
	}
	return problems
}

func orZero[T any](p *T) *T {
	if p == nil {
		return new(T)
	}
	return p
}

func first[T any](a, b *T) *T {
	if a != nil {
		return a
	}
	return b
}

// buildPolicy makes the frozen policy out of a group.yaml that carries fleet.yaml's defaults.
func (g groupFile) buildPolicy(doc *strict.Doc, fleet Fleet) (Policy, []Problem) {
	out := Policy{
		Version: PolicyVersion, Unreachable: g.unreachable, MaxUnreachable: g.maxUnreachable, Supersede: g.supersede,
		ApplicationStopFailure: g.stopFailure, AutoRollback: g.rollback, Checks: g.checks, Attempt: g.attempt, Suspend: g.suspend,
		Removed: g.removed, Style: g.style, FileExistsBehavior: g.fileExists, ReadyDeadline: g.readyDeadline, DeploymentDeadline: g.deploymentDeadline, DeadAfter: g.deadAfter,
	}
	problems := g.buildConfig(doc, fleet, &out)
	if g.zonal != nil {
		out.Zonal = g.zonal
	}
	if out.Zonal != nil {
		problems = append(problems, checkMinimum(doc, "zonalConfig.minimumHealthyHostsPerZone", out.Zonal.MinimumPerZone)...)
	}
	if out.AutoRollback.Enabled && len(out.AutoRollback.Events) == 0 {
		problems = append(problems, doc.Problem("autoRollbackConfiguration", "events: ["+OnDeploymentFailure+"]", "autoRollbackConfiguration: enabled without an event does nothing"))
	}
	waves, more := g.buildWaves(doc)
	out.Waves = waves
	problems = append(problems, more...)
	problems = append(problems, checkChecks(doc, g.checks)...)
	return out, append(problems, g.unsupported(doc, out)...)
}

// buildWaves demands one measure a wave, and adds the rest that the last wave leaves over.
func (g groupFile) buildWaves(doc *strict.Doc) ([]Wave, []Problem) {
	var problems []Problem
	for i, w := range g.waves {
		at, measures := fmt.Sprintf("waves[%d]", i), 0
		for _, set := range []bool{w.Hosts > 0, w.Percent > 0, w.Tag != nil, w.Rest} {
			if set {
				measures++
			}
		}
		switch {
		case measures != 1:
			problems = append(problems, doc.Problem(at, "for example {hosts: 1, bake: 10m}", "%s: a wave has exactly one of hosts, percent, tag and rest: true", at))
		case w.Rest && i != len(g.waves)-1:
			problems = append(problems, doc.Problem(at, "put it last", "%s: rest leaves nothing for the waves after it", at))
		}
	}
	waves := slices.Clone(g.waves)
	if n := len(waves); n > 0 && !waves[n-1].Rest {
		waves = append(waves, Wave{Rest: true})
	}
	return waves, problems
}

// unsupported refuses by name what would change behaviour but is not executed yet.
func (g groupFile) unsupported(doc *strict.Doc, p Policy) []Problem {
	var problems []Problem
	refuse := func(is bool, at, what, instead string) {
		if is {
			problems = append(problems, doc.Problem(at, instead, "%s is not supported yet", what))
		}
	}
	refuse(p.Style.Type == "BLUE_GREEN", "deploymentStyle.deploymentType", "deploymentType BLUE_GREEN", "write IN_PLACE")
	refuse(p.Style.Option == "WITH_TRAFFIC_CONTROL", "deploymentStyle.deploymentOption", "deploymentOption WITH_TRAFFIC_CONTROL", "write WITHOUT_TRAFFIC_CONTROL and steer traffic in hooks")
	refuse(g.blueGreen != nil, "blueGreenDeploymentConfiguration", "blueGreenDeploymentConfiguration", "remove it")
	refuse(len(g.balancers.elb)+len(g.balancers.target) > 0, "loadBalancerInfo", "loadBalancerInfo", "remove it and steer traffic in hooks")
	refuse(g.alarms.enabled && len(g.alarms.alarms) > 0, "alarmConfiguration", "alarmConfiguration", "write enabled: false to keep the list, or use checks")
	refuse(len(g.triggers) > 0, "triggerConfigurations", "triggerConfigurations", "write []")
	refuse(p.Zonal != nil && g.zonal != nil, "zonalConfig", "zonalConfig", "write a wave for each zone: waves: [{tag: rack=a}, ...]")
	refuse(p.Zonal != nil && g.zonal == nil, "deploymentConfigName", "the zonalConfig of "+p.DeploymentConfigName, "name another deployment configuration")
	refuse(p.Removed, "removed", "removed: true", "write suspend: true and uninstall by hand")
	return problems
}

// buildTargets unites the two ways to select.
func (g groupFile) buildTargets(doc *strict.Doc, l *loader) (Targets, []Problem) {
	var t Targets
	var problems []Problem
	api := len(g.ec2Filters)+len(g.ec2Sets)+len(g.premFilters)+len(g.premSets) > 0
	switch {
	case g.targets != nil && api:
		problems = append(problems, doc.Problem("targets", "keep one of the two", "targets and CodeDeploy's tag filters exclude each other"))
	case g.targets != nil && (len(g.targets.tagSets) > 0) == (len(g.targets.hosts) > 0):
		if !doc.Mistyped("targets") && doc.Has("targets.tagSets") == doc.Has("targets.hosts") {
			problems = append(problems, doc.Problem("targets", "for example {tagSets: [[role=web]]} or {hosts: [web-1]}", "targets: exactly one of tagSets and hosts is wanted"))
		}
	case g.targets == nil && !api && !g.namesTargets(doc):
		problems = append(problems, doc.Problem("", "add targets: {tagSets: [[role=web]]} or {hosts: [web-1]}", "the group selects no hosts: targets is missing"))
	}
	if g.targets != nil {
		var more []Problem
		t, more = g.targets.build(doc, l)
		problems = append(problems, more...)
	}
	for _, form := range []struct {
		filters []filterFile
		sets    [][]filterFile
		key     string
		setKey  string
	}{{g.ec2Filters, g.ec2Sets, "ec2TagFilters", "ec2TagSet"}, {g.premFilters, g.premSets, "onPremisesInstanceTagFilters", "onPremisesTagSet"}} {
		if len(form.filters) > 0 && len(form.sets) > 0 {
			problems = append(problems, doc.Problem(form.setKey, "keep one of the two", "%s and %s exclude each other", form.key, form.setKey))
			continue
		}
		sets, at := form.sets, form.setKey
		if len(form.filters) > 0 {
			sets, at = [][]filterFile{form.filters}, form.key
		}
		if len(sets) > 0 {
			selector, more := buildSelector(doc, at, sets)
			t.Selectors = append(t.Selectors, selector)
			problems = append(problems, more...)
		}
	}
	return t, problems
}

// namesTargets says whether any selector key is in the file, be it unreadable.
func (g groupFile) namesTargets(doc *strict.Doc) bool {
	return slices.ContainsFunc([]string{"targets", "ec2TagFilters", "ec2TagSet", "onPremisesInstanceTagFilters", "onPremisesTagSet"}, doc.Has)
}

// build checks listed hosts against the inventory.
func (t targetsFile) build(doc *strict.Doc, l *loader) (Targets, []Problem) {
	var out Targets
	var problems []Problem
	seen := make(map[HostName]bool, len(t.hosts))
	for i, name := range t.hosts {
		at, host := fmt.Sprintf("targets.hosts[%d]", i), HostName(name)
		_, ok := l.state.Hosts[host]
		switch {
		case seen[host]:
			problems = append(problems, doc.Problem(at, "remove one", "targets.hosts: %s is there twice", name))
			continue
		case !ok && l.broken[host]:
			problems = append(problems, doc.Problem(at, "mend it first", "targets.hosts: hosts/%s.yaml has problems of its own", name))
		case !ok:
			hint := l.guessHost(host)
			if hint == "" {
				hint = fmt.Sprintf("commit hosts/%s.yaml; gitopsd host init prints it", name)
			}
			problems = append(problems, doc.Problem(at, hint, "targets.hosts: there is no host %q in hosts/", name))
		}
		seen[host] = true
		out.Hosts = append(out.Hosts, host)
	}
	slices.Sort(out.Hosts)
	if len(t.tagSets) > 0 {
		out.Selectors = []Selector{{Sets: t.tagSets}}
	}
	return out, problems
}

// buildSelector turns CodeDeploy's filters into matches.
func buildSelector(doc *strict.Doc, at string, sets [][]filterFile) (Selector, []Problem) {
	var s Selector
	var problems []Problem
	for i, set := range sets {
		var matches []TagMatch
		for j, f := range set {
			where := fmt.Sprintf("%s[%d][%d]", at, i, j)
			if strings.HasSuffix(at, "Filters") {
				where = fmt.Sprintf("%s[%d]", at, j)
			}
			kind := f.kind
			if kind == "" {
				kind = "KEY_AND_VALUE"
			}
			m := TagMatch{Key: f.key, Value: f.value, HasKey: kind != "VALUE_ONLY", HasValue: kind != "KEY_ONLY"}
			if m.HasKey && f.key == "" || kind == "VALUE_ONLY" && f.value == "" {
				problems = append(problems, doc.Problem(where, "", "%s: %s needs what its name says", where, kind))
			}
			if !m.HasKey && f.key != "" || !m.HasValue && f.value != "" {
				problems = append(problems, doc.Problem(where, "remove it, or choose another Type", "%s: %s has a Key or Value it would ignore", where, kind))
			}
			matches = append(matches, m)
		}
		s.Sets = append(s.Sets, matches)
	}
	return s, problems
}
