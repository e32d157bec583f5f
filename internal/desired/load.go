package desired

import (
	"cmp"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/gitopsd/gitopsd/internal/desired/strict"
)

// Bad returns the problems that are not warnings.
func Bad(problems []Problem) []Problem { return strict.Bad(problems) }

// Load reads a commit's tree. The State holds everything that is right; the problems, sorted by file and line, say what is not. tree must answer
// fs.ReadDir with sorted names, show a symbolic link as fs.ModeSymlink and a gitlink as fs.ModeIrregular, and keep its files readable for as long as
// OverlayFile.Open may be called.
func Load(tree fs.FS) (*State, []Problem) {
	l := &loader{tree: tree, state: &State{Hosts: map[HostName]Host{}, Sets: map[string]CoordinatorSet{}, Groups: []Group{}}}
	l.loadFleet()
	l.loadTrust()
	l.loadHosts()
	l.loadSets()
	l.walk(".", 0, false)
	l.loadGroups()
	l.finish()
	return l.state, l.problems
}

// loader reads one tree.
type loader struct {
	tree     fs.FS
	state    *State
	problems []Problem
	entries  int
	defaults policyFile
	folders  []string          // with a group.yaml
	isGroup  map[string]bool   // the same
	linked   map[string]string // folder of a group -> first link in it
	bad      int               // problems that are not warnings
	dropped  int               // problems beyond maxProblems
	broken   map[HostName]bool // state.Broken.Hosts, once all hosts are loaded
	hosts    []string          // names for guesses, sorted; made at the first
	sets     []string
	tags     map[string]map[string]bool // of the inventory, by key; made at the first guess
	guessed  int                        // names compared for guesses
}

// report keeps problems, as many as are shown, and says whether any of them is more than a warning.
func (l *loader) report(problems ...Problem) bool {
	bad := len(Bad(problems))
	l.bad += bad
	kept := min(len(problems), maxProblems-len(l.problems))
	l.problems = append(l.problems, problems[:kept]...)
	l.dropped += len(problems) - kept
	return bad > 0
}

// guess says which of names may be meant, until the names compared in this tree are too many: thousands of mistakes in a large fleet are one mistake, made by a
// machine.
func (l *loader) guess(name string, names []string) string {
	if l.guessed += len(names); l.guessed > maxGuesses {
		return ""
	}
	return strict.DidYouMean(name, names)
}

// guessHost is guess among the hosts.
func (l *loader) guessHost(name HostName) string {
	if l.hosts == nil {
		l.hosts = hostNames(l.state.Hosts)
	}
	return l.guess(string(name), l.hosts)
}

// guessSet is guess among the coordinator sets.
func (l *loader) guessSet(name string) string {
	if l.sets == nil {
		l.sets = slices.Sorted(maps.Keys(l.state.Sets))
	}
	return l.guess(name, l.sets)
}

// file reports a problem of a whole file or folder.
func (l *loader) file(name, suggestion, format string, args ...any) {
	l.report(Problem{File: name, Message: fmt.Sprintf(format, args...), Suggestion: suggestion})
}

// read returns a file's bytes, or false after saying why not.
func (l *loader) read(name string, most int64) ([]byte, bool) {
	f, err := l.tree.Open(name)
	if err != nil {
		l.file(name, "", "cannot read the file: %v", err)
		return nil, false
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		l.file(name, "", "cannot read the file: %v", err)
		return nil, false
	}
	if int64(len(data)) > most {
		l.file(name, "", "the file is larger than the %d bytes allowed", most)
		return nil, false
	}
	return data, true
}

// decode reads a YAML file by its table; ok says whether all of it is right.
func (l *loader) decode(name string, t strict.Type) (doc *strict.Doc, ok bool) {
	data, ok := l.read(name, strict.MaxBytes)
	if !ok {
		return &strict.Doc{File: name}, false
	}
	doc, problems := strict.Decode(name, data, t)
	return doc, !l.report(problems...)
}

func (l *loader) exists(name string) bool {
	info, err := fs.Lstat(l.tree, name)
	return err == nil && info.Mode().IsRegular()
}

