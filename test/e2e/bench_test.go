package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/internal/status"
)

// BenchmarkPushToHealthy measures the time from `git push` (with a notification to one host) until the fleet's five hosts are healthy on the new release: empty
// hooks, no bake. It is printed as ms/deploy.
func BenchmarkPushToHealthy(b *testing.B) {
	for _, config := range []string{"AllAtOnce", "OneAtATime"} {
		b.Run(config, func(b *testing.B) { benchmarkPush(b, config) })
	}
}

func benchmarkPush(b *testing.B, config string) {
	f := newFleet(b, fleetOptions{hosts: 5, voters: 3, poll: "1h"})
	policy := "deploymentConfigName: CodeDeployDefault." + config + "\n"
	revisions := make([]string, b.N+1)
	for i := range revisions {
		revisions[i] = f.publish(emptyRelease(fmt.Sprintf("r%d", i)))
	}
	client := status.NewClient(f.hosts[0].socket)
	push := func(revision string) {
		f.git.write(website+"/group.yaml", groupText("01WEBSITE0", "website", revision, policy))
		f.git.run(f.git.work, "add", "-A")
		f.git.run(f.git.work, "commit", "-q", "-S", "-m", "release")
	}
	deploy := func() {
		commit := f.git.push()
		if err := client.Operate(context.Background(), status.Operation{Verb: "sync"}); err != nil {
			b.Fatal(err)
		}
		awaitSucceeded(b, client, commit)
	}
	push(revisions[0])
	deploy()
	b.ResetTimer()
	b.StopTimer()
	for i := range b.N {
		push(revisions[i+1])
		b.StartTimer()
		deploy()
		b.StopTimer()
	}
	b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms/deploy")
	if dir := os.Getenv("E2E_KEEP_LOGS"); dir != "" {
		for _, h := range f.hosts {
			text, _ := os.ReadFile(filepath.Join(h.dir, "agent.log"))
			_ = os.WriteFile(filepath.Join(dir, config+"-"+h.name+".log"), text, 0o644)
		}
	}
	b.ReportMetric(0, "ns/op")
}

// emptyRelease has hooks that do nothing.
func emptyRelease(name string) release {
	empty := "#!/bin/sh\nexit 0\n"
	return release{name: name, files: map[string]string{"hooks/stop.sh": empty, "hooks/start.sh": empty, "hooks/validate.sh": empty}}
}

// awaitSucceeded follows the status until a commit's deployment has succeeded on every host.
func awaitSucceeded(b testing.TB, client *status.Client, commit string) {
	b.Helper()
	awaitSucceededWithin(b, client, commit, patience)
}

func awaitSucceededWithin(b testing.TB, client *status.Client, commit string, limit time.Duration) {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	done := fmt.Errorf("done")
	var last string
	err := client.Follow(ctx, "", func(r status.Report) error {
		g, err := r.Find(website)
		if err != nil {
			return nil
		}
		last = g.State + ": " + g.Why
		if g.State != "Succeeded" || g.Running.Commit != commit {
			return nil
		}
		for _, h := range g.Hosts {
			if h.Health != "healthy" || h.Revision != commit {
				return nil
			}
		}
		return done
	})
	if err != done {
		b.Fatalf("commit %s did not succeed: %v; last seen: %s", commit, err, last)
	}
}

// BenchmarkAgentMemory prints the peak resident memory of an idle agent and of one that deploys a bundle of 256 MiB, as the kernel counts it.
func BenchmarkAgentMemory(b *testing.B) {
	for range b.N {
		f := newFleet(b, fleetOptions{hosts: 5, voters: 3})
		f.deploy(emptyRelease("small"), "")
		client := status.NewClient(f.hosts[0].socket)
		awaitSucceeded(b, client, f.git.run(f.git.work, "rev-parse", "HEAD"))
		b.ReportMetric(f.peakMemory(b), "MiB-idle")
		big := emptyRelease("big")
		big.size = 256 << 20
		f.deploy(big, "deploymentConfigName: CodeDeployDefault.AllAtOnce\n")
		awaitSucceeded(b, client, f.git.run(f.git.work, "rev-parse", "HEAD"))
		b.ReportMetric(f.peakMemory(b), "MiB-256MiB-bundle")
	}
	b.ReportMetric(0, "ns/op")
}

