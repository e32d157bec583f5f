package agent

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/bundle/store"
	"github.com/gitopsd/gitopsd/internal/desired"
	"github.com/gitopsd/gitopsd/internal/rollout"
)

// A byte flips under a complete bundle: the piece is not handed out, the bundle is made whole again, and nobody has to ask for it.
func TestARottenBundleIsMended(t *testing.T) {
	d := newDisk(t)
	rotten := newWake()
	if err := d.store.Close(); err != nil {
		t.Fatal(err)
	}
	var err error
	if d.store, err = store.Open(store.Options{Dir: filepath.Join(t.TempDir(), "bundles"), Suspect: rotten.Wake}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.store.Close() })
	tree := fstest.MapFS{"appspec.yml": {Data: []byte(plainSpec), Mode: 0o644}, "page": {Data: make([]byte, 1<<20), Mode: 0o644}}
	g := desired.Group{ID: "g1", Folder: "shop", Revision: desired.Revision{Type: "Repository", Digest: digestOfTree(t, tree), BundleType: bundle.TypeTarZst,
		Repository: &desired.RepositoryLocation{Path: "bundle", Tree: tree}}}
	g.Revision.Size = 1<<20 + 5*512 // two headers, appspec.yml's block, the end's two
	b := d.bundles
	b.store, b.rotten = d.store, rotten
	b.world = func() *world { return &world{State: &desired.State{Groups: []desired.Group{g}}} }
	if err := b.store.Pin(targetOwner+"g1", g.Revision.Digest); err != nil {
		t.Fatal(err)
	}
	if err := b.bring(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	found, _ := b.store.Lookup(g.Revision.Digest)
	flip(t, found.Path, found.Ref.Index.Piece(1).Offset)
	if _, err := found.ReadPiece(1, nil); err == nil {
		t.Fatal("rot is handed out")
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); b.mend(ctx) }()
	eventuallyTrue(t, "the bundle is whole again", func() bool {
		again, ok := b.store.Lookup(g.Revision.Digest)
		if !ok {
			return false
		}
		_, err := again.ReadPiece(1, nil)
		return err == nil && len(b.store.Suspects()) == 0
	})
	cancel()
	<-ended
}

// flip changes one byte of a file.
func flip(t *testing.T, file string, off int64) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	one := make([]byte, 1)
	if _, err := f.ReadAt(one, off); err != nil {
		t.Fatal(err)
	}
	one[0] ^= 1
	if _, err := f.WriteAt(one, off); err != nil {
		t.Fatal(err)
	}
}

// What rotted between its arrival and its first use is not unpacked, though a plain tar would show nothing of it: the host says that the bytes are wrong, and gets them again.
func TestARottenBundleIsNotDeployed(t *testing.T) {
	revision := "  revisionType: Repository\n" +
		"  repositoryLocation: {path: bundle}\n"
	f, d, g := newWebsite(t, revision, "bundle/appspec.yml", plainSpec, "bundle/page", "0123456789")
	if err := d.bundles.bring(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	found, _ := d.store.Lookup(g.Revision.Digest)
	data, err := os.ReadFile(found.Path)
	if err != nil {
		t.Fatal(err)
	}
	flip(t, found.Path, int64(bytes.Index(data, []byte("0123456789"))))
	deploy := &deployer{self: "web-1", world: f.current, releases: func() int { return 5 }, applier: d.applier, verifier: d.bundles.verifier, bundles: d.bundles, log: slog.New(slog.DiscardHandler), fence: func() FenceConfig { return FenceConfig{} }}
	answer := deploy.preflight(t.Context(), string(g.ID), specOf(f.current().Commit, g))
	if answer.Refused != rollout.RefusedByBytes || !strings.Contains(answer.Reason, "changed on disk") {
		t.Errorf("%+v", answer)
	}
	if _, ok := d.store.Lookup(g.Revision.Digest); ok || len(d.store.Suspects()) > 0 {
		t.Errorf("it still counts as complete: %v, suspects %v", ok, d.store.Suspects())
	}
	if kind, why := d.bundles.fetch(t.Context(), string(g.ID), specOf(f.current().Commit, g)); kind != "" {
		t.Fatalf("%s: %s", kind, why)
	}
	if answer := deploy.preflight(t.Context(), string(g.ID), specOf(f.current().Commit, g)); answer.Refused != "" {
		t.Errorf("what was fetched again is refused: %+v", answer)
	}
}

// newWebsite makes a config repository with one group of web-1, whose revision is what these lines of group.yaml say, and web-1's disk. More names files and their content.
func newWebsite(t *testing.T, revision string, more ...string) (*followed, *disk, desired.Group) {
	t.Helper()
	group := "id: 01WEBSITE0\napplicationName: website\ndeploymentGroupName: website\ncoordinators: web\ntargets: {hosts: [web-1]}\nrevision:\n" + revision
	host := hostFile(t, "role: web")
	o := newOrigin(t, append([]string{"hosts/web-1.yaml", host, "coordinators/web.yaml", setFile("web-1", host), "shop/group.yaml", group}, more...)...)
	f := newSource(t, o, t.TempDir())
	f.syncs(t)
	g, ok := f.current().group("01WEBSITE0")
	if !ok {
		t.Fatalf("problems %v", f.current().Problems)
	}
	d := newDisk(t)
	newDiskSwarm(t, d)
	d.bundles.verifier = &verifier{repo: f.repo, world: f.current}
	return f, d, g
}
