package desired

import (
	"strings"
	"testing"
)

const groupPath = "shop/production/website/group.yaml"

// minimal is a group.yaml to build cases on; line numbers count from id.
const minimal = `id: 01JD3K9V8Q
applicationName: website
deploymentGroupName: website-production
coordinators: web
targets: {tagSets: [[role=web]]}
revision:
  revisionType: S3
  s3Location: {bucket: releases, key: website/2.31.0.tar.zst, bundleType: tar.zst}
  digest: ` + testDigest + `
`

func TestProblemsOfAGroup(t *testing.T) {
	replace := func(old, new string) string { return strings.Replace(minimal, old, new, 1) }
	cases := []struct {
		name, yaml string
		want       []string // each is contained in one problem; their number is exact
	}{
		{"minimal is right", minimal, nil},
		{"unknown key", minimal + "superseed: queue\n", []string{`group.yaml:10:1: unknown key "superseed" (did you mean supersede?)`}},
		{"two at once", minimal + "superseed: queue\nattempt: 0\n", []string{`:10:1: unknown key`, `:11:10: attempt: 0 is not between 1 and 1000000`}},
		{"duplicate", minimal + "id: 01JD3K9V8R\n", []string{`:10:1: key "id" is there twice, first on line 1`}},
		{"alias", replace("role=web", "&r role=web") + "unreachable: *r\n", []string{"anchors are not allowed: &r", "aliases are not allowed: *r"}},
		{"second document", minimal + "---\nid: x\n", []string{":10:1: a second document begins here"}},
		{"not yaml", "id: [\n", []string{"not YAML"}},
		{"tag", replace("website\n", "!!str website\n"), []string{":2:18: tags are not allowed"}},
		{"quoted number", minimal + "attempt: \"2\"\n", []string{`:10:10: attempt: want a whole number, got "2" (remove the quotes)`}},
		{"octal number", minimal + "attempt: 010\n", []string{`want a whole number, got "010"`}},
		{"yes is no bool", minimal + "suspend: yes\n", []string{`:10:10: suspend: want true or false, got "yes"`}},
		{"missing keys", "targets: {tagSets: [[role=web]]}\n", []string{`"id" is missing`, `"applicationName" is missing`, `"deploymentGroupName" is missing`, `"revision" is missing`}},
		{"list for mapping", replace("{tagSets: [[role=web]]}", "[web-1]"), []string{"targets: want a mapping, got a list"}},
		{"no targets", replace("targets: {tagSets: [[role=web]]}\n", ""), []string{"the group selects no hosts"}},
		{"both targets", replace("{tagSets: [[role=web]]}", "{tagSets: [[role=web]], hosts: [web-1]}"), []string{"exactly one of tagSets and hosts"}},
		{"empty targets", replace("{tagSets: [[role=web]]}", "{}"), []string{"exactly one of tagSets and hosts"}},
		{"unknown host", replace("{tagSets: [[role=web]]}", "{hosts: [web-1, web-22]}"), []string{`:5:26: targets.hosts: there is no host "web-22" in hosts/ (did you mean web-2?)`}},
		{"bad tag", replace("role=web", "role"), []string{`:5:22: targets.tagSets[0][0]: "role" is not KEY=VALUE`}},
		{"unknown set", replace("coordinators: web", "coordinators: db"), []string{"there is no coordinators/db.yaml (make it: gitopsd coordinators init db --voters web-1,web-2,web-3)"}},
		{"misspelt set", replace("coordinators: web", "coordinators: weh"), []string{"did you mean web?"}},
		{"no set", replace("coordinators: web\n", ""), []string{"there is no coordinators/website-production.yaml (make it: gitopsd coordinators init website-production --voters web-1,web-2,web-3)"}},
		{"digest missing", replace("  digest: "+testDigest+"\n", ""), []string{`revision: key "digest" is missing`}},
		{"placeholder digest", replace(testDigest, "sha256:"+strings.Repeat("0", 64)), []string{":9:11: revision.digest: sha256:000... is the placeholder of a new group, and no archive's digest (gitopsd bundle push --group writes"}},
		{"placeholder digest of a suspended group", replace(testDigest, "sha256:"+strings.Repeat("0", 64)) + "suspend: true\n", nil},
		{"a key without a text is missing", replace("bucket: releases, ", ""), []string{`revision.s3Location: key "bucket" is missing`}},
		{"digest without algorithm", replace("sha256:", ""), []string{"is not a digest"}},
		{"location missing", replace("  s3Location: {bucket: releases, key: website/2.31.0.tar.zst, bundleType: tar.zst}\n", ""), []string{"revisionType S3 needs s3Location"}},
		{"foreign location", minimal + "  httpsLocation: {url: \"https://example.com/a.zip\"}\n", []string{":10:3: revision: httpsLocation does not belong to revisionType S3"}},
		{"no bundle type", replace(".tar.zst, bundleType: tar.zst", ""), []string{"does not tell the archive's type"}},
		{"type guessed", replace(", bundleType: tar.zst", ""), nil},
		{"github", replace("S3\n", "GitHub\n"), []string{"revision: revisionType GitHub needs gitHubLocation", "revision: s3Location does not belong", `key "size" is missing`}},
		{"config and minimum", minimal + "deploymentConfigName: CodeDeployDefault.AllAtOnce\nminimumHealthyHosts: {type: HOST_COUNT, value: 1}\n", []string{"exclude each other"}},
		{"config misspelt", minimal + "deploymentConfigName: CodeDeployDefault.OneAtTime\n", []string{"did you mean CodeDeployDefault.OneAtATime?"}},
		{"100 percent", minimal + "minimumHealthyHosts: {type: FLEET_PERCENT, value: 100}\n", []string{"FLEET_PERCENT is 0 to 99"}},
		{"most concurrency", minimal + "minimumHealthyHosts: {type: MOST_CONCURRENCY, value: 1}\n", []string{"is not one of HOST_COUNT, FLEET_PERCENT"}},
		{"blue green", minimal + "deploymentStyle: {deploymentType: BLUE_GREEN, deploymentOption: WITH_TRAFFIC_CONTROL}\n", []string{":10:35: deploymentType BLUE_GREEN is not supported yet", "WITH_TRAFFIC_CONTROL is not supported yet"}},
		{"load balancer", minimal + "loadBalancerInfo: {targetGroupInfoList: [{name: web}]}\n", []string{"loadBalancerInfo is not supported yet"}},
		{"empty load balancer", minimal + "loadBalancerInfo: {}\ntriggerConfigurations: []\nalarmConfiguration: {enabled: false, alarms: [{name: a}]}\n", nil},
		{"alarms", minimal + "alarmConfiguration: {alarms: [{name: a, prometheus: {url: \"http://p:9090\", query: up, max: 5}}]}\n", []string{"alarmConfiguration is not supported yet"}},
		{"triggers", minimal + "triggerConfigurations: [{triggerName: a, triggerEvents: [DeploymentStart]}]\n", []string{"triggerConfigurations is not supported yet"}},
		{"zones", minimal + "zonalConfig: {monitorDurationInSeconds: 60}\n", []string{"zonalConfig is not supported yet"}},
		{"removed", minimal + "removed: true\n", []string{"removed: true is not supported yet"}},
		{"rollback without events", minimal + "autoRollbackConfiguration: {enabled: true, events: []}\n", []string{"enabled without an event does nothing"}},
		{"rollback with the fleet's events", minimal + "autoRollbackConfiguration: {enabled: true}\n", nil},
		{"wave without measure", minimal + "waves: [{bake: 1m}, {rest: true}, {hosts: 1}]\n", []string{"waves[0]: a wave has exactly one", "waves[1]: rest leaves nothing"}},
		{"duration without unit", minimal + "waves: [{hosts: 1, bake: 10}]\n", []string{`waves[0].bake: want a duration, got "10" (write 10s)`}},
		{"percent", minimal + "maxUnreachable: 120%\n", []string{`want a percentage, got "120%"`}},
		{"check without probe", minimal + "checks: [{name: up}]\n", []string{"exactly one of http, tcp, exec and systemd"}},
		{"checks with one name", minimal + "checks: [{name: up, tcp: {address: \"127.0.0.1:80\"}}, {name: up, tcp: {address: \"127.0.0.1:81\"}}]\n", []string{`the name "up" is there twice`}},
		{"check url", minimal + "checks: [{name: up, http: {url: \"ftp://x\"}}]\n", []string{"is not an http or https URL"}},
		{"check by tag", minimal + "checks: [{name: up, http: {url: \"http://127.0.0.1:8${tag:role}/\"}}]\n", []string{"is not an http or https URL"}},
		{"check by missing tag", minimal + "checks: [{name: up, http: {url: \"http://127.0.0.1:${tag:port}/\"}}]\n", []string{`host web-1 has no tag "port"`}},
		{"exec by shell", minimal + "checks: [{name: up, exec: {command: [\"true\"]}}]\n", []string{"is not an absolute path"}},
		{"any case", minimal + "fileExistsBehavior: oVerwrite\n", nil},
		{"no value", minimal + "unreachable:\n", []string{"unreachable: want text, got nothing"}},
		{"filters and targets", minimal + "ec2TagFilters: [{Key: a, Value: b, Type: KEY_AND_VALUE}]\n", []string{"targets and CodeDeploy's tag filters exclude each other"}},
		{"filter without key", replace("targets: {tagSets: [[role=web]]}\n", "ec2TagFilters: [{Value: b, Type: KEY_ONLY}]\n"), []string{"KEY_ONLY needs", "KEY_ONLY has a Key or Value it would ignore"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			files := fleet(t)
			files[groupPath] = c.yaml
			state, problems := Load(tree(files))
			if len(problems) != len(c.want) {
				t.Fatalf("want %d problems, got %d:\n%s", len(c.want), len(problems), texts(problems))
			}
			for _, want := range c.want {
				if !strings.Contains(texts(problems), want) {
					t.Errorf("no problem says %q:\n%s", want, texts(problems))
				}
			}
			if strings.Contains(texts(problems), "(add it: )") {
				t.Errorf("a suggestion ends in nothing:\n%s", texts(problems))
			}
			if broken := len(state.Groups) == 0; broken != (len(c.want) > 0) {
				t.Errorf("groups = %d with %d problems", len(state.Groups), len(problems))
			}
		})
	}
}

