package desired

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/gitopsd/gitopsd/internal/desired/strict"
)

var (
	errTooLong = errors.New("more than 30 days")
	errVoter   = errors.New("want HOST/STORAGE, a host's name and its 16 hexadecimal digits")
	errAmount  = errors.New("want a number of hosts or a percentage")
)

// groupFile is group.yaml as written.
type groupFile struct {
	id, application, name, coordinators string
	targets                             *targetsFile
	ec2Filters, premFilters             []filterFile
	ec2Sets, premSets                   [][]filterFile
	revision                            revisionFile
	attempt                             int
	zonal                               *ZonalConfig
	alarms                              alarmsFile
	triggers                            []triggerFile
	balancers                           balancersFile
	blueGreen                           *blueGreenFile
	waves                               []Wave
	checks                              []Check
	suspend, removed                    bool
	policyFile
}

// policyFile holds the keys a group.yaml may leave to fleet.yaml's defaults.
type policyFile struct {
	configName                              string
	minimum                                 *MinimumHealthy
	maxUnavailable, maxFailures, minSuccess *Amount
	fileExists                              string
	rollback                                AutoRollback
	style                                   DeploymentStyle
	unreachable, supersede, stopFailure     string
	maxUnreachable                          Amount
	readyDeadline, deploymentDeadline       time.Duration
	deadAfter                               time.Duration
}

type targetsFile struct {
	tagSets [][]TagMatch
	hosts   []string
}

type filterFile struct{ key, value, kind string }

type revisionFile struct {
	kind      string
	s3        *s3File
	github    *struct{ repository, commit string }
	forge     *forgeFile
	https     *struct{ url, bundleType string }
	directory *struct{ path, bundleType string }
	inside    *struct{ path string }
	digest    string
	size      int64
	index     string
}

type forgeFile struct{ forge, url, commit, bundleType string }

type s3File struct{ bucket, key, bundleType, version, eTag string }

type alarmsFile struct {
	enabled, ignorePoll bool
	alarms              []alarmFile
}

type alarmFile struct {
	name       string
	prometheus *struct {
		url, query string
		max        string
	}
}

type triggerFile struct {
	name, target string
	events       []string
	webhook      *struct{ url string }
}

type balancersFile struct {
	elb, target []struct{ name string }
}

type blueGreenFile struct {
	terminate, ready, provision struct {
		action  string
		minutes int
	}
}

// defaultPolicy is what holds when neither group.yaml nor fleet.yaml says anything.
func defaultPolicy() policyFile {
	return policyFile{
		fileExists: "DISALLOW", style: DeploymentStyle{Type: "IN_PLACE", Option: "WITHOUT_TRAFFIC_CONTROL"},
		unreachable: "skip", supersede: "fast-forward", stopFailure: "fail", maxUnreachable: Amount{Percent: 20, IsShare: true},
		readyDeadline: 10 * time.Minute, deploymentDeadline: 8 * time.Hour, deadAfter: time.Minute,
	}
}

// groupTable lists the keys of group.yaml, bound to g, which holds the defaults already.
func groupTable(g *groupFile) strict.Type {
	g.attempt, g.alarms.enabled = 1, true
	name := strict.Match(groupNameForm, "a name (1 to 100 letters, digits or + = , . @ _ -)")
	keys := []strict.Key{
		strict.Need("id", strict.String(&g.id, strict.Match(groupIDForm, "an id (8 to 64 letters, digits, dashes or underscores)")), "identity for life; gitopsd group add makes one"),
		strict.Need("applicationName", strict.String(&g.application, name), ""),
		strict.Need("deploymentGroupName", strict.String(&g.name, name), ""),
		strict.May("coordinators", strict.String(&g.coordinators, setNameRule()), "name of a file in coordinators/; by default the one called as the group"),
		strict.May("targets", strict.Optional(&g.targets, targetsTable), "which hosts: tagSets or hosts"),
		strict.May("ec2TagFilters", filtersType(&g.ec2Filters), "as CodeDeploy's API writes it: OR between filters"),
		strict.May("ec2TagSet", filterSetsType(&g.ec2Sets, "ec2TagSetList"), "as CodeDeploy's API writes it: OR inside a list, AND between lists"),
		strict.May("onPremisesInstanceTagFilters", filtersType(&g.premFilters), "as ec2TagFilters"),
		strict.May("onPremisesTagSet", filterSetsType(&g.premSets, "onPremisesTagSetList"), "as ec2TagSet"),
		strict.Need("revision", revisionTable(&g.revision), "which bundle runs"),
		strict.May("attempt", strict.Int(&g.attempt, 1, 1_000_000), "raise it to try a quarantined revision again"),
		strict.May("zonalConfig", strict.Optional(&g.zonal, zonalTable), "one zone after another"),
		strict.May("alarmConfiguration", alarmsTable(&g.alarms), "what stops a deployment"),
		strict.May("triggerConfigurations", strict.List(&g.triggers, 0, 10, triggerTable), "who is told"),
		strict.May("loadBalancerInfo", balancersTable(&g.balancers), ""),
		strict.May("blueGreenDeploymentConfiguration", strict.Optional(&g.blueGreen, blueGreenTable), ""),
		strict.May("waves", strict.List(&g.waves, 0, maxWaves, waveTable), "steps of a rollout; what they leave over follows last"),
		strict.May("checks", strict.List(&g.checks, 0, maxChecks, checkTable), "probes of each host's health"),
		strict.May("suspend", strict.Bool(&g.suspend), "true: nothing new starts"),
		strict.May("removed", strict.Bool(&g.removed), "true: uninstall"),
	}
	return strict.Object("One deployment group: the file CI edits and you revert.", append(keys, policyKeys(&g.policyFile)...)...)
}

