package desired

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"pgregory.net/rapid"
)

func FuzzLoadGroup(f *testing.F) {
	f.Add([]byte(minimal))
	f.Add([]byte(minimal + "waves: [{hosts: 1}, {rest: true}]\nchecks: [{name: a, exec: {command: [/x, \"${tag:role}\"]}}]\n"))
	f.Add([]byte("revision: {revisionType: Directory, directoryLocation: {path: /a/../b}}\ntargets: {hosts: [web-1, web-1]}\n"))
	f.Add([]byte("ec2TagSet: {ec2TagSetList: [[{Key: a}]]}\nonPremisesTagSet: [[{Value: b, Type: VALUE_ONLY}]]\nzonalConfig: {}\n"))
	good := fleet(f)
	f.Fuzz(func(t *testing.T, src []byte) {
		files := maps.Clone(good)
		files[groupPath] = string(src)
		state, problems := Load(tree(files))
		if (len(Bad(problems)) == 0) != (len(state.Groups) == 1) {
			t.Fatalf("groups = %d, problems:\n%s", len(state.Groups), texts(problems))
		}
		if len(state.Hosts) != 3 || len(state.Sets) != 1 {
			t.Fatal("a group.yaml changed the inventory")
		}
		for _, g := range state.Groups {
			if g.ID == "" || len(g.SpecHash) != 64 || g.Revision.Digest == "" || g.Policy.Version != PolicyVersion || g.Policy.MinimumHealthy.Type == "" {
				t.Errorf("group = %+v", g)
			}
		}
	})
}

func FuzzLoadInventory(f *testing.F) {
	good := fleet(f)
	f.Add([]byte(good["fleet.yaml"]), []byte(good["trust.yaml"]), []byte(good["hosts/web-1.yaml"]), []byte(good["coordinators/web.yaml"]))
	f.Add([]byte("name: x\ndeploymentConfigs: {a: {maxUnavailable: 0}}\n"), []byte(""), []byte("tags: {a=b: c}\n"), []byte("epoch: 0\nvoters: [a]\n"))
	f.Fuzz(func(t *testing.T, fleetYAML, trustYAML, host, set []byte) {
		files := maps.Clone(good)
		files["fleet.yaml"], files["trust.yaml"], files["hosts/web-1.yaml"], files["coordinators/web.yaml"] = string(fleetYAML), string(trustYAML), string(host), string(set)
		state, _ := Load(tree(files))
		for _, s := range state.Sets {
			for _, v := range s.Voters {
				if state.Hosts[v.Host].Address == "" {
					t.Errorf("voter %s has no address", v.Host)
				}
			}
		}
	})
}

func FuzzParsePublicKey(f *testing.F) {
	f.Add(FormatPublicKey(testKey("a")))
	f.Add("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA== x")
	f.Add("ssh-rsa AAAA")
	f.Fuzz(func(t *testing.T, line string) {
		key, err := ParsePublicKey(line)
		if err != nil {
			return
		}
		if again, err := ParsePublicKey(FormatPublicKey(key)); err != nil || !again.Equal(key) || len(key) != ed25519.PublicKeySize {
			t.Errorf("%q is read back as %v, %v", line, again, err)
		}
	})
}

func TestParsePublicKeyRefuses(t *testing.T) {
	good := FormatPublicKey(testKey("a"))
	for _, line := range []string{"", "ssh-ed25519", good + "\n" + good, "ssh-rsa " + strings.Fields(good)[1], "ssh-ed25519 AAAA", strings.Replace(good, "AAAAC3", "AAAAD3", 1), good[:len(good)-4]} {
		if _, err := ParsePublicKey(line); err == nil {
			t.Errorf("%q was accepted", line)
		}
	}
}

