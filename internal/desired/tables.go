package desired

import (
	"strings"
	"time"

	"github.com/gitopsd/gitopsd/internal/desired/strict"
)

// maxWait bounds every duration in the repository.
const maxWait = 30 * 24 * time.Hour

// fleetFile is fleet.yaml as written.
type fleetFile struct {
	name             string
	sites            map[string]siteFile
	configs          map[string]configFile
	notices          []noticeFile
	defaults         policyFile
	allowMassRemoval string
}

type siteFile struct {
	origin string
	links  map[string]int64
}

type noticeFile struct {
	name, webhook string
	events        []string
}

// configFile is one entry of deploymentConfigs.
type configFile struct {
	minimum        *MinimumHealthy
	maxUnavailable *Amount
	maxFailures    *Amount
	minSuccess     *Amount
	zonal          *ZonalConfig
}

func fleetTable(f *fleetFile) strict.Type {
	f.defaults = defaultPolicy()
	return strict.Object("The fleet: what its groups share.",
		strict.Need("name", strict.String(&f.name, setNameRule()), "what the fleet is called in notices and pages"),
		strict.May("sites", strict.Map(&f.sites, 1000, setNameRule(), func(s *siteFile) strict.Type {
			s.origin = "shared"
			return strict.Object("",
				strict.May("origin", strict.Enum(&s.origin, "shared", "own"), "own: the site reads each bundle from the origin itself"),
				strict.May("links", strict.Map(&s.links, 1000, setNameRule(), func(rate *int64) strict.Type { return strict.Rate(rate) }), "by other site, the rate of bundles towards it"),
			)
		}), "places with hosts of their own"),
		strict.May("deploymentConfigs", strict.Map(&f.configs, 200, deploymentConfigNameRule(), configTable), "deployment configurations groups may name"),
		strict.May("notices", strict.List(&f.notices, 0, 100, noticeTable), "who is told what"),
		strict.May("defaults", strict.Object("", policyKeys(&f.defaults)...), "what a group.yaml need not repeat"),
		strict.May("allowMassRemoval", strict.String(&f.allowMassRemoval, CommitRule()), "parent commit after which many hosts or all groups may be removed"),
	)
}

func noticeTable(n *noticeFile) strict.Type {
	return strict.Object("",
		strict.Need("name", strict.String(&n.name, setNameRule()), ""),
		strict.May("webhook", strict.String(&n.webhook, urlRule()), ""),
		strict.May("events", strict.List(&n.events, 0, 64, func(s *string) strict.Type { return strict.String(s, strict.Text(64)) }), ""),
	)
}

func configTable(c *configFile) strict.Type {
	return strict.Object("",
		strict.May("minimumHealthyHosts", strict.Optional(&c.minimum, minimumTable), "hosts that stay healthy"),
		strict.May("maxUnavailable", strict.Optional(&c.maxUnavailable, amountType), "a narrower window than minimumHealthyHosts gives"),
		strict.May("maxFailures", strict.Optional(&c.maxFailures, amountType), "failed hosts the rollout bears"),
		strict.May("minSuccess", strict.Optional(&c.minSuccess, amountType), "hosts that must succeed; 100% allowed"),
		strict.May("zonalConfig", strict.Optional(&c.zonal, zonalTable), "one zone after another"),
	)
}

func deploymentConfigNameRule() strict.Rule {
	return strict.All(strict.Text(100), strict.Rule{Test: func(s string) (string, string) {
		if strings.HasPrefix(s, predefinedPrefix) {
			return "begins with " + predefinedPrefix + ", which is reserved", "choose another name"
		}
		return "", ""
	}})
}

func minimumTable(m *MinimumHealthy) strict.Type {
	return strict.Object("",
		strict.Need("type", strict.Enum(&m.Type, HostCount, FleetPercent), "HOST_COUNT or FLEET_PERCENT"),
		strict.Need("value", strict.Int(&m.Value, 0, 100_000), "hosts, or percent from 0 to 99"),
	)
}

func zonalTable(z *ZonalConfig) strict.Type {
	z.FirstZoneMonitor = -1
	z.MinimumPerZone = MinimumHealthy{Type: FleetPercent}
	return strict.Object("",
		strict.May("firstZoneMonitorDurationInSeconds", secondsType(&z.FirstZoneMonitor), "by default monitorDurationInSeconds"),
		strict.May("monitorDurationInSeconds", secondsType(&z.Monitor), "wait between zones"),
		strict.May("minimumHealthyHostsPerZone", minimumTable(&z.MinimumPerZone), "by default 0 percent"),
	)
}

// secondsType is a whole number of seconds.
func secondsType(into *time.Duration) strict.Type {
	return strict.Parsed(into, "seconds", "write a whole number of seconds", map[string]any{"type": "integer", "minimum": 0}, func(text string) (time.Duration, error) {
		d, err := strict.ParseDuration(text + "s")
		if err == nil && d > maxWait {
			err = errTooLong
		}
		return d, err
	})
}

// hostFile is hosts/NAME.yaml as written.
type hostFile struct {
	key, storage, address, zone, site string
	keys                              []string
	tags                              map[string]string
}