// policyKeys are those that fleet.yaml's defaults may hold too.
func policyKeys(p *policyFile) []strict.Key {
	return []strict.Key{
		strict.May("deploymentConfigName", strict.String(&p.configName, strict.Text(100)), "CodeDeployDefault.OneAtATime, HalfAtATime, AllAtOnce, or a name from fleet.yaml"),
		strict.May("minimumHealthyHosts", strict.Optional(&p.minimum, minimumTable), "instead of a deploymentConfigName"),
		strict.May("maxUnavailable", strict.Optional(&p.maxUnavailable, amountType), "a narrower window than the minimum gives: 3 or 25%"),
		strict.May("maxFailures", strict.Optional(&p.maxFailures, amountType), "failed hosts the rollout bears: 3 or 25%"),
		strict.May("minSuccess", strict.Optional(&p.minSuccess, amountType), "hosts that must succeed: 3 or 100%"),
		strict.May("fileExistsBehavior", strict.EnumFold(&p.fileExists, "DISALLOW", "OVERWRITE", "RETAIN"), "when a file is there that no deployment put there"),
		strict.May("autoRollbackConfiguration", strict.Object("",
			strict.May("enabled", strict.Bool(&p.rollback.Enabled), ""),
			strict.May("events", strict.List(&p.rollback.Events, 0, 3, func(s *string) strict.Type {
				return strict.Enum(s, OnDeploymentFailure, OnStopOnAlarm, OnStopOnRequest)
			}), ""),
		), "off unless set"),
		strict.May("deploymentStyle", strict.Object("",
			strict.May("deploymentType", strict.Enum(&p.style.Type, "IN_PLACE", "BLUE_GREEN"), ""),
			strict.May("deploymentOption", strict.Enum(&p.style.Option, "WITHOUT_TRAFFIC_CONTROL", "WITH_TRAFFIC_CONTROL"), ""),
		), ""),
		strict.May("unreachable", strict.Enum(&p.unreachable, "skip", "wait", "fail"), "hosts dead at the start: skip, wait for them, or fail as CodeDeploy does"),
		strict.May("maxUnreachable", amountType(&p.maxUnreachable), "more hosts dead than this hold the rollout; 20% by default"),
		strict.May("supersede", strict.Enum(&p.supersede, "fast-forward", "queue", "cancel-and-rollback"), "a new commit in mid-rollout"),
		strict.May("applicationStopFailure", strict.Enum(&p.stopFailure, "fail", "continue", "use-new"), "the old release's ApplicationStop fails"),
		strict.May("deadlines", strict.Object("",
			strict.May("ready", strict.Duration(&p.readyDeadline, time.Second, maxWait), "for hosts to report Ready; 10m by default"),
			strict.May("deployment", strict.Duration(&p.deploymentDeadline, time.Second, maxWait), "for a whole deployment; 8h by default"),
			strict.May("dead", strict.Duration(&p.deadAfter, time.Second, maxWait), "of silence before a host counts as unreachable; 60s by default"),
		), ""),
	}
}

func targetsTable(t *targetsFile) strict.Type {
	return strict.Object("",
		strict.May("tagSets", strict.List(&t.tagSets, 1, maxTagSets, func(set *[]TagMatch) strict.Type {
			return strict.List(set, 1, maxTagSet, tagMatchType)
		}), "OR inside a set, AND between: KEY=VALUE, KEY= or =VALUE"),
		strict.May("hosts", strict.List(&t.hosts, 1, maxHosts, func(s *string) strict.Type { return strict.String(s, HostNameRule()) }), "names from hosts/, instead of tagSets"),
	)
}

func tagMatchType(m *TagMatch) strict.Type {
	return strict.Parsed(m, "KEY=VALUE", "write KEY=VALUE, KEY= for any value, =VALUE for any key", map[string]any{"type": "string", "pattern": "="}, func(text string) (TagMatch, error) {
		match, ok := parseTagMatch(text)
		if !ok {
			return match, fmt.Errorf("%.100q is not KEY=VALUE", text)
		}
		return match, nil
	})
}

