package desired

import (
	"slices"
	"strings"
	"testing"
)

func TestKeepHoldsOnToWhatIsMerelyBroken(t *testing.T) {
	files := fleet(t)
	files["hosts/web-4.yaml"] = "publicKey: " + FormatPublicKey(testKey("web-4")) + "\nstorage: 0000000000000004\ntags: {role: web, env: production}\n"
	files["coordinators/spare.yaml"] = "epoch: 1\nvoters: [web-1/0000000000000001]\n"
	old, problems := Load(tree(files))
	if len(problems) > 0 || len(old.Groups[0].Members) != 4 {
		t.Fatal(texts(problems))
	}
	files["hosts/web-4.yaml"] = strings.Replace(files["hosts/web-4.yaml"], "storage:", "storrage:", 1)
	files["coordinators/spare.yaml"] = "epoch: one\n"
	next, _ := Load(tree(files))
	if len(next.Hosts) != 3 || len(next.Sets) != 1 || len(next.Groups[0].Members) != 3 {
		t.Fatalf("next = %+v", next)
	}
	kept := Keep(old, next)
	if len(kept.Hosts) != 4 || len(kept.Sets) != 2 || len(kept.Groups[0].Members) != 4 || kept.Groups[0].SpecHash != old.Groups[0].SpecHash {
		t.Errorf("kept = %+v", kept)
	}
	if len(next.Hosts) != 3 || len(next.Groups[0].Members) != 3 {
		t.Error("next was changed")
	}
	delete(files, "hosts/web-4.yaml")
	removed, _ := Load(tree(files))
	if kept := Keep(old, removed); len(kept.Hosts) != 3 {
		t.Error("a removed host was kept")
	}
	if Keep(nil, next) != next {
		t.Error("without a past there is something to keep")
	}
}

func TestKeepHoldsOnToTheSites(t *testing.T) {
	files := fleet(t)
	files["fleet.yaml"] = "name: x\nsites: {dc1: {origin: own}, dc2: {links: {dc1: 4MiB/s}}}\n"
	files["hosts/web-1.yaml"] += "site: dc1\n"
	old, problems := Load(tree(files))
	if len(problems) > 0 || old.Fleet.Sites["dc1"].Origin != "own" || old.Fleet.Sites["dc2"].Origin != "shared" || old.Fleet.Sites["dc2"].Links["dc1"] != 4<<20 || old.Hosts["web-1"].Site != "dc1" {
		t.Fatalf("%+v\n%s", old.Fleet, texts(problems))
	}
	files["fleet.yaml"] = strings.Replace(files["fleet.yaml"], "own", "mine", 1)
	next, _ := Load(tree(files))
	if kept := Keep(old, next); len(next.Fleet.Sites) > 0 || len(kept.Fleet.Sites) != 2 || len(kept.Hosts) != 3 || kept.Groups == nil {
		t.Errorf("before %+v, kept %+v", next.Fleet, kept.Fleet)
	}
	files["fleet.yaml"] = "name: x\n"
	next, _ = Load(tree(files))
	if kept := Keep(old, next); len(kept.Fleet.Sites) > 0 {
		t.Error("sites that were removed are kept")
	}
}

func TestKeepNeverSharesAnIdentity(t *testing.T) {
	files := fleet(t)
	old, _ := Load(tree(files))
	files["hosts/web-9.yaml"] = strings.Replace(files["hosts/web-3.yaml"], "storage", "storage", 1)
	files["hosts/web-3.yaml"] = "storrage: x\n"
	next, _ := Load(tree(files))
	if kept := Keep(old, next); len(kept.Hosts) != 3 || slices.Contains(hostNames(kept.Hosts), "web-3") {
		t.Errorf("hosts = %v", hostNames(kept.Hosts))
	}
}

func TestAppspecOverTheBundlesIsJudged(t *testing.T) {
	const file = "shop/production/website/codedeploy/appspec.yml"
	files := fleet(t)
	files[file] = "version: 0.0\nos: linux\nfiles:\n  - source: /a\n"
	state, problems := Load(tree(files))
	if len(state.Groups) != 0 || len(problems) == 0 || problems[0].File != file {
		t.Errorf("groups = %d, problems:\n%s", len(state.Groups), texts(problems))
	}
	files[file] = "version: 0.0\nos: linux\nfiles:\n  - {source: /a, destination: /b}\n"
	if state, problems := Load(tree(files)); len(state.Groups) != 1 {
		t.Errorf("problems:\n%s", texts(problems))
	}
}