// TestLoadDependsOnTheTreeAlone loads the same random fleet twice, the second time with the files in another order and in other words.
func TestLoadDependsOnTheTreeAlone(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		files := Files{"fleet.yaml": "name: x\n", "trust.yaml": "version: 1\nsigners: {a: {ssh: k}}\nrules: [{paths: [\"**\"], threshold: 1, signers: [a]}]\n"}
		n := rapid.IntRange(1, 6).Draw(rt, "hosts")
		for i := range n {
			made, err := HostFile(testHost(fmt.Sprintf("h%d", i), i+1, map[string]string{"role": rapid.SampledFrom([]string{"web", "db"}).Draw(rt, "role")}))
			if err != nil {
				rt.Fatal(err)
			}
			maps.Copy(files, made)
		}
		files["coordinators/web.yaml"] = "epoch: 1\nvoters: [h0/0000000000000001]\n"
		for i := range rapid.IntRange(0, 4).Draw(rt, "groups") {
			yaml := strings.NewReplacer("01JD3K9V8Q", fmt.Sprintf("group-id-%d", i), "website-production", fmt.Sprintf("g%d", i)).Replace(minimal)
			if rapid.Bool().Draw(rt, "broken") {
				yaml += "nonsense: 1\n"
			}
			files[fmt.Sprintf("g/%d/group.yaml", i)] = yaml
		}
		first, problems := Load(tree(files))
		second, again := Load(tree(files))
		for _, s := range []*State{first, second} {
			for i := range s.Groups {
				for j := range s.Groups[i].Overlay {
					s.Groups[i].Overlay[j].Open = nil
				}
			}
		}
		if !reflect.DeepEqual(first, second) || !reflect.DeepEqual(problems, again) {
			rt.Fatalf("the same tree gives\n%+v\nand\n%+v", first, second)
		}
		if len(first.Groups)+len(first.Broken.Groups) != countGroups(files) {
			rt.Fatalf("%d groups and %d broken ones of %d files", len(first.Groups), len(first.Broken.Groups), countGroups(files))
		}
	})
}

func countGroups(files Files) int {
	n := 0
	for name := range files {
		if strings.HasSuffix(name, "/group.yaml") {
			n++
		}
	}
	return n
}

func TestPolicyTravelsAsJSON(t *testing.T) {
	files := fleet(t)
	files[groupPath] = minimal + "waves: [{hosts: 1, bake: 10m}, {tag: rack=a}]\nmaxUnavailable: 25%\nminSuccess: 3\nchecks: [{name: up, http: {url: \"http://127.0.0.1/\"}}]\n"
	state, problems := Load(tree(files))
	if len(problems) > 0 {
		t.Fatal(texts(problems))
	}
	want := state.Groups[0].Policy
	text, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got Policy
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&got); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v\n%+v\n%+v", err, got, want)
	}
	if len(want.Waves) != 3 || !want.Waves[2].Rest || want.Waves[1].Tag.Key != "rack" || *want.MaxUnavailable != (Amount{Percent: 25, IsShare: true}) || *want.MinSuccess != (Amount{Count: 3}) {
		t.Errorf("policy = %+v", want)
	}
	if _, err := json.Marshal(state.Groups); err != nil {
		t.Errorf("a group is not JSON: %v", err)
	}
}

func TestFleetDefaultsAndConfigs(t *testing.T) {
	files := fleet(t)
	files["fleet.yaml"] = `name: test
deploymentConfigs:
  quarter: {minimumHealthyHosts: {type: FLEET_PERCENT, value: 75}}
  three: {maxUnavailable: 3, minSuccess: 100%}
defaults: {deploymentConfigName: quarter, unreachable: wait, fileExistsBehavior: RETAIN}
`
	load := func(yaml string) Policy {
		t.Helper()
		files[groupPath] = yaml
		state, problems := Load(tree(files))
		if len(problems) > 0 {
			t.Fatal(texts(problems))
		}
		return state.Groups[0].Policy
	}
	if p := load(minimal); p.MinimumHealthy != (MinimumHealthy{FleetPercent, 75}) || p.Unreachable != "wait" || p.FileExistsBehavior != "RETAIN" || p.DeploymentConfigName != "quarter" {
		t.Errorf("defaults: %+v", p)
	}
	if p := load(minimal + "deploymentConfigName: three\nunreachable: fail\n"); p.MinimumHealthy != (MinimumHealthy{HostCount, 0}) || p.MaxUnavailable.Count != 3 || p.Unreachable != "fail" {
		t.Errorf("config: %+v", p)
	}
	if p := load(minimal + "minimumHealthyHosts: {type: HOST_COUNT, value: 2}\n"); p.MinimumHealthy != (MinimumHealthy{HostCount, 2}) || p.DeploymentConfigName != "" {
		t.Errorf("minimum: %+v", p)
	}
	for name, want := range map[string]MinimumHealthy{"OneAtATime": {MostConcurrency, 1}, "HalfAtATime": {FleetPercent, 50}, "AllAtOnce": {HostCount, 0}} {
		if p := load(minimal + "deploymentConfigName: CodeDeployDefault." + name + "\n"); p.MinimumHealthy != want {
			t.Errorf("%s: %+v", name, p.MinimumHealthy)
		}
	}
}

