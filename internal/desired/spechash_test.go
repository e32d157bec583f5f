package desired

import (
	"strings"
	"testing"
)

// hashOf loads the test fleet with another group.yaml, in another folder if one is given.
func hashOf(t *testing.T, yaml string, more Files) string {
	t.Helper()
	files := fleet(t)
	delete(files, groupPath)
	files[groupPath] = yaml
	for name, content := range more {
		if content == "" {
			delete(files, name)
			continue
		}
		files[name] = content
	}
	state, problems := Load(tree(files))
	if len(state.Groups) != 1 {
		t.Fatalf("%d groups:\n%s", len(state.Groups), texts(problems))
	}
	return state.Groups[0].SpecHash
}

func TestSpecHashIsWhatItAlwaysWas(t *testing.T) {
	// This value is on disks and in raft. If it changes, SpecVersion has to.
	const want = "bb5229aebd48ec9dbc47120a7d4ff138d37df6d8f4786ff7f8a03a8744b2beec"
	if got := hashOf(t, minimal, nil); got != want {
		t.Errorf("spec hash of the minimal group = %s, want %s", got, want)
	}
}

func TestSpecHashChangesWithTheSpecOnly(t *testing.T) {
	replace := func(old, new string) string {
		if !strings.Contains(minimal, old) {
			t.Fatalf("no %q in the minimal group", old)
		}
		return strings.Replace(minimal, old, new, 1)
	}
	const folder = "shop/production/website/"
	base := hashOf(t, minimal, nil)
	cases := []struct {
		name    string
		yaml    string
		more    Files
		changes bool
	}{
		{"comment", "# a comment\n" + minimal, nil, false},
		{"folder", minimal, Files{groupPath: "", "elsewhere/group.yaml": minimal}, false},
		{"bucket and key", replace("bucket: releases, key: website/2.31.0.tar.zst", "bucket: other, key: a.tar.zst"), nil, false},
		{"version and etag", replace("bundleType: tar.zst}", "bundleType: tar.zst, version: v, eTag: e}"), nil, false},
		{"size and index", minimal + "  size: 5\n  index: " + testDigest + "\n", nil, false},
		{"origin", replace("revisionType: S3\n  s3Location: {bucket: releases, key: website/2.31.0.tar.zst, bundleType: tar.zst}", "revisionType: Https\n  httpsLocation: {url: \"https://example.com/a.tar.zst\"}"), nil, false},
		{"selectors", replace("role=web", "env=production"), nil, false},
		{"coordinators", replace("coordinators: web", "coordinators: web2"), Files{"coordinators/web2.yaml": "epoch: 1\nvoters: [web-1/0000000000000001]\n"}, false},
		{"waves", minimal + "waves: [{hosts: 1, bake: 10m}]\n", nil, false},
		{"checks", minimal + "checks: [{name: up, tcp: {address: \"127.0.0.1:80\"}}]\n", nil, false},
		{"attempt", minimal + "attempt: 2\n", nil, false},
		{"suspend", minimal + "suspend: true\n", nil, false},
		{"supersede", minimal + "supersede: queue\n", nil, false},
		{"minimum", minimal + "minimumHealthyHosts: {type: HOST_COUNT, value: 1}\n", nil, false},
		{"rollback", minimal + "autoRollbackConfiguration: {enabled: false}\n", nil, false},
		{"unreachable", minimal + "unreachable: wait\nmaxUnreachable: 3\ndeadlines: {ready: 1m}\n", nil, false},
		{"alarms", minimal + "alarmConfiguration: {enabled: false, alarms: [{name: a}]}\n", nil, false},
		{"behavior written out", minimal + "fileExistsBehavior: disallow\n", nil, false},
		{"placeholder", minimal, Files{folder + "codedeploy/empty/.gitkeep": "x"}, false},
		{"other file", minimal, Files{folder + "README.md": "x"}, false},

		{"id", replace("01JD3K9V8Q", "01JD3K9V8R"), nil, true},
		{"application", replace("applicationName: website", "applicationName: site"), nil, true},
		{"name", replace("website-production", "website-live"), nil, true},
		{"digest", replace("9f86d0", "9f86d1"), nil, true},
		{"bundle type", replace("bundleType: tar.zst", "bundleType: tgz"), nil, true},
		{"behavior", minimal + "fileExistsBehavior: RETAIN\n", nil, true},
		{"stop failure", minimal + "applicationStopFailure: continue\n", nil, true},
		{"fleet's default", minimal, Files{"fleet.yaml": "name: test\ndefaults: {fileExistsBehavior: OVERWRITE}\n"}, true},
		{"overlay", minimal, Files{folder + "codedeploy/appspec.yml": "version: 0.0\nos: linux\n"}, true},
		{"conf", minimal, Files{folder + "project-conf.d/a": "x"}, true},
		{"server application", minimal, Files{folder + "server-applications/nginx/a": "x"}, true},
	}
	seen := map[string]string{}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := hashOf(t, c.yaml, c.more)
			if (got != base) != c.changes {
				t.Errorf("spec hash changed: %v, want %v", got != base, c.changes)
			}
			if other := seen[got]; c.changes && other != "" {
				t.Errorf("the spec hash is that of %s", other)
			}
			if c.changes {
				seen[got] = c.name
			}
		})
	}
}

func TestSpecHashSeesModeAndPath(t *testing.T) {
	file := OverlayFile{Path: "a", Mode: 0o644, SHA256: "00"}
	group := func(f ...OverlayFile) string { return SpecHash(Group{ID: "1", Overlay: f}) }
	moved, executable := file, file
	moved.Path, executable.Mode = "b", 0o755
	hashes := map[string]bool{group(): true, group(file): true, group(moved): true, group(executable): true, group(file, moved): true}
	if len(hashes) != 5 {
		t.Errorf("%d different hashes, want 5", len(hashes))
	}
}