func (l *loader) loadFleet() {
	const name = "fleet.yaml"
	var f fleetFile
	f.defaults = defaultPolicy()
	l.defaults = f.defaults
	if !l.exists(name) {
		l.state.Broken.Fleet = true
		l.file(name, "gitopsd init writes one", "the file is missing")
		return
	}
	doc, ok := l.decode(name, fleetTable(&f))
	l.defaults = f.defaults
	fleet := Fleet{Name: f.name, Sites: map[string]Site{}, DeploymentConfigs: map[string]DeploymentConfig{}, AllowMassRemoval: f.allowMassRemoval}
	for _, site := range slices.Sorted(maps.Keys(f.sites)) {
		fleet.Sites[site] = Site{Origin: f.sites[site].origin, Links: f.sites[site].links}
		ok = !l.report(badLinks(doc, site, f.sites)...) && ok
	}
	for _, config := range slices.Sorted(maps.Keys(f.configs)) {
		ok = l.fleetConfig(doc, config, f.configs[config], &fleet) && ok
	}
	if len(f.notices) > 0 {
		ok = !l.report(doc.Problem("notices", "write []", "notices is not supported yet")) && ok
	}
	if f.defaults.configName != "" {
		if _, known := fleet.DeploymentConfig(f.defaults.configName); !known {
			hint := strict.DidYouMean(f.defaults.configName, fleet.configNames())
			ok = !l.report(doc.Problem("defaults.deploymentConfigName", hint, "defaults.deploymentConfigName: there is no %q", f.defaults.configName)) && ok
		}
	}
	if doc.Has("defaults.deploymentConfigName") && doc.Has("defaults.minimumHealthyHosts") {
		ok = !l.report(doc.Problem("defaults.minimumHealthyHosts", "keep one of the two", "defaults: deploymentConfigName and minimumHealthyHosts exclude each other")) && ok
	}
	l.state.Broken.Fleet = !ok
	if ok {
		l.state.Fleet = fleet
	}
}

// badLinks judges the rates of one site towards others.
func badLinks(doc *strict.Doc, site string, sites map[string]siteFile) (bad []Problem) {
	for _, to := range slices.Sorted(maps.Keys(sites[site].links)) {
		at, rate := "sites."+site+".links."+to, sites[site].links[to]
		switch _, known := sites[to]; {
		case to == site:
			bad = append(bad, doc.Problem(at, "remove it", "%s: a site has no link to itself", at))
		case !known:
			hint := strict.DidYouMean(to, slices.Collect(maps.Keys(sites)))
			bad = append(bad, doc.Problem(at, hint, "%s: there is no site %q under sites", at, to))
		case rate < LinkRateMin:
			bad = append(bad, doc.Problem(at, "256KiB/s, or origin: own to keep bundles off the link", "%s: %d bytes a second are too few for pieces to arrive in time", at, rate))
		}
	}
	return bad
}

// fleetConfig takes one deployment configuration in.
func (l *loader) fleetConfig(doc *strict.Doc, name string, c configFile, fleet *Fleet) bool {
	at := "deploymentConfigs." + name
	if c.minimum == nil && c.maxUnavailable == nil {
		return !l.report(doc.Problem(at, "for example minimumHealthyHosts: {type: FLEET_PERCENT, value: 75}", "%s: minimumHealthyHosts or maxUnavailable is missing", at))
	}
	fleet.DeploymentConfigs[name] = DeploymentConfig{
		MinimumHealthy: *orZero(c.minimum), MaxUnavailable: c.maxUnavailable, MaxFailures: c.maxFailures, MinSuccess: c.minSuccess, Zonal: c.zonal,
	}
	if c.minimum == nil {
		config := fleet.DeploymentConfigs[name]
		config.MinimumHealthy = MinimumHealthy{HostCount, 0}
		fleet.DeploymentConfigs[name] = config
		return true
	}
	return !l.report(checkMinimum(doc, at+".minimumHealthyHosts", *c.minimum)...)
}

