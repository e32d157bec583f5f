package desired

import (
	"bytes"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gitopsd/gitopsd/internal/bundle"
)

const testCommit = "0123456789abcdef0123456789abcdef01234567"

// revised is the minimal group.yaml with another revision.
func revised(revision string) string {
	head, _, _ := strings.Cut(minimal, "revision:")
	return head + "revision:\n" + revision
}

func TestRevisionsOfForges(t *testing.T) {
	pins := "  digest: " + testDigest + "\n  size: 100\n"
	cases := []struct {
		name, revision string
		want           []string
		forge          string
	}{
		{"github", "  revisionType: GitHub\n  gitHubLocation: {repository: ops/web, commitId: " + testCommit + "}\n" + pins, nil, ""},
		{"github owner", "  revisionType: GitHub\n  gitHubLocation: {repository: ops/web/x, commitId: " + testCommit + "}\n" + pins, []string{"OWNER/NAME"}, ""},
		{"github branch", "  revisionType: GitHub\n  gitHubLocation: {repository: ops/web, commitId: main}\n" + pins, []string{"commit"}, ""},
		{"gitlab by name", "  revisionType: Forge\n  forgeLocation: {url: \"https://gitlab.example.com/a/b/c\", commitId: " + testCommit + "}\n" + pins, nil, "GitLab"},
		{"codeberg by name", "  revisionType: Forge\n  forgeLocation: {url: \"https://codeberg.org/a/b\", commitId: " + testCommit + ", bundleType: zip}\n" + pins, nil, "Gitea"},
		{"named", "  revisionType: Forge\n  forgeLocation: {forge: Gitea, url: \"https://git.example.com/a/b\", commitId: " + testCommit + "}\n" + pins, nil, "Gitea"},
		{"not told", "  revisionType: Forge\n  forgeLocation: {url: \"https://git.example.com/a/b\", commitId: " + testCommit + "}\n" + pins, []string{"the name of the host does not tell which forge it is (add forge: GitHub, GitLab or Gitea)"}, ""},
		{"no size, an index", "  revisionType: Forge\n  forgeLocation: {forge: Gitea, url: \"https://git.example.com/a/b\", commitId: " + testCommit + "}\n  digest: " + testDigest + "\n  index: " + testDigest + "\n",
			[]string{`key "size" is missing`, "revision.index does not belong to revisionType Forge"}, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			files := fleet(t)
			files[groupPath] = revised(c.revision)
			state, problems := Load(tree(files))
			expect(t, problems, c.want)
			if len(c.want) > 0 {
				return
			}
			r := state.Groups[0].Revision
			switch {
			case r.GitHub != nil && (r.GitHub.Repository != "ops/web" || r.GitHub.Commit != testCommit || r.BundleType != bundle.TypeTgz):
				t.Errorf("%+v", r.GitHub)
			case r.Forge != nil && (r.Forge.Forge != c.forge || r.Forge.Commit != testCommit):
				t.Errorf("%+v", r.Forge)
			case r.GitHub == nil && r.Forge == nil:
				t.Errorf("%+v", r)
			}
		})
	}
}

// expect compares problems with parts of them, one for one.
func expect(t *testing.T, problems []Problem, want []string) {
	t.Helper()
	bad := Bad(problems)
	if len(bad) != len(want) {
		t.Fatalf("%d problems, want %d:\n%s", len(bad), len(want), texts(problems))
	}
	for _, w := range want {
		if !strings.Contains(texts(bad), w) {
			t.Errorf("no problem says %q:\n%s", w, texts(bad))
		}
	}
}

const folderRevision = "  revisionType: Repository\n  repositoryLocation: {path: shop/production/website/bundle}\n"

func folderFleet(t *testing.T) Files {
	t.Helper()
	files := fleet(t)
	files[groupPath] = revised(folderRevision)
	files["shop/production/website/bundle/appspec.yml"] = "version: 0.0\nos: linux\n"
	files["shop/production/website/bundle/html/index.html"] = "hello"
	return files
}

