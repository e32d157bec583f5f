package desired

import (
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

func TestSelectorsAsCodeDeployReadsThem(t *testing.T) {
	tags := map[string]map[string]string{
		"a": {"role": "web", "env": "production"},
		"b": {"role": "edge", "env": "production"},
		"c": {"role": "web", "env": "staging"},
		"d": {"name": "web"},
		"e": {},
	}
	cases := []struct{ name, targets, want string }{
		{"or inside, and between", "targets: {tagSets: [[role=web, role=edge], [env=production]]}", "a b"},
		{"key only", "targets: {tagSets: [[role=]]}", "a b c"},
		{"value only", "targets: {tagSets: [[=web]]}", "a c d"},
		{"value with =", "targets: {tagSets: [[role=a=b]]}", ""},
		{"hosts", "targets: {hosts: [e, a]}", "a e"},
		{"ec2 filters", "ec2TagFilters: [{Key: role, Value: edge, Type: KEY_AND_VALUE}, {Key: name, Type: KEY_ONLY}]", "b d"},
		{"ec2 filters without type", "ec2TagFilters: [{Key: role, Value: edge}]", "b"},
		{"ec2 set", "ec2TagSet: [[{Key: role, Value: web, Type: KEY_AND_VALUE}], [{Value: staging, Type: VALUE_ONLY}]]", "c"},
		{"ec2 set wrapped", "ec2TagSet: {ec2TagSetList: [[{Key: role, Value: web, Type: KEY_AND_VALUE}]]}", "a c"},
		{"on premises", "onPremisesInstanceTagFilters: [{Key: name, Type: KEY_ONLY}]", "d"},
		{"on premises set", "onPremisesTagSet: {onPremisesTagSetList: [[{Key: env, Type: KEY_ONLY}], [{Key: role, Value: edge}]]}", "b"},
		{"both kinds unite", "ec2TagFilters: [{Key: role, Value: edge}]\nonPremisesInstanceTagFilters: [{Key: name, Type: KEY_ONLY}]", "b d"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			files := Files{"fleet.yaml": "name: x\n", "trust.yaml": "version: 1\nsigners: {a: {ssh: k}}\nrules: [{paths: [\"**\"], threshold: 1, signers: [a]}]\n"}
			n := 0
			hosts := map[HostName]Host{}
			for _, name := range []string{"a", "b", "c", "d", "e"} {
				n++
				h := testHost(name, n, tags[name])
				hosts[h.Name] = h
				made, err := HostFile(h)
				if err != nil {
					t.Fatal(err)
				}
				files["hosts/"+name+".yaml"] = made["hosts/"+name+".yaml"]
			}
			made, err := CoordinatorsFile("web", []HostName{"a"}, hosts)
			if err != nil {
				t.Fatal(err)
			}
			files["coordinators/web.yaml"] = made["coordinators/web.yaml"]
			files["g/group.yaml"] = strings.Replace(minimal, "targets: {tagSets: [[role=web]]}", c.targets, 1)
			state, problems := Load(tree(files))
			if none := c.want == ""; len(Bad(problems)) > 0 || none != (len(problems) > 0) {
				t.Fatalf("problems:\n%s", texts(problems))
			}
			var got []string
			for _, m := range state.Groups[0].Members {
				got = append(got, string(m))
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("members = %q, want %q", got, c.want)
			}
		})
	}
}

func TestBrokenGroupHidesNoOther(t *testing.T) {
	files := fleet(t)
	second := strings.NewReplacer("01JD3K9V8Q", "01JD3K9V8R", "website-production", "second").Replace(minimal)
	files["a/group.yaml"] = second
	files["b/group.yaml"] = "id: 01JD3K9V8S\nbad: [\n"
	state, problems := Load(tree(files))
	if len(state.Groups) != 2 || len(problems) != 1 || !slices.Equal(state.Broken.Groups, []string{"b"}) {
		t.Errorf("groups = %d, broken = %+v, problems:\n%s", len(state.Groups), state.Broken, texts(problems))
	}
}

func TestTwinGroupsAreBothRefused(t *testing.T) {
	files := fleet(t)
	files["copy/group.yaml"] = strings.Replace(minimal, "website-production", "copied", 1)
	files["third/group.yaml"] = strings.Replace(minimal, "01JD3K9V8Q", "01JD3K9V8T", 1)
	state, problems := Load(tree(files))
	// copy and the original share an id; third and the original share their names.
	if !strings.Contains(texts(problems), "group.yaml:3:5: id: 01JD3K9V8Q is also that of copy/group.yaml") || len(state.Groups) != 0 || len(state.Broken.Groups) != 3 {
		t.Errorf("groups = %d, broken = %+v, problems:\n%s", len(state.Groups), state.Broken, texts(problems))
	}
	if !slices.Contains(state.Broken.IDs, "01JD3K9V8Q") {
		t.Errorf("broken ids = %v", state.Broken.IDs)
	}
}

