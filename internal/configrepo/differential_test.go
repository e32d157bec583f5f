package configrepo

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"
)

// history writes random commits with git itself: merges of up to four parents, trees
// that come back, folders that appear elsewhere, modes, links and submodules.
type history struct {
	t      *testing.T
	dir    string
	rng    *rand.Rand
	blobs  []string
	leaves []string // trees
	roots  []string
	heads  []string
}

func (h *history) git(stdin string, args ...string) string {
	h.t.Helper()
	cmd := exec.Command("git", append([]string{"-C", h.dir}, args...)...)
	cmd.Env = append(os.Environ(), "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@x", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@x",
		"GIT_AUTHOR_DATE=1700000000 +0000", "GIT_COMMITTER_DATE=1700000000 +0000", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1")
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		h.t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func pick(rng *rand.Rand, list []string) string { return list[rng.IntN(len(list))] }

// folder makes a tree of what there is.
func (h *history) folder(depth int) string {
	var lines []string
	for i := range h.rng.IntN(4) + h.rng.IntN(2) {
		name := fmt.Sprintf("%c", 'a'+i)
		switch k := h.rng.IntN(10); {
		case k < 3 && depth < 4:
			lines = append(lines, "040000 tree "+h.folder(depth+1)+"\t"+name+"\n")
		case k < 5 && len(h.leaves) > 0:
			lines = append(lines, "040000 tree "+pick(h.rng, h.leaves)+"\t"+name+"\n")
		case k == 5:
			lines = append(lines, "160000 commit "+strings.Repeat("1", 40)+"\t"+name+"\n")
		case k == 6:
			lines = append(lines, "120000 blob "+pick(h.rng, h.blobs)+"\t"+name+"\n")
		case k == 7:
			lines = append(lines, "100755 blob "+pick(h.rng, h.blobs)+"\t"+name+"\n")
		default:
			lines = append(lines, "100644 blob "+pick(h.rng, h.blobs)+"\t"+name+"\n")
		}
	}
	id := h.git(strings.Join(lines, ""), "mktree", "--missing")
	h.leaves = append(h.leaves, id)
	return id
}

func (h *history) commit() {
	root := ""
	if len(h.roots) > 0 && h.rng.IntN(4) == 0 {
		root = pick(h.rng, h.roots)
	} else {
		root = h.folder(0)
	}
	h.roots = append(h.roots, root)
	args := []string{"commit-tree", root, "-m", fmt.Sprint(len(h.heads))}
	var parents []string
	for range min(len(h.heads), max(1, h.rng.IntN(8)-3)) {
		p := h.heads[len(h.heads)-1-h.rng.IntN(min(6, len(h.heads)))]
		if !slices.Contains(parents, p) {
			parents = append(parents, p)
			args = append(args, "-p", p)
		}
	}
	h.heads = append(h.heads, h.git("", args...))
}

// What is listed between two commits is at least what git lists, and no more than what
// git finds in the whole; a repository that has the one is whole with the pack.
func TestPacksAgreeWithGit(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("no git here")
	}
	rounds := 3
	if testing.Short() {
		rounds = 1
	}
	for seed := range rounds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			h := &history{t: t, dir: filepath.Join(t.TempDir(), "src"), rng: rand.New(rand.NewPCG(uint64(seed), 7))}
			if err := os.MkdirAll(h.dir, 0o700); err != nil {
				t.Fatal(err)
			}
			h.git("", "init", "-q", "--bare", "-b", "main")
			for i := range 8 {
				h.blobs = append(h.blobs, h.git(fmt.Sprint(i), "hash-object", "-w", "--stdin"))
			}
			for range 25 {
				h.commit()
			}
			tip := h.heads[len(h.heads)-1]
			h.git("", "update-ref", "refs/heads/main", tip)
			all := strings.Fields(h.git("", "rev-list", tip))
			for range 6 {
				have := pick(h.rng, all)
				h.compare(have, tip)
			}
			h.compare("", tip)
		})
	}
}

func (h *history) compare(have, tip string) {
	h.t.Helper()
	o := openObjects(h.dir, true)
	defer o.Close()
	id, _ := parseID(tip)
	var haves []plumbing.Hash
	args := []string{"rev-list", "--objects", "--no-object-names", tip}
	if have != "" {
		was, _ := parseID(have)
		haves = append(haves, was)
		args = append(args, "^"+have)
	}
	var pack bytes.Buffer
	if err := writePack(o, newGraph(), haves, id, Limits{}.withDefaults(), &pack); err != nil {
		h.t.Fatal(err)
	}
	// A receiver that has the one: git must find it whole, and so must we.
	to := &history{t: h.t, dir: filepath.Join(h.t.TempDir(), "to")}
	if err := initMirror(to.dir, "main"); err != nil {
		h.t.Fatal(err)
	}
	if have != "" {
		h.git("", "update-ref", "refs/heads/have", have)
		to.git("", "fetch", "-q", "--no-tags", h.dir, "refs/heads/have:refs/heads/have")
	}
	if _, err := ingest(context.Background(), to.dir, Limits{}.withDefaults(), func(w io.Writer) error {
		_, err := w.Write(pack.Bytes())
		return err
	}); err != nil {
		h.t.Fatal(err)
	}
	to.git("", "update-ref", "refs/heads/main", tip)
	to.git("", "rev-list", "--objects", "main")
	to.git("", "hash-object", "-w", "-t", "tree", "/dev/null") // git reads it without, but its fsck misses it
	to.git("", "fsck", "--strict", "--connectivity-only", "main")
	to.git("", "fsck", "--full")
	listed := map[string]bool{}
	if err := newObjects(o, newGraph(), haves, id, 1<<20, func(id plumbing.Hash, _ plumbing.ObjectType) error {
		if listed[id.String()] {
			h.t.Errorf("%s is listed twice", id)
		}
		listed[id.String()] = true
		return nil
	}); err != nil {
		h.t.Fatal(err)
	}
	for _, want := range strings.Fields(h.git("", args...)) {
		if !listed[want] && want != emptyTree.String() {
			h.t.Errorf("from %.7s: %s (%s) is not listed", have, want, h.git("", "cat-file", "-t", want))
		}
	}
	whole := strings.Fields(h.git("", "rev-list", "--objects", "--no-object-names", tip))
	for got := range listed {
		if !slices.Contains(whole, got) {
			h.t.Errorf("%s is listed and belongs to no commit", got)
		}
	}
}