// hugeMost is how much memory a bundle of 4 GiB may take, in MiB.
const hugeMost = 128

// BenchmarkHugeBundle prints the peak resident memory of packing and pushing a bundle of HUGE_GIB (4 by default), and of agents that fetch it, serve it to each other and
// deploy it, and fails where one takes more than hugeMost. It takes five times as much room on the disk.
func BenchmarkHugeBundle(b *testing.B) {
	if os.Getenv("GITOPSD_SOAK") == "" {
		b.Skip("takes minutes and 20 GiB: set GITOPSD_SOAK=1")
	}
	gib := 4
	if text := os.Getenv("HUGE_GIB"); text != "" {
		var err error
		if gib, err = strconv.Atoi(text); err != nil {
			b.Fatal(err)
		}
	}
	for n := range b.N {
		f := newFleet(b, fleetOptions{hosts: 2, voters: 1})
		f.deploy(emptyRelease("small"), "")
		client := status.NewClient(f.hosts[0].socket)
		awaitSucceeded(b, client, f.git.run(f.git.work, "rev-parse", "HEAD"))
		dir := f.build(emptyRelease("huge"))
		fill(b, filepath.Join(dir, "content"), gib<<30, n)
		revision, peak := f.measured(b, "bundle", "push", dir, "s3://"+s3Bucket+"/website/huge.tar.zst", "--endpoint", f.s3.url, "--path-style", "--region", "us-east-1",
			"--credentials-file", f.s3.credentials)
		b.ReportMetric(peak, "MiB-push")
		if peak > hugeMost {
			b.Errorf("packing and pushing takes %.0f MiB, at most %d are allowed", peak, hugeMost)
		}
		if err := os.RemoveAll(dir); err != nil {
			b.Fatal(err)
		}
		begin := time.Now()
		f.commitRevision(revision, "deploymentConfigName: CodeDeployDefault.AllAtOnce\n", "huge")
		awaitSucceededWithin(b, client, f.git.run(f.git.work, "rev-parse", "HEAD"), 20*time.Minute)
		b.ReportMetric(time.Since(begin).Seconds(), "s-to-healthy")
		agent := f.peakMemory(b)
		b.ReportMetric(agent, "MiB-agent")
		if agent > hugeMost {
			b.Errorf("fetching, serving and deploying takes %.0f MiB, at most %d are allowed", agent, hugeMost)
		}
	}
	b.ReportMetric(0, "ns/op")
}

// fill writes files of 64 MiB that no encoder makes smaller.
func fill(b *testing.B, dir string, size int, seed int) {
	b.Helper()
	var key [32]byte
	key[0] = byte(seed + 1)
	source := rand.NewChaCha8(key)
	const each = 64 << 20
	for i := range size / each {
		file, err := os.Create(filepath.Join(dir, fmt.Sprintf("part-%03d", i)))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.CopyN(file, source, each); err != nil {
			b.Fatal(err)
		}
		if err := file.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// measured runs gitopsd and returns its output and peak resident memory, in MiB. It looks while that runs: what wait(2) tells counts the process that it was forked
// from as well.
func (f *fleet) measured(b *testing.B, args ...string) (out string, peak float64) {
	b.Helper()
	cmd := exec.Command(binary, args...)
	var text, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &text, &errs
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for {
		select {
		case err := <-done:
			if err != nil {
				b.Fatalf("gitopsd %v: %v\n%s", args, err, errs.String())
			}
			return text.String(), peak
		case <-look.C:
			if now, err := peakOf(cmd.Process.Pid); err == nil { // it may have ended
				peak = max(peak, now)
			}
		}
	}
}

// peakMemory is the largest peak of the agents, in MiB.
func (f *fleet) peakMemory(b *testing.B) float64 {
	b.Helper()
	most := 0.0
	for _, h := range f.hosts {
		peak, err := peakOf(h.process.cmd.Process.Pid)
		if err != nil {
			b.Fatal(err)
		}
		most = max(most, peak)
	}
	return most
}

// peakOf is a process's VmHWM in MiB.
func peakOf(pid int) (float64, error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "VmHWM:" {
			kib, err := strconv.ParseFloat(fields[1], 64)
			return kib / 1024, err
		}
	}
	return 0, fmt.Errorf("process %d has no VmHWM", pid)
}
