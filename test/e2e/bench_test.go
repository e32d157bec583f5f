package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

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
	ctx, cancel := context.WithTimeout(context.Background(), patience)
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

// peakMemory is the largest VmHWM of the agents, in MiB.
func (f *fleet) peakMemory(b *testing.B) float64 {
	b.Helper()
	most := 0
	for _, h := range f.hosts {
		text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(h.process.cmd.Process.Pid), "status"))
		if err != nil {
			b.Fatal(err)
		}
		for _, line := range strings.Split(string(text), "\n") {
			if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "VmHWM:" {
				kib, err := strconv.Atoi(fields[1])
				if err != nil {
					b.Fatal(err)
				}
				most = max(most, kib)
			}
		}
	}
	return float64(most) / 1024
}
