package desired

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/gitopsd/gitopsd/internal/desired/strict"
)

// Files maps a slash-separated path in a config repository to its content.
type Files map[string]string

// placeholderKey stands in trust.yaml until a person puts a key there.
const placeholderKey = "ssh-ed25519 REPLACE-THIS-WITH-A-PUBLIC-KEY"

// Signer is somebody who may sign commits.
type Signer struct {
	Name string
	SSH  string // public key line; "" for a placeholder
}

// InitOptions describe a new config repository.
type InitOptions struct {
	Fleet   string   // its name
	Signers []Signer // none: one placeholder
}

// InitFiles makes a config repository without hosts and groups, which validates.
func InitFiles(o InitOptions) (Files, error) {
	if message, _ := setNameRule().Test(o.Fleet); message != "" {
		return nil, fmt.Errorf("cannot name the fleet: %s", message)
	}
	files, err := schemaFiles()
	if err != nil {
		return nil, err
	}
	if len(o.Signers) == 0 {
		o.Signers = []Signer{{Name: "you"}}
	}
	files["fleet.yaml"] = modeline("fleet.yaml", "fleet") + fmt.Sprintf(fleetText, o.Fleet)
	files["trust.yaml"] = modeline("trust.yaml", "trust") + trustText(o.Signers)
	files[".gitattributes"] = attributesText
	files["README.md"] = fmt.Sprintf(readmeText, o.Fleet)
	files["hosts/"+placeholder] = ""
	files["coordinators/"+placeholder] = ""
	var f fleetFile
	var t trustFile
	return files, checkFiles(files, map[string]strict.Type{"fleet.yaml": fleetTable(&f), "trust.yaml": trustTable(&t)})
}

// checkFiles proves that what was written can be read.
func checkFiles(files Files, tables map[string]strict.Type) error {
	for _, name := range slices.Sorted(maps.Keys(tables)) {
		_, problems := strict.Decode(name, []byte(files[name]), tables[name])
		if err := strict.Explain(problems); err != nil {
			return err
		}
	}
	return nil
}

const fleetText = `# What the groups of this fleet share. Every key but name may be left out.
name: %s
sites: {}
deploymentConfigs: {}
  # quarter-at-a-time: {minimumHealthyHosts: {type: FLEET_PERCENT, value: 75}}
notices: []
defaults:
  # Automatic rollback is off in CodeDeploy unless it is set; here it is set for every group that does not say otherwise.
  autoRollbackConfiguration: {enabled: true, events: [DEPLOYMENT_FAILURE]}
`

const attributesText = `# What is committed is what hosts get: no conversion of line ends, no filters.
* -text -filter
`

const readmeText = `# Fleet %s

This repository says what every host should run. A signed commit deploys, ` + "`git revert`" + ` rolls back.

    fleet.yaml            what the groups share
    trust.yaml            who may sign what
    hosts/NAME.yaml       the inventory, one host a file
    coordinators/NAME.yaml    the hosts that decide when
    <platform>/<environment>/<project>/group.yaml    a deployment group: which bundle runs on which hosts

From nothing to a release:

1. Sign. On every machine that commits, in this repository (or --global):

       git config gpg.format ssh
       git config user.signingkey ~/.ssh/id_ed25519
       git config commit.gpgsign true

   The public half stands in trust.yaml.
2. Inventory. On each host, as root: ` + "`" + `gitopsd host init --name NAME --address IP:7946 --tag role=web` + "`" + `. Put what it prints into hosts/NAME.yaml here.
3. Coordinators, one, three, five or seven hosts that decide when: ` + "`" + `gitopsd coordinators init NAME --voters a,b,c` + "`" + `
4. Introduction: ` + "`" + `gitopsd config validate . && git add -A && git commit -S -m 'introduce the fleet' && git push` + "`" + `. Hosts trust what descends from this
   commit and nothing else; ` + "`" + `git rev-parse HEAD` + "`" + ` prints its id.
5. Pin it. On each host /etc/gitopsd/gitopsd.yaml:

       host: NAME
       repository:
         urls: [URL-OF-THIS-REPOSITORY]
         introduction: THE-ID

   and /etc/gitopsd/allowed_signers, a line for each who may have signed that commit: a name, and the key as in trust.yaml:

       you ssh-ed25519 AAAA...

   Then ` + "`" + `systemctl enable --now gitopsd` + "`" + `.
6. A group: ` + "`" + `gitopsd group add PLATFORM/ENVIRONMENT/PROJECT --application APP --coordinators NAME --tags role=web` + "`" + `. It is written with ` + "`" + `suspend: true` + "`" + `.
7. A release: ` + "`" + `gitopsd bundle push DIR s3://BUCKET/KEY --group PLATFORM/ENVIRONMENT/PROJECT` + "`" + `. Take ` + "`" + `suspend: true` + "`" + ` out of its group.yaml, then, as for
   every change: ` + "`" + `gitopsd config validate . && git add -A && git commit -S -m 'release' && git push` + "`" + `.
8. ` + "`" + `gitopsd status` + "`" + ` on any host. ` + "`" + `git revert HEAD && git push` + "`" + ` goes back.
`