func TestBoundsOfATree(t *testing.T) {
	const folder = "shop/production/website/"
	big := bytes.Repeat([]byte("x"), maxOverlayFile+1)
	cases := map[string]func(fstest.MapFS){
		"the file is larger than": func(m fstest.MapFS) { m[folder+"codedeploy/big"] = &fstest.MapFile{Data: big, Mode: 0o644} },
		"have more than": func(m fstest.MapFS) {
			for i := range 5 {
				m[fmt.Sprintf("%scodedeploy/%d", folder, i)] = &fstest.MapFile{Data: big[:maxOverlayFile-1], Mode: 0o644}
			}
		},
		"more than 4096 overlay": func(m fstest.MapFS) {
			for i := range maxOverlayFiles + 1 {
				m[fmt.Sprintf("%scodedeploy/%d", folder, i)] = &fstest.MapFile{Mode: 0o644}
			}
		},
		"nested deeper":          func(m fstest.MapFS) { m[folder+strings.Repeat("d/", maxDepth+2)+"x"] = &fstest.MapFile{Mode: 0o644} },
		"larger than the 262144": func(m fstest.MapFS) { m[groupPath] = &fstest.MapFile{Data: big[:256<<10+1], Mode: 0o644} },
	}
	for want, change := range cases {
		files := tree(fleet(t))
		change(files)
		state, problems := Load(files)
		if !strings.Contains(texts(problems), want) || len(problems) > 3 {
			t.Errorf("%s: %d problems:\n%s", want, len(problems), texts(problems[:min(3, len(problems))]))
		}
		if want != "nested deeper" && len(state.Groups) != 0 {
			t.Errorf("%s: the group was accepted", want)
		}
	}
}

// brokenFS fails to open one file.
type brokenFS struct {
	fs.FS
	name string
}

func (b brokenFS) Open(name string) (fs.File, error) {
	if name == b.name {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrPermission}
	}
	return b.FS.Open(name)
}

// ReadDir keeps folders readable through the wrapper.
func (b brokenFS) ReadDir(name string) ([]fs.DirEntry, error) {
	if name == b.name {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrPermission}
	}
	return fs.ReadDir(b.FS, name)
}

// Stat still sees what cannot be opened.
func (b brokenFS) Stat(name string) (fs.FileInfo, error) { return fs.Stat(b.FS, name) }

func TestUnreadableFilesAreProblems(t *testing.T) {
	files := fleet(t)
	files["shop/production/website/codedeploy/a"] = "x"
	for _, name := range []string{"fleet.yaml", "trust.yaml", "hosts", "hosts/web-1.yaml", "coordinators/web.yaml", groupPath, "shop/production/website/codedeploy", "shop/production/website/codedeploy/a", "."} {
		_, problems := Load(brokenFS{tree(files), name})
		if !slices.ContainsFunc(problems, func(p Problem) bool { return p.File == name && strings.Contains(p.Message, "permission denied") }) {
			t.Errorf("%s: problems:\n%s", name, texts(problems))
		}
	}
}