// loadTrust only judges the file's form: configrepo reads what it means.
func (l *loader) loadTrust() {
	const name = "trust.yaml"
	if !l.exists(name) {
		l.file(name, "gitopsd init writes one", "the file is missing")
		return
	}
	var f trustFile
	doc, _ := l.decode(name, trustTable(&f))
	for i, r := range f.rules {
		at := fmt.Sprintf("rules[%d]", i)
		for j, s := range r.signers {
			if _, ok := f.signers[s]; !ok {
				hint := strict.DidYouMean(s, slices.Collect(maps.Keys(f.signers)))
				l.report(doc.Problem(fmt.Sprintf("%s.signers[%d]", at, j), hint, "%s: there is no signer %q", at, s))
			}
		}
		if r.threshold > len(r.signers) && len(r.signers) > 0 {
			l.report(doc.Problem(at+".threshold", "lower it or add signers", "%s: a threshold of %d cannot be met by %d signers", at, r.threshold, len(r.signers)))
		}
	}
	for _, s := range slices.Sorted(maps.Keys(f.signers)) {
		k := f.signers[s]
		if k.ssh == placeholderKey {
			p := doc.Problem("signers."+s, "put your public key there, the line in ~/.ssh/id_ed25519.pub", "signers.%s: this is not a key yet, so nobody can sign a commit", s)
			p.Warning = true
			l.report(p)
		}
		if (k.ssh == "") == (k.pgp == "") {
			l.report(doc.Problem("signers."+s, `for example {ssh: "ssh-ed25519 AAAA..."}`, "signers.%s: exactly one of ssh and pgp is wanted", s))
		}
	}
}

// yamlFiles lists the NAME of every NAME.yaml in a folder, bounded, and warns of files that only look like one.
func (l *loader) yamlFiles(folder string, most int) []string {
	entries, err := fs.ReadDir(l.tree, folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		l.file(folder, "", "cannot read the folder: %v", err)
		return nil
	}
	var names []string
	for _, e := range entries {
		full := path.Join(folder, e.Name())
		name, isYAML := strings.CutSuffix(e.Name(), ".yaml")
		switch {
		case strings.HasSuffix(e.Name(), ".yml"):
			l.report(Problem{File: full, Message: "the file is not read", Suggestion: "rename it to end with .yaml", Warning: true})
		case !isYAML || strings.HasPrefix(e.Name(), "."):
		case !e.Type().IsRegular():
			l.file(full, "commit the file itself", "this is not a regular file")
		case len(names) == most:
			l.file(folder, "", "more than %d files", most)
			return names
		default:
			names = append(names, name)
		}
	}
	return names
}

func (l *loader) loadHosts() {
	b := &l.state.Broken
	docs := map[HostName]*strict.Doc{}
	for _, name := range l.yamlFiles("hosts", maxHosts) {
		file := "hosts/" + name + ".yaml"
		if !hostNameForm.MatchString(name) {
			l.file(file, "rename it", "%q is not a host name", name)
			continue
		}
		var f hostFile
		doc, ok := l.decode(file, hostTable(&f))
		host, problems := f.build(doc, HostName(name), l.state.Fleet, b.Fleet)
		if l.report(problems...) || !ok {
			b.Hosts = append(b.Hosts, host.Name)
			continue
		}
		docs[host.Name], l.state.Hosts[host.Name] = doc, host
	}
	l.hostTwins(docs)
	slices.Sort(b.Hosts)
	l.broken = setOf(b.Hosts)
}

// setOf makes a list fit to be asked often.
func setOf[T comparable](list []T) map[T]bool {
	set := make(map[T]bool, len(list))
	for _, v := range list {
		set[v] = true
	}
	return set
}

// build makes the Host.
func (f hostFile) build(doc *strict.Doc, name HostName, fleet Fleet, fleetBroken bool) (Host, []Problem) {
	h := Host{Name: name, Storage: f.storage, Address: f.address, Zone: f.zone, Site: f.site, Tags: f.tags}
	if h.Tags == nil {
		h.Tags = map[string]string{}
	}
	var problems []Problem
	if doc.Has("publicKey") == doc.Has("publicKeys") && len(doc.File) > 0 {
		problems = append(problems, doc.Problem("publicKeys", "gitopsd host init prints it", "exactly one of publicKey and publicKeys is wanted"))
	}
	lines := f.keys
	if f.key != "" {
		lines = append(lines, f.key)
	}
	for _, line := range lines {
		if key, err := ParsePublicKey(line); err == nil {
			h.Keys = append(h.Keys, key)
		}
	}
	if _, known := fleet.Sites[f.site]; f.site != "" && len(fleet.Sites) > 0 && !known && !fleetBroken {
		hint := strict.DidYouMean(f.site, slices.Collect(maps.Keys(fleet.Sites)))
		problems = append(problems, doc.Problem("site", hint, "site: fleet.yaml lists sites, but not %q", f.site))
	}
	return h, problems
}