// trustText writes trust.yaml with every signer allowed to do everything alone.
func trustText(signers []Signer) string {
	var b strings.Builder
	b.WriteString("# Who may sign what. version grows by one with each change of this file.\nversion: 1\nsigners:\n")
	names := make([]string, 0, len(signers))
	for _, s := range signers {
		if s.SSH == "" {
			b.WriteString("  # Put your own public key here (~/.ssh/id_ed25519.pub), and call yourself what you like.\n")
		}
		fmt.Fprintf(&b, "  %s: {ssh: %s}\n", s.Name, strconv.Quote(cmp.Or(s.SSH, placeholderKey)))
		names = append(names, s.Name)
	}
	list := strings.Join(names, ", ")
	b.WriteString("rules: # the first whose path matches decides; the last should match all\n")
	fmt.Fprintf(&b, "  - {paths: [trust.yaml, \"hosts/**\", \"coordinators/**\"], threshold: 1, signers: [%s]}\n", list)
	fmt.Fprintf(&b, "  - {paths: [\"**\"], threshold: 1, signers: [%s]}\n", list)
	return b.String()
}

// GroupOptions describe a new deployment group.
type GroupOptions struct {
	Folder       string // slash-separated
	ID           GroupID
	Application  string
	Name         string
	Coordinators string     // "": the default
	Hosts        []HostName // instead of TagSets
	TagSets      [][]string // KEY=VALUE; OR inside, AND between
	Bucket, Key  string
	Digest       string // "": zeros, and the group is written suspended
	Size         int64
}

// NewGroupID makes an id of 16 random characters in Crockford's base32 (80 bits).
func NewGroupID(random io.Reader) (GroupID, error) {
	const alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
	var raw [16]byte
	if _, err := io.ReadFull(random, raw[:]); err != nil {
		return "", fmt.Errorf("cannot make an id: %w", err)
	}
	for i := range raw {
		raw[i] = alphabet[raw[i]%32]
	}
	return GroupID(raw[:]), nil
}

// GroupFiles makes a group's folder with a commented group.yaml.
func GroupFiles(o GroupOptions) (Files, error) {
	folder := path.Clean(o.Folder)
	if path.IsAbs(folder) || folder == "." || strings.HasPrefix(folder, "..") {
		return nil, fmt.Errorf("cannot make a group in %q: name a folder inside the repository, such as shop/production/website", o.Folder)
	}
	if top, _, _ := strings.Cut(folder, "/"); top == "hosts" || top == "coordinators" || top == "schema" || strings.HasPrefix(top, ".") {
		return nil, fmt.Errorf("cannot make a group in %q: %s/ holds something else", o.Folder, top)
	}
	if o.Size < 0 {
		return nil, fmt.Errorf("cannot use the size %d: a bundle has one byte or more", o.Size)
	}
	name := path.Join(folder, groupYAML)
	files := Files{
		name: modeline(name, "group") + groupText(o),
		path.Join(folder, overlayRoot, placeholder):    "",
		path.Join(folder, overlayConf, placeholder):    "",
		path.Join(folder, overlayServers, placeholder): "",
	}
	f := groupFile{policyFile: defaultPolicy()}
	return files, checkFiles(files, map[string]strict.Type{name: groupTable(&f)})
}

// groupText writes group.yaml.
func groupText(o GroupOptions) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("# The deployment group's identity for life: folder and names may change, this may not.")
	line("id: %s", strconv.Quote(string(o.ID)))
	line("applicationName: %s", strconv.Quote(o.Application))
	line("deploymentGroupName: %s", strconv.Quote(o.Name))
	if o.Coordinators != "" {
		line("coordinators: %s # coordinators/%s.yaml", strconv.Quote(o.Coordinators), o.Coordinators)
	} else {
		line("# coordinators: NAME # of a file in coordinators/; without it coordinators/%s.yaml", o.Name)
	}
	line("# OR inside a set, AND between sets: KEY=VALUE, KEY= (any value), =VALUE (any key). Or hosts: [NAME, ...] instead.")
	line("targets: {%s}", targetsText(o))
	line("revision:")
	line("  revisionType: S3")
	line("  s3Location: {bucket: %s, key: %s, bundleType: tar.zst}", strconv.Quote(cmp.Or(o.Bucket, "releases")), strconv.Quote(cmp.Or(o.Key, o.Application+"/1.0.0.tar.zst")))
	line("  digest: %s # sha256: and what sha256sum prints for the archive", cmp.Or(o.Digest, string(placeholderDigest)))
	if o.Size > 0 {
		line("  size: %d", o.Size)
	}
	line("attempt: 1 # raise it to try a quarantined revision again")
	line("deploymentConfigName: %s # or HalfAtATime, AllAtOnce, or a name from fleet.yaml", OneAtATime)
	line("fileExistsBehavior: DISALLOW # DISALLOW | OVERWRITE | RETAIN")
	line("autoRollbackConfiguration: {enabled: true, events: [%s]}", OnDeploymentFailure)
	line("# waves: [{hosts: 1, bake: 10m}, {percent: 25, bake: 1m}, {rest: true}]")
	line("# checks: [{name: up, http: {url: \"http://127.0.0.1:8080/healthz\", status: 200}, interval: 5s, timeout: 2s, healthyAfter: 2, unhealthyAfter: 3, grace: 30s}]")
	line("unreachable: skip # skip | wait | fail")
	line("supersede: fast-forward # fast-forward | queue | cancel-and-rollback")
	if o.Digest == "" {
		line("suspend: true # the digest above is not a bundle's yet: name one, then remove this line")
	} else {
		line("suspend: false")
	}
	return b.String()
}