func filterTable(f *filterFile) strict.Type {
	return strict.Object("",
		strict.May("Key", strict.String(&f.key, tagKeyRule()), ""),
		strict.May("Value", strict.String(&f.value, tagValueRule()), ""),
		strict.May("Type", strict.Enum(&f.kind, "KEY_ONLY", "VALUE_ONLY", "KEY_AND_VALUE"), "KEY_AND_VALUE by default"),
	)
}

func filtersType(into *[]filterFile) strict.Type { return strict.List(into, 1, maxTagSet, filterTable) }

// filterSetsType is a list of lists, bare or under the name the API wraps it in.
func filterSetsType(into *[][]filterFile, wrapper string) strict.Type {
	sets := strict.List(into, 1, maxTagSets, filtersType)
	return strict.Either(sets, strict.Object("", strict.Need(wrapper, sets, "")))
}

// amountType is `3` or `25%`.
func amountType(a *Amount) strict.Type {
	return strict.Parsed(a, "a number of hosts or a percentage", "for example 3 or 25%", map[string]any{"type": []string{"integer", "string"}, "pattern": "^[0-9]+%?$"}, func(text string) (Amount, error) {
		if strings.HasSuffix(text, "%") {
			percent, err := strict.ParsePercent(text)
			return Amount{Percent: percent, IsShare: true}, err
		}
		size, err := strict.ParseSize(text)
		if err != nil || strings.ContainsAny(text, "Bi") || size > 100_000 {
			return Amount{}, errAmount
		}
		return Amount{Count: int(size)}, nil
	})
}

func waveTable(w *Wave) strict.Type {
	return strict.Object("",
		strict.May("hosts", strict.Int(&w.Hosts, 1, 100_000), "this many hosts"),
		strict.May("percent", strict.Int(&w.Percent, 1, 100), "this share of the group"),
		strict.May("tag", strict.Optional(&w.Tag, tagMatchType), "the hosts with this tag: KEY=VALUE"),
		strict.May("rest", strict.Bool(&w.Rest), "true: all that are left"),
		strict.May("bake", strict.Duration(&w.Bake, 0, maxWait), "time to stay healthy before the next wave"),
	)
}

func checkTable(c *Check) strict.Type {
	c.Interval, c.Timeout, c.HealthyAfter, c.UnhealthyAfter, c.Grace = 5*time.Second, 2*time.Second, 2, 3, 30*time.Second
	return strict.Object("",
		strict.Need("name", strict.String(&c.Name, setNameRule()), ""),
		strict.May("http", strict.Optional(&c.HTTP, func(h *HTTPCheck) strict.Type {
			return strict.Object("",
				strict.Need("url", strict.String(&h.URL, strict.Text(2048)), "${tag:KEY} stands for the host's tag"),
				strict.May("status", strict.Int(&h.Status, 100, 599), "by default any of 200 to 399"),
				strict.May("body", strict.String(&h.Body, strict.Text(1024)), "text that must occur in the answer"),
				strict.May("header", strict.Map(&h.Header, 32, headerRule(), func(s *string) strict.Type { return strict.String(s, strict.Text(1024)) }), ""),
			)
		}), "a GET"),
		strict.May("tcp", strict.Optional(&c.TCP, func(t *TCPCheck) strict.Type {
			return strict.Object("", strict.Need("address", strict.String(&t.Address, strict.Text(512)), "HOST:PORT; ${tag:KEY} stands for the host's tag"))
		}), "a connection"),
		strict.May("exec", strict.Optional(&c.Exec, func(e *ExecCheck) strict.Type {
			return strict.Object("", strict.Need("command", strict.List(&e.Command, 1, 64, func(s *string) strict.Type { return strict.String(s) }), "program by absolute path and its arguments; no shell; ${tag:KEY} stands for the host's tag"))
		}), "a program that ends with status 0"),
		strict.May("systemd", strict.Optional(&c.Unit, func(u *UnitCheck) strict.Type {
			return strict.Object("", strict.Need("unit", strict.String(&u.Name, strict.Match(unitForm, "a systemd unit")), "for example nginx.service"))
		}), "a unit that is active"),
		strict.May("interval", strict.Duration(&c.Interval, 50*time.Millisecond, time.Hour), "5s by default"),
		strict.May("timeout", strict.Duration(&c.Timeout, 10*time.Millisecond, 10*time.Minute), "2s by default"),
		strict.May("healthyAfter", strict.Int(&c.HealthyAfter, 1, 100), "passes in a row; 2 by default"),
		strict.May("unhealthyAfter", strict.Int(&c.UnhealthyAfter, 1, 100), "failures in a row; 3 by default"),
		strict.May("grace", strict.Duration(&c.Grace, 0, time.Hour), "failures this long after a start do not count; 30s by default"),
	)
}

func headerRule() strict.Rule {
	return strict.Match(headerForm, "a header's name")
}
