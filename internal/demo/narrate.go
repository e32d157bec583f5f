package demo

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/gitopsd/gitopsd/internal/status"
)

// opening says what is about to be seen.
func opening(dir string, hosts, voters int) string {
	who := fmt.Sprintf("%s on 127.0.0.1, each with an agent of its own, %s of them coordinating", count(hosts, "host"), spelled(voters))
	if hosts == 1 {
		who = "one host on 127.0.0.1 with its agent"
	}
	return fmt.Sprintf(`gitopsd demo: %s;
a config repository, an S3 server and a small web application.
Everything is in %s
`, who, dir)
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
	left := fmt.Sprintf("%s left S3 (and %s of index)", status.Bytes(t.archives), status.Bytes(t.indexes))
	if t.holders == 1 {
		return fmt.Sprintf("%s: one host holds the bundle of %s", left, status.Bytes(t.size))
	}
	return fmt.Sprintf("%s, %s came from peers: %s hold the bundle of %s", left, status.Bytes(t.peers()), count(t.holders, "host"), status.Bytes(t.size))
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

// failed says in which wave, on which host and in which hook a release failed, and what the hook wrote last; "" when the group tells of no failure. waves are those
// that deployments were seen in last.
func failed(g status.Group, waves map[string]string) string {
	if len(g.Failures) == 0 || g.Failures[0].Diagnostics == nil {
		return ""
	}
	f := g.Failures[0]
	lines := strings.Split(strings.TrimSpace(f.Diagnostics.LogTail), "\n")
	return fmt.Sprintf("   -> Failed%s on %s, %s: %s\n      %s\n", waves[f.Deployment], f.Host, f.Event.Event, status.Printable(f.Diagnostics.Message), status.Printable(lines[len(lines)-1]))
}

// inWave says which wave a deployment is in.
func inWave(d *status.Deployment) string {
	if d.Wave == 0 || d.Waves < 2 {
		return ""
	}
	return fmt.Sprintf(" in wave %d of %d", d.Wave, d.Waves)
}

// totals sums up the whole story.
func totals(bundles int, size, archives, peers int64, hosts int) string {
	moved := status.Bytes(archives) + " left S3"
	if hosts > 1 {
		moved += ", " + status.Bytes(peers) + " came from peers"
	}
	return fmt.Sprintf("\nIn all: %s of %s each on %s. %s; both reverts moved nothing.\n", count(bundles, "bundle"), status.Bytes(size), count(hosts, "host"), moved)
}

// hint is something to try at the end. Each command is one line for a shell.
type hint struct {
	about    string
	commands []string
}

// hints are what a user may type while the fleet stays up. The first command makes the others short: it is pasted once into a shell.
func hints(p place, first, s3url string) []hint {
	credentials, group := p.relative(p.credentials()), p.relative(filepath.Dir(p.groupFile()))
	push := command("gitopsd", "bundle", "push", p.relative(p.app()), "s3://"+bucket+"/website/mine.tar.zst", "--endpoint", s3url, "--credentials-file", credentials, "--group", group)
	git := "git -C " + quoted(p.relative(p.work())) + " "
	return []hint{
		{"Once in a shell, for all that follows:", []string{
			"cd " + quoted(p.dir) + ` && export PATH="$PWD/bin:$PATH" GITOPSD_ADDR=` + quoted(p.socket(first)),
		}},
		{"What runs, what happened, and why:", []string{
			"gitopsd status", "gitopsd why " + groupName, "gitopsd history " + groupName, "gitopsd logs " + groupName + " " + first,
			"git --no-pager -C " + quoted(p.relative(p.work())) + " log --format='%h %G? %GS %s'",
		}},
		{"Deploy a page of yours: edit, store the bundle, commit, push, and watch:", []string{
			"echo '<h1>My first deployment</h1>' > " + quoted(p.relative(p.join("app", "content", "index.html"))),
			"AWS_PROFILE=default AWS_CONFIG_FILE=" + credentials + " " + push,
			git + "commit -am 'website: my own page'",
			git + "push",
			"gitopsd wait " + groupName,
		}},
		{"Take it back:", []string{
			git + "revert --no-edit HEAD",
			git + "push",
			"gitopsd wait " + groupName,
		}},
		{"What the agents log, one file a host:", []string{
			"tail -n 20 " + quoted(p.relative(p.agentLog(first))),
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
