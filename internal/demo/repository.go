package demo

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/gitopsd/gitopsd/internal/configrepo/sign"
)

// Who commits in the demo: the story in this process, and the user in the clone, with the same key.
const (
	signerName  = "demo"
	signerEmail = "demo@localhost"
	branch      = "main"
)

// gitPatience is how long one git command may take.
const gitPatience = time.Minute

// gitLeast is the first git that signs commits with SSH keys.
var gitLeast = [2]int{2, 34}

// repository is the bare config repository and the clone in which the user commits.
type repository struct {
	place place
	procs *processes
	env   []string // for git; nothing of the user's own configuration is read
	key   *sign.Key
}

// newRepository makes the signer and the empty bare repository.
func newRepository(ctx context.Context, p place, procs *processes, env []string) (*repository, error) {
	r := &repository{place: p, procs: procs}
	r.env = append(append([]string(nil), env...), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_TERMINAL_PROMPT=0", "GIT_EDITOR=true", "LC_ALL=C")
	if err := r.checkGit(ctx); err != nil {
		return nil, err
	}
	key, private, err := sign.GenerateKey(signerEmail)
	if err != nil {
		return nil, err
	}
	r.key = key
	if err := writeFile(p.signer(), private, 0o600); err != nil {
		return nil, err
	}
	if err := writeFile(p.signer()+".pub", []byte(key.PublicLine()+"\n"), 0o644); err != nil {
		return nil, err
	}
	if err := writeFile(p.allowed(), []byte(key.AllowedLine(signerEmail)), 0o644); err != nil {
		return nil, err
	}
	if _, err := sign.Init(p.bare(), branch); err != nil {
		return nil, err
	}
	return r, nil
}

var gitVersion = regexp.MustCompile(`(\d+)\.(\d+)`)

// checkGit says what is wrong with the git of this machine.
func (r *repository) checkGit(ctx context.Context) error {
	text, err := r.git(ctx, "version")
	if err != nil {
		return fmt.Errorf("cannot run git, which the demo's repository needs: %w", err)
	}
	m := gitVersion.FindStringSubmatch(text)
	if m == nil {
		return nil
	}
	major, _ := strconv.Atoi(m[1])
	minor, _ := strconv.Atoi(m[2])
	if major < gitLeast[0] || major == gitLeast[0] && minor < gitLeast[1] {
		return fmt.Errorf("cannot sign commits with %s: SSH signatures need git %d.%d or newer", text, gitLeast[0], gitLeast[1])
	}
	return nil
}

// git runs git away from any repository but those named in args.
func (r *repository) git(ctx context.Context, args ...string) (string, error) {
	cmd := exec.Command("git", args...)
	cmd.Dir, cmd.Env = r.place.dir, r.env
	ctx, cancel := context.WithTimeout(ctx, gitPatience)
	defer cancel()
	return r.procs.output(ctx, cmd)
}

// inWork runs git in the clone.
func (r *repository) inWork(ctx context.Context, args ...string) (string, error) {
	return r.git(ctx, append([]string{"-C", r.place.work()}, args...)...)
}

// commit signs a commit in this process and puts it on the bare repository's branch; the clone follows.
func (r *repository) commit(ctx context.Context, message string, files map[string]string) (string, error) {
	bare, err := sign.Open(r.place.bare(), branch)
	if err != nil {
		return "", err
	}
	change := sign.Change{Files: map[string][]byte{}, Message: message, Author: signerName + " <" + signerEmail + ">", Signer: r.key}
	for name, text := range files {
		change.Files[path.Clean(name)] = []byte(text)
	}
	id, err := bare.Commit(change)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(r.place.work()); err == nil {
		if _, err := r.inWork(ctx, "pull", "-q", "--ff-only"); err != nil {
			return "", err
		}
	}
	return id, nil
}

// clone makes the user's clone, where a plain commit is signed by this program in ssh-keygen's place, and lets a push tell the fleet.
func (r *repository) clone(ctx context.Context, sockets []string) error {
	if err := writeFile(r.place.gitHook("post-receive"), []byte(receiveHook(r.place.binary(), sockets)), 0o755); err != nil {
		return err
	}
	if _, err := r.git(ctx, "clone", "-q", "--branch", branch, r.place.bare(), r.place.work()); err != nil {
		return err
	}
	// The user's own configuration must not lead elsewhere, so what matters is set here, where it wins.
	settings := map[string][][2]string{
		r.place.bare(): {{"core.hooksPath", r.place.join("config.git", "hooks")}, {"gc.auto", "0"}, {"receive.autogc", "false"}, {"maintenance.auto", "false"}},
		r.place.work(): {
			{"user.name", signerName}, {"user.email", signerEmail}, {"gpg.format", "ssh"}, {"gpg.ssh.program", r.place.binary()},
			{"gpg.ssh.allowedSignersFile", r.place.allowed()}, {"user.signingkey", r.place.signer()}, {"commit.gpgsign", "true"}, {"push.gpgsign", "false"},
			{"push.default", "simple"}, {"core.hooksPath", r.place.join("config", ".git", "hooks")}, {"core.autocrlf", "false"}, {"gc.auto", "0"}, {"maintenance.auto", "false"},
		},
	}
	for dir, pairs := range settings {
		for _, pair := range pairs {
			if _, err := r.git(ctx, "-C", dir, "config", pair[0], pair[1]); err != nil {
				return err
			}
		}
	}
	return nil
}

// unreachableCode is what every verb ends with when no agent answers at its socket.
const unreachableCode = 9

// receiveHook asks the first agent that answers to look at the repository, so that nobody waits for the next poll; what that agent says is shown by the push.
func receiveHook(binary string, sockets []string) string {
	words := make([]string, len(sockets))
	for i, s := range sockets {
		words[i] = quoted(s)
	}
	return fmt.Sprintf(`#!/bin/sh
for socket in %s; do
  said=$(%s sync --addr "$socket" 2>&1)
  [ $? -eq %d ] && continue
  echo "$said"
  exit 0
done
echo "no agent answers: they will see this commit when they run"
exit 0
`, strings.Join(words, " "), quoted(binary), unreachableCode)
}

// revert reverts a commit as a user would, and pushes.
func (r *repository) revert(ctx context.Context, id string) (string, error) {
	if _, err := r.inWork(ctx, "revert", "--no-edit", id); err != nil {
		return "", err
	}
	if _, err := r.inWork(ctx, "push", "-q"); err != nil {
		return "", err
	}
	return r.inWork(ctx, "rev-parse", "HEAD")
}