// hostTwins refuses hosts that claim one identity: which of them is meant cannot be told, so neither is used.
func (l *loader) hostTwins(docs map[HostName]*strict.Doc) {
	seen := map[string]HostName{}
	twins := map[HostName]bool{}
	claim := func(kind, value, at string, name HostName) {
		first, taken := seen[kind+value]
		if !taken {
			seen[kind+value] = name
			return
		}
		twins[first], twins[name] = true, true
		if first == name {
			l.report(docs[name].Problem(at, "remove one", "%s %s is there twice", kind, shorten(value)))
			return
		}
		l.report(docs[name].Problem(at, "each host has its own: run gitopsd host init there", "%s %s is also that of hosts/%s.yaml", kind, shorten(value), first))
	}
	for _, name := range slices.Sorted(maps.Keys(docs)) {
		h := l.state.Hosts[name]
		for _, key := range h.Keys {
			claim("key", FormatPublicKey(ed25519.PublicKey(key)), "publicKey", name)
		}
		claim("storage", h.Storage, "storage", name)
		claim("name", strings.ToLower(string(name)), "", name)
		if h.Address != "" {
			claim("address", h.Address, "address", name)
		}
	}
	for name := range twins {
		delete(l.state.Hosts, name)
		l.state.Broken.Hosts = append(l.state.Broken.Hosts, name)
	}
}

// shorten makes a long value fit a sentence.
func shorten(s string) string {
	if len(s) > 40 {
		return s[:18] + "..." + s[len(s)-12:]
	}
	return s
}

func (l *loader) loadSets() {
	for _, name := range l.yamlFiles("coordinators", maxSets) {
		file := "coordinators/" + name + ".yaml"
		if !setNameForm.MatchString(name) {
			l.file(file, "rename it", "%q is not a name for a coordinator set", name)
			continue
		}
		var f setFile
		doc, ok := l.decode(file, setTable(&f))
		if l.report(l.checkVoters(doc, f.voters)...) || !ok {
			l.state.Broken.Sets = append(l.state.Broken.Sets, name)
			continue
		}
		l.state.Sets[name] = CoordinatorSet{Name: name, Epoch: f.epoch, Voters: f.voters, MaxActiveDeployments: f.maxActive, MaxHostsInFlight: f.maxFlight}
	}
}

// checkVoters judges the voters against the inventory.
func (l *loader) checkVoters(doc *strict.Doc, voters []Voter) []Problem {
	var problems []Problem
	if n := len(voters); n > 0 && n%2 == 0 {
		problems = append(problems, doc.Problem("voters", "add or remove one", "voters: 1, 3, 5 or 7 are wanted, got %d: an even number bears no more failures and ties", n))
	}
	seen := map[HostName]bool{}
	for i, v := range voters {
		at := fmt.Sprintf("voters[%d]", i)
		host, ok := l.state.Hosts[v.Host]
		switch {
		case v.Host == "":
		case seen[v.Host]:
			problems = append(problems, doc.Problem(at, "remove one", "voters: %s is there twice", v.Host))
		case !ok && l.broken[v.Host]:
			problems = append(problems, doc.Problem(at, "mend it first", "voters: hosts/%s.yaml has problems of its own", v.Host))
		case !ok:
			hint := l.guessHost(v.Host)
			problems = append(problems, doc.Problem(at, cmp.Or(hint, fmt.Sprintf("commit hosts/%s.yaml", v.Host)), "voters: there is no host %q in hosts/", v.Host))
		case host.Address == "":
			problems = append(problems, doc.Problem(at, fmt.Sprintf("add address to hosts/%s.yaml", v.Host), "voters: %s has no address, and others must reach a voter", v.Host))
		case host.Storage != v.Storage:
			p := doc.Problem(at, "a wiped host never votes under its old storage id", "voters: hosts/%s.yaml has storage %s, so this voter will not take part", v.Host, host.Storage)
			p.Warning = true
			problems = append(problems, p)
		}
		seen[v.Host] = true
	}
	return problems
}

func hostNames(hosts map[HostName]Host) []string {
	names := make([]string, 0, len(hosts))
	for name := range hosts {
		names = append(names, string(name))
	}
	slices.Sort(names)
	return names
}

// finish sorts the problems and says how many are not shown.
func (l *loader) finish() {
	slices.SortStableFunc(l.problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	if l.dropped > 0 {
		l.problems = append(l.problems, Problem{File: ".", Message: fmt.Sprintf("%d more problems", l.dropped), Suggestion: "mend those above first"})
	}
}
