package desired

import (
	"fmt"
	"maps"
	"strings"
	"testing"
)

// BenchmarkLoad reads a repository of 1,000 hosts and 300 groups.
func BenchmarkLoad(b *testing.B) {
	files := Files{"fleet.yaml": "name: x\n", "trust.yaml": "version: 1\nsigners: {a: {ssh: k}}\nrules: [{paths: [\"**\"], threshold: 1, signers: [a]}]\n",
		"coordinators/web.yaml": "epoch: 1\nvoters: [h0/0000000000000001]\n"}
	for i := range 1000 {
		h := testHost(fmt.Sprintf("h%d", i), i+1, map[string]string{"role": "web", "slot": fmt.Sprint(i % 300)})
		h.Address = fmt.Sprintf("10.0.%d.%d:7946", i/250, i%250+1)
		made, err := HostFile(h)
		if err != nil {
			b.Fatal(err)
		}
		maps.Copy(files, made)
	}
	for i := range 300 {
		folder := fmt.Sprintf("p/%d/", i)
		files[folder+"group.yaml"] = strings.NewReplacer("01JD3K9V8Q", fmt.Sprintf("group-id-%d", i), "website-production", fmt.Sprintf("g%d", i), "role=web", fmt.Sprintf("slot=%d", i)).Replace(minimal)
		files[folder+"codedeploy/appspec.yml"] = "version: 0.0\nos: linux\nfiles: [{source: /, destination: /srv}]\n"
	}
	m := tree(files)
	if _, problems := Load(m); len(problems) > 0 {
		b.Fatal(texts(problems[:1]))
	}
	for b.Loop() {
		Load(m)
	}
}