// targetsText writes the content of targets.
func targetsText(o GroupOptions) string {
	if len(o.Hosts) > 0 {
		names := make([]string, 0, len(o.Hosts))
		for _, h := range o.Hosts {
			names = append(names, strconv.Quote(string(h)))
		}
		return "hosts: [" + strings.Join(names, ", ") + "]"
	}
	sets := o.TagSets
	if len(sets) == 0 {
		sets = [][]string{{"role=" + o.Application}}
	}
	var texts []string
	for _, set := range sets {
		var quoted []string
		for _, m := range set {
			quoted = append(quoted, strconv.Quote(m))
		}
		texts = append(texts, "["+strings.Join(quoted, ", ")+"]")
	}
	return "tagSets: [" + strings.Join(texts, ", ") + "]"
}

// HostFile makes hosts/NAME.yaml of a host's identity.
func HostFile(h Host) (Files, error) {
	if message, suggestion := HostNameRule().Test(string(h.Name)); message != "" {
		return nil, fmt.Errorf("cannot name the host: %s", strings.TrimSpace(message+" "+suggestion))
	}
	name := "hosts/" + string(h.Name) + ".yaml"
	var b strings.Builder
	b.WriteString(modeline(name, "host"))
	if len(h.Keys) == 1 {
		fmt.Fprintf(&b, "publicKey: %s\n", FormatPublicKey(h.Keys[0]))
	} else {
		b.WriteString("publicKeys:\n")
		for _, key := range h.Keys {
			fmt.Fprintf(&b, "  - %s\n", FormatPublicKey(key))
		}
	}
	fmt.Fprintf(&b, "storage: %s # made with the data directory\n", strconv.Quote(h.Storage))
	optional := func(key, value, hint string) {
		if value != "" {
			fmt.Fprintf(&b, "%s: %s\n", key, strconv.Quote(value))
		} else if hint != "" {
			fmt.Fprintf(&b, "# %s: %s\n", key, hint)
		}
	}
	optional("address", h.Address, "10.0.0.11:7946 # required for coordinators")
	optional("zone", h.Zone, "rack-a")
	optional("site", h.Site, "dc1")
	var tags []string
	for _, key := range slices.Sorted(maps.Keys(h.Tags)) {
		tags = append(tags, strconv.Quote(key)+": "+strconv.Quote(h.Tags[key]))
	}
	fmt.Fprintf(&b, "tags: {%s}\n", strings.Join(tags, ", "))
	files := Files{name: b.String()}
	var f hostFile
	return files, checkFiles(files, map[string]strict.Type{name: hostTable(&f)})
}

// CheckSet says what is wrong with a new coordinator set, whatever the inventory holds.
func CheckSet(name string, voters []HostName) error {
	if message, _ := setNameRule().Test(name); message != "" {
		return fmt.Errorf("cannot name the coordinator set: %s", message)
	}
	if n := len(voters); n != 1 && n != 3 && n != 5 && n != 7 {
		return fmt.Errorf("cannot make coordinator set %s of %d voters: 1, 3, 5 or 7 are wanted", name, n)
	}
	for i, v := range voters {
		if slices.Contains(voters[:i], v) {
			return fmt.Errorf("cannot make coordinator set %s: %s is named twice", name, v)
		}
	}
	return nil
}

// CoordinatorsFile makes coordinators/NAME.yaml with epoch 1 out of hosts of the inventory.
func CoordinatorsFile(name string, voters []HostName, hosts map[HostName]Host) (Files, error) {
	if err := CheckSet(name, voters); err != nil {
		return nil, err
	}
	file := "coordinators/" + name + ".yaml"
	var b strings.Builder
	b.WriteString(modeline(file, "coordinators") + "# Rises by one whenever the voters change.\nepoch: 1\nvoters:\n")
	for _, v := range voters {
		host, ok := hosts[v]
		switch {
		case !ok:
			return nil, fmt.Errorf("cannot make coordinator set %s: there is no usable hosts/%s.yaml; gitopsd host init prints it", name, v)
		case host.Address == "":
			return nil, fmt.Errorf("cannot make coordinator set %s: hosts/%s.yaml has no address, and others must reach a voter", name, v)
		}
		fmt.Fprintf(&b, "  - %s/%s\n", v, host.Storage)
	}
	files := Files{file: b.String()}
	var f setFile
	return files, checkFiles(files, map[string]strict.Type{file: setTable(&f)})
}
