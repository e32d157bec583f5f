package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gitopsd/gitopsd/internal/apply"
	"github.com/gitopsd/gitopsd/internal/configrepo"
	"github.com/gitopsd/gitopsd/internal/configrepo/sign"
)

// TestMain lets the test binary act as the processes that an agent starts from its own program.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "supervise":
			os.Exit(apply.SuperviseMain(os.Args[2:]))
		case "fetch-child":
			os.Exit(configrepo.ChildMain(os.Args[2:]))
		}
	}
	goleak.VerifyTestMain(m)
}

// until waits for a condition; what says what is missing, "" when nothing is.
func until(t testing.TB, what func() string) {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for {
		missing := what()
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("it never came: %s", missing)
		}
		<-time.After(2 * time.Millisecond)
	}
}

// gitOrigin is a config repository on this disk.
type gitOrigin struct {
	t       testing.TB
	dir     string
	git     *sign.Repository
	key     *sign.Key
	allowed string
	intro   string
	clock   int64
}

// newOrigin commits the introduction: a fleet with these files.
func newOrigin(t testing.TB, files ...string) *gitOrigin {
	t.Helper()
	key, _, err := sign.GenerateKey("anna")
	if err != nil {
		t.Fatal(err)
	}
	o := &gitOrigin{t: t, dir: filepath.Join(t.TempDir(), "config.git"), key: key, allowed: filepath.Join(t.TempDir(), "allowed_signers"), clock: 1_700_000_000}
	if o.git, err = sign.Init(o.dir, "main"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(o.allowed, []byte(key.AllowedLine("anna")), 0o600); err != nil {
		t.Fatal(err)
	}
	trust := fmt.Sprintf("version: 1\nsigners:\n  anna: {ssh: %q}\nrules:\n  - {paths: [\"**\"], threshold: 1, signers: [anna]}\n", key.PublicLine())
	o.intro = o.commit(append([]string{"fleet.yaml", "name: test\n", "trust.yaml", trust}, files...)...)
	return o
}

// commit signs files (path, content pairs; "-" removes) on top of the branch.
func (o *gitOrigin) commit(files ...string) string {
	return o.change(sign.Change{Signer: o.key}, files...)
}

// reset forces the branch to a commit.
func (o *gitOrigin) reset(commit string) {
	o.t.Helper()
	if err := os.WriteFile(filepath.Join(o.dir, "refs", "heads", "main"), []byte(commit+"\n"), 0o600); err != nil {
		o.t.Fatal(err)
	}
}

func (o *gitOrigin) change(c sign.Change, files ...string) string {
	o.t.Helper()
	o.clock++
	c.When, c.Message, c.Files = time.Unix(o.clock, 0), fmt.Sprintf("commit %d", o.clock), map[string][]byte{}
	for i := 0; i+1 < len(files); i += 2 {
		c.Files[files[i]] = []byte(files[i+1])
		if files[i+1] == "-" {
			c.Files[files[i]] = nil
		}
	}
	id, err := o.git.Commit(c)
	if err != nil {
		o.t.Fatal(err)
	}
	return id
}

// hostFile is an inventory file with a key of its own.
func hostFile(t testing.TB, tags string) string {
	t.Helper()
	key, _, err := sign.GenerateKey("host")
	if err != nil {
		t.Fatal(err)
	}
	line := strings.TrimSpace(key.PublicLine())
	return fmt.Sprintf("publicKey: %s\nstorage: %s\naddress: %s.example:7946\ntags: {%s}\n", line, storageOf(line), storageOf(line), tags)
}

// storageOf makes a storage id of a key's line.
func storageOf(line string) string {
	sum := sha256.Sum256([]byte(line))
	return hex.EncodeToString(sum[:8])
}

// groupFile is a group of the hosts with role=web.
func groupFile(id, digest string) string {
	return fmt.Sprintf(`id: %s
applicationName: website
deploymentGroupName: website-%s
coordinators: web
targets: {tagSets: [[role=web]]}
revision:
  revisionType: S3
  s3Location: {bucket: releases, key: one.tar.zst, bundleType: tar.zst}
  digest: sha256:%s
  size: 10
`, id, id, strings.Repeat(digest, 64))
}

// setFile makes the host of a file the only voter.
func setFile(name, host string) string {
	_, rest, _ := strings.Cut(host, "storage: ")
	storage, _, _ := strings.Cut(rest, "\n")
	return "epoch: 1\nvoters: [" + name + "/" + storage + "]\n"
}