func TestAFolderOfTheRepositoryIsABundle(t *testing.T) {
	files := folderFleet(t)
	state, problems := Load(tree(files))
	expect(t, problems, nil)
	g := state.Groups[0]
	body, err := bundle.Tar(g.Revision.Repository.Tree)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(body)
	if err != nil || bundle.DigestBytes(data) != g.Revision.Digest || int64(len(data)) != g.Revision.Size {
		t.Errorf("%d bytes (%v), want %d", len(data), err, g.Revision.Size)
	}
	names := ""
	err = bundle.Walk(bytes.NewReader(data), int64(len(data)), g.Revision.BundleType, bundle.Options{}, func(e *bundle.Entry) error {
		names += e.Name + " " + e.Mode.String() + "\n"
		return nil
	})
	if want := "appspec.yml -rw-r--r--\nhtml -rwxr-xr-x\nhtml/index.html -rw-r--r--\n"; err != nil || names != want {
		t.Errorf("it holds\n%s(%v)", names, err)
	}
	files["shop/production/website/bundle/html/index.html"] = "Hello"
	changed, _ := Load(tree(files))
	if changed.Groups[0].SpecHash == g.SpecHash {
		t.Error("another content has the same spec hash")
	}
	files[groupPath] = revised(folderRevision + "  digest: " + string(changed.Groups[0].Revision.Digest) + "\n")
	_, problems = Load(tree(files))
	expect(t, problems, nil)
	files[groupPath] = revised(folderRevision + "  digest: " + testDigest + "\n")
	_, problems = Load(tree(files))
	expect(t, problems, []string{"revision.digest: the tar of \"shop/production/website/bundle\" is " + string(changed.Groups[0].Revision.Digest)})
}

// A checkout has other modes than git's tree, and an umask.
func TestAFolderIsTheSameInACheckout(t *testing.T) {
	files := folderFleet(t)
	state, _ := Load(tree(files))
	dir := t.TempDir()
	for name, content := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	local, problems := Load(os.DirFS(dir))
	expect(t, problems, nil)
	if local.Groups[0].Revision.Digest != state.Groups[0].Revision.Digest || local.Groups[0].SpecHash != state.Groups[0].SpecHash {
		t.Error("the digest depends on modes git does not know")
	}
}

func TestFoldersThatCannotBeABundle(t *testing.T) {
	const at = "shop/production/website/bundle/"
	cases := []struct {
		name   string
		change func(Files)
		want   []string
	}{
		{"missing", func(f Files) { f[groupPath] = revised(strings.Replace(folderRevision, "website/bundle", "nothing", 1)) }, []string{"the repository has no folder"}},
		{"climbs", func(f Files) { f[groupPath] = revised(strings.Replace(folderRevision, "shop/production", "../x", 1)) }, []string{"not a folder of the repository"}},
		{"root", func(f Files) {
			f[groupPath] = revised("  revisionType: Repository\n  repositoryLocation: {path: .}\n")
		}, []string{"not a folder of the repository"}},
		{"no appspec", func(f Files) { delete(f, at+"appspec.yml") }, []string{"there is no appspec.yml in"}},
		{"bad appspec", func(f Files) { f[at+"appspec.yml"] = "version: 0.0\nos: beos\n" }, []string{"appspec.yml:2"}},
		{"pointer", func(f Files) { f[at+"big"] = "version https://git-lfs.github.com/spec/v1\n" }, []string{"git-lfs pointer"}},
		{"large", func(f Files) { f[at+"big"] = strings.Repeat("x", maxOverlayFile+1) }, []string{"gitopsd bundle push"}},
		{"index", func(f Files) { f[groupPath] += "  index: " + testDigest + "\n" }, []string{"revision.index does not belong"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			files := folderFleet(t)
			c.change(files)
			state, problems := Load(tree(files))
			expect(t, problems, c.want)
			if len(state.Groups) != 0 {
				t.Error("the group is taken")
			}
		})
	}
	laid := folderFleet(t)
	delete(laid, at+"appspec.yml")
	laid["shop/production/website/codedeploy/appspec.yml"] = "version: 0.0\nos: linux\n"
	_, problems := Load(tree(laid))
	expect(t, problems, nil)
	links := tree(folderFleet(t))
	links["elsewhere/appspec.yml"] = links[at+"appspec.yml"]
	entry := *links[at+"html/index.html"]
	entry.Mode = fs.ModeSymlink | 0o777
	links["elsewhere/link"] = &entry
	links[groupPath].Data = []byte(revised(strings.Replace(folderRevision, "shop/production/website/bundle", "elsewhere", 1)))
	_, problems = Load(links)
	expect(t, problems, []string{"elsewhere/link: links and submodules are not allowed"})
}
