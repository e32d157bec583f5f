package demo

import (
	"fmt"
	"strings"

	"github.com/gitopsd/gitopsd/internal/status"
)

// opening says what is about to be seen.
func opening(dir string, hosts, voters int) string {
	return fmt.Sprintf(`gitopsd demo: %s on 127.0.0.1, each with an agent of its own, %s of them coordinating;
a config repository, an S3 server and a small web application.
Everything is in %s
`, count(hosts, "host"), spelled(voters), dir)
}

// heading begins a chapter.
func heading(number int, title string) string {
	return fmt.Sprintf("\n%d. %s\n", number, title)
}

// traffic is where the bytes of a release came from.
type traffic struct {
	size, payload     int64 // of the archive, and of what is moved of it
	archives, indexes int64 // left S3
	holders           int   // hosts that hold the archive
}

// peers is what the holders must have had from each other.
func (t traffic) peers() int64 { return max(0, int64(t.holders)*t.payload-t.archives) }

// sentence says it.
func (t traffic) sentence() string {
	if t.archives == 0 && t.size == 0 {
		return "nothing left S3"
	}
	hold := "hold"
	if t.holders == 1 {
		hold = "holds"
	}
	return fmt.Sprintf("%s left S3 (and %s of index), %s came from peers: %s %s the bundle of %s",
		status.Bytes(t.archives), status.Bytes(t.indexes), status.Bytes(t.peers()), count(t.holders, "host"), hold, status.Bytes(t.size))
}

// outcome is what a chapter ends with.
func outcome(p plot, hosts int, bytes string) string {
	serve := "serve"
	if hosts == 1 {
		serve = "serves"
	}
	ports := fmt.Sprintf("%s %s release %s", count(hosts, "port"), serve, p.after)
	switch {
	case p.still:
		ports = fmt.Sprintf("%s served release %s all the time", count(hosts, "port"), p.after)
	case p.target != p.after:
		ports += fmt.Sprintf(" and only one host ever tried release %s", p.target)
	}
	return "   -> " + ports + ".\n   -> " + capital(bytes) + ".\n"
}

// totals sums up the whole story.
func totals(bundles int, size, archives, peers int64, hosts int) string {
	return fmt.Sprintf("\nIn all: %s of %s each on %s. %s left S3, %s came from peers; both reverts moved nothing.\n",
		count(bundles, "bundle"), status.Bytes(size), count(hosts, "host"), status.Bytes(archives), status.Bytes(peers))
}

// hint is something to try at the end. Each command is one line for a shell.
type hint struct {
	about    string
	commands []string
}

// hints are what a user may type while the fleet stays up.
func hints(p place, first, s3url string) []hint {
	binary, socket := p.binary(), p.socket(first)
	at := func(words ...string) string {
		return command(append(append([]string{binary}, words...), "--addr", socket)...)
	}
	git := func(words ...string) string { return command(append([]string{"git", "-C", p.work()}, words...)...) }
	return []hint{
		{"What runs, what happened, and why:", []string{
			at("status"), at("why", groupName), at("history", groupName), at("logs", groupName, first),
			command("git", "--no-pager", "-C", p.work(), "log", "--format=%h %G? %GS %s"),
		}},
		{"Deploy a page of yours: edit, store the bundle, commit, push, and watch:", []string{
			"echo '<h1>My first deployment</h1>' > " + quoted(p.join("app", "content", "index.html")),
			"AWS_PROFILE=default AWS_CONFIG_FILE=" + quoted(p.credentials()) + " " + command(binary, "bundle", "push", p.app(), "s3://"+bucket+"/website/mine.tar.zst", "--endpoint", s3url, "--region", s3Region, "--path-style",
				"--credentials-file", p.credentials(), "--group", p.groupFile()),
			git("commit", "-a", "-m", "website: my own page"),
			git("push"),
			at("wait", groupName),
		}},
		{"Take it back:", []string{
			git("revert", "--no-edit", "HEAD"),
			git("push"),
			at("wait", groupName),
		}},
		{"What the agents log, one file a host:", []string{
			command("tail", "-n", "20", p.agentLog(first)),
		}},
	}
}

// closing says what to do now.
func closing(p place, sites []string, all []hint) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\nThe fleet stays up: %s\n", strings.Join(sites, " "))
	for _, h := range all {
		fmt.Fprintf(&b, "\n%s\n", h.about)
		for _, line := range h.commands {
			fmt.Fprintf(&b, "    %s\n", line)
		}
	}
	leave := "and leaves " + p.dir
	if p.made {
		leave = "and removes " + p.dir + " (--dir keeps it)"
	}
	fmt.Fprintf(&b, "\nCtrl-C here ends every process %s.\n", leave)
	return b.String()
}

// capital begins a sentence.
func capital(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// count writes a number with its noun.
func count(n int, noun string) string {
	if n == 1 {
		return spelled(n) + " " + noun
	}
	return spelled(n) + " " + noun + "s"
}

// spelled writes small numbers as words.
func spelled(n int) string {
	words := []string{"no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"}
	if n >= 0 && n < len(words) {
		return words[n]
	}
	return fmt.Sprint(n)
}
