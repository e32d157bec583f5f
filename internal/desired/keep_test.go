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