func hostTable(h *hostFile) strict.Type {
	return strict.Object("One host of the inventory. The file's name is the host's.",
		strict.May("publicKey", strict.String(&h.key, publicKeyRule()), "OpenSSH form: ssh-ed25519 AAAA..."),
		strict.May("publicKeys", strict.List(&h.keys, 1, maxKeys, func(s *string) strict.Type { return strict.String(s, publicKeyRule()) }), "instead of publicKey during a rotation"),
		strict.Need("storage", strict.String(&h.storage, storageRule()), "made by gitopsd host init with the data directory"),
		strict.May("address", strict.String(&h.address, AddressRule()), "HOST:PORT others dial; required for voters"),
		strict.May("zone", strict.String(&h.zone, setNameRule()), "what fails together, such as a rack"),
		strict.May("site", strict.String(&h.site, setNameRule()), "datacenter"),
		strict.May("tags", strict.Map(&h.tags, maxTags, tagKeyRule(), func(s *string) strict.Type { return strict.String(s, tagValueRule()) }), "what group.yaml selects by"),
	)
}

func publicKeyRule() strict.Rule {
	return strict.Rule{Test: func(s string) (string, string) {
		if _, err := ParsePublicKey(s); err != nil {
			return "is no host key: " + err.Error(), "copy what gitopsd host init printed"
		}
		return "", ""
	}, Schema: map[string]any{"pattern": "^ssh-ed25519 [A-Za-z0-9+/=]+( .*)?$"}}
}

func tagKeyRule() strict.Rule {
	return strict.All(strict.Text(maxTagKey), strict.Rule{Test: func(s string) (string, string) {
		if strings.Contains(s, "=") {
			return "holds a =", ""
		}
		return "", ""
	}})
}

func tagValueRule() strict.Rule {
	return strict.Rule{Test: func(s string) (string, string) {
		if s == "" {
			return "", ""
		}
		return strict.Text(maxTagValue).Test(s)
	}, Schema: map[string]any{"maxLength": maxTagValue}}
}

// setFile is coordinators/NAME.yaml as written.
type setFile struct {
	epoch     uint64
	voters    []Voter
	maxActive int
	maxFlight int
}

func setTable(s *setFile) strict.Type {
	s.maxActive = 20
	return strict.Object("The raft voters of one coordinator set. The file's name is the set's.",
		strict.Need("epoch", strict.Int(&s.epoch, 1, 1<<40), "rises by one whenever the voters change"),
		strict.Need("voters", strict.List(&s.voters, 1, 7, voterType), "HOST/STORAGE of 1, 3, 5 or 7 hosts"),
		strict.May("maxActiveDeployments", strict.Int(&s.maxActive, 1, 10_000), "deployments at a time; 20 by default"),
		strict.May("maxHostsInFlight", strict.Int(&s.maxFlight, 0, 100_000), "hosts at a time; 0, the default, for no limit"),
	)
}

func voterType(v *Voter) strict.Type {
	return strict.Parsed(v, "HOST/STORAGE", "for example web-1/6f1d2c3a9b7e4f01", map[string]any{"type": "string", "pattern": "^[^/]+/[0-9a-f]{16}$"}, func(text string) (Voter, error) {
		host, storage, ok := strings.Cut(text, "/")
		if !ok || !hostNameForm.MatchString(host) || !storageForm.MatchString(storage) {
			return Voter{}, errVoter
		}
		return Voter{HostName(host), storage}, nil
	})
}

// trustFile is trust.yaml as written. Its meaning is configrepo's; here it only has to be whole.
type trustFile struct {
	version int64
	signers map[string]struct{ ssh, pgp string }
	rules   []struct {
		paths, signers []string
		threshold      int
	}
}

func trustTable(f *trustFile) strict.Type {
	text := func(s *string) strict.Type { return strict.String(s, strict.Text(1024)) }
	return strict.Object("Who may sign what. The first rule whose path matches decides.",
		strict.Need("version", strict.Int(&f.version, 1, 1<<40), "grows by one with each change"),
		strict.Need("signers", strict.Map(&f.signers, 1000, setNameRule(), func(s *struct{ ssh, pgp string }) strict.Type {
			return strict.Object("",
				strict.May("ssh", strict.String(&s.ssh, strict.Text(4096)), "a public key in OpenSSH form"),
				strict.May("pgp", strict.String(&s.pgp, strict.Text(1024)), "path of an armored OpenPGP key in this repository"),
			)
		}), "who may sign: name and key"),
		strict.Need("rules", strict.List(&f.rules, 1, 1000, func(r *struct {
			paths, signers []string
			threshold      int
		}) strict.Type {
			return strict.Object("",
				strict.Need("paths", strict.List(&r.paths, 1, 1000, text), "globs; ** is any number of folders"),
				strict.Need("threshold", strict.Int(&r.threshold, 1, 100), "distinct signers a change needs"),
				strict.Need("signers", strict.List(&r.signers, 1, 1000, text), "names from signers"),
			)
		}), "the first whose path matches; the last should match all"),
	)
}
