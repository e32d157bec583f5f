package desired

import (
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"maps"
	"strings"
	"testing"
	"testing/fstest"
)

// testKey makes a host's key out of its name.
func testKey(name string) ed25519.PublicKey {
	seed := sha256.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:]).Public().(ed25519.PublicKey)
}

// testHost is a host of the test fleet; n numbers storage and address.
func testHost(name string, n int, tags map[string]string) Host {
	return Host{Name: HostName(name), Keys: []ed25519.PublicKey{testKey(name)}, Storage: fmt.Sprintf("%016x", n), Address: fmt.Sprintf("10.0.0.%d:7946", n), Zone: "rack-a", Site: "", Tags: tags}
}

const testDigest = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

// fleet makes the files of a config repository with three hosts, one set and one group.
func fleet(t testing.TB) Files {
	t.Helper()
	files := Files{}
	add := func(more Files, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		maps.Copy(files, more)
	}
	add(InitFiles(InitOptions{Fleet: "test", Signers: []Signer{{Name: "anna", SSH: FormatPublicKey(testKey("anna"))}}}))
	hosts := map[HostName]Host{}
	for i, name := range []string{"web-1", "web-2", "web-3"} {
		h := testHost(name, i+1, map[string]string{"role": "web", "env": "production"})
		hosts[h.Name] = h
		add(HostFile(h))
	}
	add(CoordinatorsFile("web", []HostName{"web-1", "web-2", "web-3"}, hosts))
	add(GroupFiles(GroupOptions{Folder: "shop/production/website", ID: "01JD3K9V8Q", Application: "website", Name: "website-production", Coordinators: "web",
		TagSets: [][]string{{"role=web", "role=edge"}, {"env=production"}}, Digest: testDigest, Size: 18874368}))
	return files
}

// tree turns files into a file system.
func tree(files Files) fstest.MapFS {
	out := fstest.MapFS{}
	for name, content := range files {
		out[name] = &fstest.MapFile{Data: []byte(content), Mode: 0o644}
	}
	return out
}

func texts(problems []Problem) string {
	var b strings.Builder
	for _, p := range problems {
		b.WriteString(p.String() + "\n")
	}
	return b.String()
}

func TestLoadScaffoldedRepository(t *testing.T) {
	state, problems := Load(tree(fleet(t)))
	if len(problems) != 0 {
		t.Fatalf("problems in a scaffolded repository:\n%s", texts(problems))
	}
	if len(state.Groups) != 1 || len(state.Hosts) != 3 || len(state.Sets) != 1 || state.Broken.Any() {
		t.Fatalf("state = %+v", state)
	}
	g := state.Groups[0]
	if g.ID != "01JD3K9V8Q" || g.Coordinators != "web" || len(g.Members) != 3 || g.Members[0] != "web-1" || len(g.SpecHash) != 64 {
		t.Errorf("group = %+v", g)
	}
	if g.Policy.MinimumHealthy != (MinimumHealthy{MostConcurrency, 1}) || !g.Policy.AutoRollback.On(OnDeploymentFailure) {
		t.Errorf("policy = %+v", g.Policy)
	}
}
