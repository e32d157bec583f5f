package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// gitConfigTimeout bounds one question to git.
const gitConfigTimeout = 5 * time.Second

// gitConfig asks git for one setting as commands in dir would see it; a repository around dir does not count. Empty if it is not set, or if
// there is no git to ask.
func gitConfig(ctx context.Context, dir, name string) string {
	ctx, cancel := context.WithTimeout(ctx, gitConfigTimeout)
	defer cancel()
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	full, err := filepath.Abs(dir)
	if err != nil {
		return ""
	}
	cmd := exec.CommandContext(ctx, "git", "config", "--get", name)
	cmd.Dir = full
	cmd.Env = append(os.Environ(), "GIT_CEILING_DIRECTORIES="+filepath.Dir(full))
	out, err := cmd.Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

// signingSteps lists what must still be set before `git commit -S` in dir signs with an SSH key, and `git revert` too.
func signingSteps(ctx context.Context, dir, key string) []string {
	var steps []string
	set := func(name, value string) { steps = append(steps, "git config "+name+" "+value) }
	for _, who := range [][2]string{{"user.name", "'YOUR NAME'"}, {"user.email", "YOU@EXAMPLE.COM"}} {
		if gitConfig(ctx, dir, who[0]) == "" {
			set(who[0], who[1])
		}
	}
	format := gitConfig(ctx, dir, "gpg.format")
	if format != "ssh" {
		set("gpg.format", "ssh")
	}
	if format != "ssh" || gitConfig(ctx, dir, "user.signingkey") == "" { // one that is set is OpenPGP's where the format is
		set("user.signingkey", key)
	}
	if gitConfig(ctx, dir, "commit.gpgsign") != "true" {
		set("commit.gpgsign", "true")
	}
	return steps
}

// privateKeyOf says how git finds the key of a signer as --signer names it: a file, or a line that may lie in the user's own .ssh.
func privateKeyOf(signer string) string {
	const usual = "~/.ssh/id_ed25519"
	_, key, _ := strings.Cut(signer, "=")
	home, err := os.UserHomeDir()
	switch {
	case key == "" || err != nil:
		return usual
	case !strings.Contains(key, " "):
		private := strings.TrimSuffix(key, ".pub")
		if _, err := os.Stat(private); err != nil {
			private = key // its private half is with an agent, or on a token
		}
		if full, err := filepath.Abs(private); err == nil {
			private = full
		}
		return shellWord(private)
	}
	files, _ := filepath.Glob(filepath.Join(home, ".ssh", "*.pub")) // the pattern is well-formed
	for _, file := range files {
		if line, err := os.ReadFile(file); err == nil && sameKey(string(line), key) {
			return shellWord(strings.TrimSuffix(file, ".pub"))
		}
	}
	return usual
}

// sameKey compares two public key lines without their comments.
func sameKey(a, b string) bool {
	x, y := strings.Fields(a), strings.Fields(b)
	return len(x) >= 2 && len(y) >= 2 && x[0] == y[0] && x[1] == y[1]
}

// gitFor says how to call git for a file, and what to call the file then: as it is where the working directory is in the file's repository,
// else with -C.
func gitFor(file string) (git, name string) {
	full, err := filepath.Abs(file)
	if err != nil {
		return "git", file
	}
	here, err := os.Getwd()
	if err != nil {
		return "git", file
	}
	for top := filepath.Dir(full); ; top = filepath.Dir(top) {
		if _, err := os.Lstat(filepath.Join(top, ".git")); err == nil {
			if rel, err := filepath.Rel(top, here); err == nil && filepath.IsLocal(rel) {
				return "git", file
			}
			if rel, err := filepath.Rel(top, full); err == nil {
				return "git -C " + shellWord(top), rel
			}
		}
		if top == filepath.Dir(top) {
			return "git", file
		}
	}
}

// shellWord quotes what a shell would take apart.
func shellWord(word string) string {
	if word != "" && strings.Trim(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+@%:=,") == "" {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
