package configrepo

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/internal/configrepo/sign"
	"go.uber.org/goleak"
)

// childVerb makes the test binary act as the fetching process.
const childVerb = "fetch-child-for-tests"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == childVerb {
		code := ChildMain(nil)
		tellPeak()
		os.Exit(code)
	}
	if len(os.Args) > 1 && os.Args[1] == memoryVerb {
		if err := memoryMain(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func testChild() []string { return []string{os.Args[0], childVerb} }

// fixture is a source repository with three signers, and a host that follows it.
type fixture struct {
	t            testing.TB
	src          string
	git          *sign.Repository
	anna, bo, ci *sign.Key
	intro        string
	o            Options
	clock        int64
}

func newKey(t testing.TB, name string) *sign.Key {
	t.Helper()
	k, _, err := sign.GenerateKey(name)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

const trustText = `version: %d
signers:
  anna: {ssh: "%s"}
  bo: {ssh: "%s"}
  ci: {ssh: "%s"}
rules:
  - {paths: [trust.yaml, "hosts/**", "coordinators/**"], threshold: 2, signers: [anna, bo]}
  - {paths: ["shop/staging/**"], threshold: 1, signers: [anna, bo, ci]}
  - {paths: ["**"], threshold: 1, signers: [anna, bo]}
`

func (f *fixture) trust(version int) string {
	return fmt.Sprintf(trustText, version, f.anna.PublicLine(), f.bo.PublicLine(), f.ci.PublicLine())
}

// newFixture commits the introduction, signed by anna, with a trust.yaml.
func newFixture(t testing.TB) *fixture {
	t.Helper()
	f := &fixture{t: t, src: filepath.Join(t.TempDir(), "config.git"), anna: newKey(t, "anna"), bo: newKey(t, "bo"), ci: newKey(t, "ci"), clock: 1_700_000_000}
	var err error
	if f.git, err = sign.Init(f.src, "main"); err != nil {
		t.Fatal(err)
	}
	f.intro = f.commit(f.anna, "introduce", "fleet.yaml", "name: test\n", "trust.yaml", f.trust(1))
	allowed := filepath.Join(t.TempDir(), "allowed_signers")
	if err := os.WriteFile(allowed, []byte("# root\n"+f.anna.AllowedLine("anna")), 0o600); err != nil {
		t.Fatal(err)
	}
	f.o = Options{Dir: filepath.Join(t.TempDir(), "repo"), URLs: []string{f.src}, Introduction: f.intro,
		AllowedSigners: allowed, AllowLocalPath: true, Log: slog.New(slog.DiscardHandler)}
	return f
}

// commit adds files (path, content pairs; "-" removes) on top of the branch.
func (f *fixture) commit(by sign.Signer, message string, files ...string) string {
	f.t.Helper()
	return f.change(sign.Change{Signer: by, Message: message, Files: pairs(files)})
}

func pairs(files []string) map[string][]byte {
	m := map[string][]byte{}
	for i := 0; i+1 < len(files); i += 2 {
		m[files[i]] = []byte(files[i+1])
		if files[i+1] == "-" {
			m[files[i]] = nil
		}
	}
	return m
}

func (f *fixture) change(c sign.Change) string {
	f.t.Helper()
	if k, ok := c.Signer.(*sign.Key); ok && k == nil {
		c.Signer = nil
	}
	f.clock++
	c.When = time.Unix(f.clock, 0)
	id, err := f.git.Commit(c)
	if err != nil {
		f.t.Fatal(err)
	}
	return id
}

func (f *fixture) open() *Repo {
	f.t.Helper()
	r, err := New(f.o)
	if err != nil {
		f.t.Fatal(err)
	}
	return r
}

// host is a second host of the same fleet.
func (f *fixture) host(name string) *Repo {
	f.t.Helper()
	o := f.o
	o.Dir = filepath.Join(f.t.TempDir(), name)
	r, err := New(o)
	if err != nil {
		f.t.Fatal(err)
	}
	return r
}

func mustSync(t testing.TB, r *Repo) Outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := r.Sync(ctx)
	if err != nil {
		t.Fatalf("sync: %v", err)
	}
	return out
}

func wantAccepted(t testing.TB, out Outcome, id string) {
	t.Helper()
	if out.Refused != nil {
		t.Fatalf("refused: %s", out.Refused.Sentence)
	}
	if out.Accepted.ID != id {
		t.Fatalf("accepted %s, want %s", out.Accepted.ID, id)
	}
}

func wantRefused(t testing.TB, out Outcome, reason Reason, accepted string) {
	t.Helper()
	if out.Refused == nil {
		t.Fatalf("not refused, accepted %s; want %s", out.Accepted.ID, reason)
	}
	if out.Refused.Reason != reason {
		t.Fatalf("refused for %s (%s), want %s", out.Refused.Reason, out.Refused.Sentence, reason)
	}
	if out.Accepted.ID != accepted {
		t.Fatalf("accepted %s, want %s", out.Accepted.ID, accepted)
	}
	if s := out.Refused.Sentence; s == "" || strings.Contains(s, "%!") || strings.Contains(s, "\n") {
		t.Fatalf("sentence %q", s)
	}
}