func TestLinksInsideAGroupAreRefused(t *testing.T) {
	for _, mode := range []fs.FileMode{fs.ModeSymlink, fs.ModeIrregular} {
		for _, name := range []string{"codedeploy/x", "x", "deep/er/x", "codedeploy"} {
			files := tree(fleet(t))
			delete(files, "shop/production/website/codedeploy/.gitkeep")
			files["shop/production/website/"+name] = &fstest.MapFile{Data: []byte("/etc"), Mode: mode | 0o777}
			state, problems := Load(files)
			if len(problems) != 1 || !strings.Contains(problems[0].Message, "links and submodules are not allowed") || len(state.Groups) != 0 {
				t.Errorf("%s as %s: groups = %d, problems:\n%s", name, mode, len(state.Groups), texts(problems))
			}
		}
	}
	files := tree(fleet(t))
	files["docs"] = &fstest.MapFile{Data: []byte("elsewhere"), Mode: fs.ModeSymlink | 0o777}
	if _, problems := Load(files); len(problems) != 0 {
		t.Errorf("a link outside every group:\n%s", texts(problems))
	}
}

func TestOverlayPathsAndModes(t *testing.T) {
	const folder = "shop/production/website/"
	files := tree(fleet(t))
	files[folder+"codedeploy/scripts/start.sh"] = &fstest.MapFile{Data: []byte("#!/bin/sh\n"), Mode: 0o700}
	files[folder+"codedeploy/appspec.yml"] = &fstest.MapFile{Data: []byte("version: 0.0\nos: linux\n"), Mode: 0o600}
	files[folder+"project-conf.d/app.env"] = &fstest.MapFile{Data: []byte("A=1\n"), Mode: 0o644}
	files[folder+"server-applications/nginx/site.conf"] = &fstest.MapFile{Data: []byte("server {}\n"), Mode: 0o644}
	state, problems := Load(files)
	if len(problems) > 0 {
		t.Fatal(texts(problems))
	}
	var got []string
	for _, f := range state.Groups[0].Overlay {
		got = append(got, f.Path+" "+f.Mode.String())
		content, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		if info, err := content.Stat(); err != nil || info.Size() != f.Size {
			t.Errorf("%s: size %v, want %d", f.Path, info, f.Size)
		}
		content.Close()
	}
	want := []string{"appspec.yml -rw-r--r--", "project-conf.d/app.env -rw-r--r--", "scripts/start.sh -rwxr-xr-x", "server-applications/nginx/site.conf -rw-r--r--"}
	if !slices.Equal(got, want) {
		t.Errorf("overlay = %q, want %q", got, want)
	}
}

func TestDefaultCoordinators(t *testing.T) {
	for _, name := range []string{"website-production", "01JD3K9V8Q"} {
		files := fleet(t)
		files["coordinators/"+name+".yaml"] = files["coordinators/web.yaml"]
		files[groupPath] = strings.Replace(minimal, "coordinators: web\n", "", 1)
		state, problems := Load(tree(files))
		if len(problems) > 0 || state.Groups[0].Coordinators != name {
			t.Errorf("%s: problems:\n%s", name, texts(problems))
		}
	}
}

func TestCheckForExpandsTags(t *testing.T) {
	c := Check{Name: "up", HTTP: &HTTPCheck{URL: "http://127.0.0.1:${tag:port}/"}, Exec: nil}
	h := Host{Name: "web-1", Tags: map[string]string{"port": "8081"}}
	got, err := c.For(h)
	if err != nil || got.HTTP.URL != "http://127.0.0.1:8081/" || c.HTTP.URL != "http://127.0.0.1:${tag:port}/" {
		t.Errorf("got %+v, %v", got.HTTP, err)
	}
	if _, err := c.For(Host{Name: "web-2"}); err == nil || !strings.Contains(err.Error(), `host web-2 has no tag "port"`) {
		t.Errorf("error = %v", err)
	}
	if _, err := (Check{Name: "up", TCP: &TCPCheck{Address: "${env:HOME}:80"}}).For(h); err == nil {
		t.Error("an unknown reference was accepted")
	}
}