func TestProblemsOfOtherFiles(t *testing.T) {
	cases := []struct {
		name   string
		change func(Files)
		want   []string
		groups int
	}{
		{"fleet missing", func(f Files) { delete(f, "fleet.yaml") }, []string{"fleet.yaml: the file is missing"}, 0},
		{"fleet broken keeps no group", func(f Files) { f["fleet.yaml"] = "nam: x\n" }, []string{"did you mean name?", `"name" is missing`}, 0},
		{"trust missing", func(f Files) { delete(f, "trust.yaml") }, []string{"trust.yaml: the file is missing"}, 1},
		{"trust rule", func(f Files) {
			f["trust.yaml"] = "version: 1\nsigners: {anna: {ssh: k}}\nrules: [{paths: [\"**\"], threshold: 2, signers: [ana]}]\n"
		},
			[]string{`rules[0]: there is no signer "ana" (did you mean anna?)`, "a threshold of 2 cannot be met by 1 signers"}, 1},
		{"set with two voters", func(f Files) {
			f["coordinators/web.yaml"] = "epoch: 1\nvoters: [web-1/0000000000000001, web-2/0000000000000002]\n"
		},
			[]string{"1, 3, 5 or 7 are wanted, got 2", "coordinators/web.yaml has problems of its own"}, 0},
		{"voter unknown", func(f Files) { f["coordinators/db.yaml"] = "epoch: 1\nvoters: [web-9/0000000000000001]\n" }, []string{`voters: there is no host "web-9"`}, 1},
		{"voter with another storage", func(f Files) { f["coordinators/db.yaml"] = "epoch: 1\nvoters: [web-1/0000000000000009]\n" }, []string{"warning: voters: hosts/web-1.yaml has storage 0000000000000001"}, 1},
		{"voter without address", func(f Files) {
			f["hosts/web-1.yaml"] = strings.Replace(f["hosts/web-1.yaml"], "address: ", "# ", 1)
		},
			[]string{"web-1 has no address", "has problems of its own"}, 0},
		{"host without key", func(f Files) { f["hosts/web-4.yaml"] = "storage: 0000000000000004\n" }, []string{"exactly one of publicKey and publicKeys"}, 1},
		{"host with rsa key", func(f Files) {
			f["hosts/web-4.yaml"] = "publicKey: ssh-rsa AAAAB3Nz\nstorage: 0000000000000004\n"
		}, []string{"a host's key is ssh-ed25519"}, 1},
		{"storage as number", func(f Files) {
			f["hosts/web-4.yaml"] = "publicKey: " + FormatPublicKey(testKey("web-4")) + "\nstorage: 0000000000000004\n"
		}, nil, 1},
		{"host.yml", func(f Files) { f["hosts/web-4.yml"] = "x: y\n" }, []string{"hosts/web-4.yml: warning: the file is not read"}, 1},
		{"one key for two hosts", func(f Files) {
			f["hosts/web-4.yaml"] = strings.Replace(strings.Replace(f["hosts/web-3.yaml"], "3\"", "4\"", 1), ".3:", ".4:", 1)
		},
			[]string{"hosts/web-4.yaml:2:12: key ssh-ed25519", "is also that of hosts/web-3.yaml", "has problems of its own", "has problems of its own"}, 0},
		{"group at the root", func(f Files) { f["group.yaml"] = minimal }, []string{"the repository's root cannot be a deployment group"}, 1},
		{"group.yml", func(f Files) { f["a/group.yml"] = minimal }, []string{"a/group.yml: warning: the file is not read"}, 1},
		{"site unknown", func(f Files) {
			f["fleet.yaml"] = "name: x\nsites: {dc1: {}}\n"
			f["hosts/web-1.yaml"] += "site: dc2\n"
		}, []string{"fleet.yaml lists sites, but not", "has problems of its own", "has problems of its own"}, 0},
		{"origin", func(f Files) { f["fleet.yaml"] = "name: x\nsites: {dc1: {origin: mine}}\n" }, []string{"sites.dc1.origin"}, 0},
		{"links", func(f Files) {
			f["fleet.yaml"] = "name: x\nsites: {dc1: {links: {dc1: 1MiB/s, dc2: 255KiB/s, dc3: 1MiB/s}}, dc2: {links: {dc1: 256KiB/s}}}\n"
		}, []string{"no link to itself", "too few for pieces", `no site "dc3"`}, 0},
		{"secrets", func(f Files) { f["shop/production/website/secrets/a.age"] = "x" }, []string{"secrets/ is not supported yet"}, 0},
		{"lfs", func(f Files) {
			f["shop/production/website/codedeploy/big"] = "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
		}, []string{"this is a git-lfs pointer"}, 0},
		{"overlay twice", func(f Files) {
			f["shop/production/website/codedeploy/project-conf.d/a"] = "x"
			f["shop/production/website/project-conf.d/a"] = "y"
		}, []string{"project-conf.d/a in the bundle is also"}, 0},
		{"overlay file and folder", func(f Files) {
			f["shop/production/website/codedeploy/project-conf.d"] = "x"
			f["shop/production/website/project-conf.d/a"] = "y"
		}, []string{"is a folder here and a file in"}, 0},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			files := fleet(t)
			c.change(files)
			state, problems := Load(tree(files))
			for _, want := range c.want {
				if !strings.Contains(texts(problems), want) {
					t.Errorf("no problem says %q:\n%s", want, texts(problems))
				}
			}
			if len(problems) != len(c.want) && !(c.name == "one key for two hosts") {
				t.Errorf("want %d problems:\n%s", len(c.want), texts(problems))
			}
			if len(state.Groups) != c.groups {
				t.Errorf("%d groups, want %d:\n%s", len(state.Groups), c.groups, texts(problems))
			}
		})
	}
}
