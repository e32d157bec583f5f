package configrepo

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// memoryVerb makes the test binary act as a host whose peak of memory is told.
const memoryVerb = "host-for-memory-tests"

const peakFile = "CONFIGREPO_TEST_PEAK_FILE" // where the fetching process writes its peak

const (
	bigBlob   = 60 << 20  // bytes, incompressible
	agentPeak = 128 << 10 // KiB, what such a host may use
)

// A repository with a huge file costs disk and time, not memory: not when it is
// fetched, looked over, given to a peer, taken from one, nor rewritten as one pack.
func TestMemoryDoesNotFollowABlob(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector's own memory would be measured")
	}
	f := newFixture(t)
	noise := make([]byte, bigBlob)
	_, _ = rand.NewChaCha8([32]byte{}).Read(noise)
	f.commit(f.anna, "a film by mistake", "shop/production/film.bin", string(noise))
	tip := f.commit(f.anna, "next", "shop/production/g", "1")
	noise = nil
	for _, step := range []string{"sync", "inspect", "give", "take", "compact"} {
		peak, child := f.peakOf(step, tip)
		t.Logf("%-8s agent %d KiB, its fetching process %d KiB", step, peak, child)
		if peak > agentPeak {
			t.Errorf("%s: the agent took %d KiB, more than %d", step, peak, agentPeak)
		}
	}
}

// peakOf does one step in a process of its own and returns the most memory that
// it and its child had resident, in KiB.
func (f *fixture) peakOf(step, tip string) (self, child int64) {
	f.t.Helper()
	self, child, _ = f.runAsHost(step, tip)
	return self, child
}

// refusalOf lets a process of its own receive a pack that it must not accept, and
// returns the most memory that it had resident, in KiB, and what it said.
func (f *fixture) refusalOf(tip string) (self int64, said string) {
	f.t.Helper()
	self, _, said = f.runAsHost("refuse", tip)
	return self, said
}

func (f *fixture) runAsHost(step, tip string) (self, child int64, said string) {
	f.t.Helper()
	o := f.o
	o.Log = nil
	j, err := json.Marshal(memoryJob{Step: step, Tip: tip, Options: o, Scratch: f.src + ".pack"})
	if err != nil {
		f.t.Fatal(err)
	}
	childs := filepath.Join(f.t.TempDir(), "peak")
	cmd := exec.Command(os.Args[0], memoryVerb)
	cmd.Env = append(os.Environ(), peakFile+"="+childs)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(append(j, '\n')), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		f.t.Fatalf("%s: %v", step, err)
	}
	text, said, _ := strings.Cut(string(out), "\n")
	if self, err = strconv.ParseInt(text, 10, 64); err != nil {
		f.t.Fatalf("%s: %v", step, err)
	}
	if text, err := os.ReadFile(childs); err == nil {
		if child, err = strconv.ParseInt(string(text), 10, 64); err != nil {
			f.t.Fatal(err)
		}
	}
	return self, child, said
}

type memoryJob struct {
	Step, Tip, Scratch string
	Options            Options
}

// memoryMain is the body of memoryVerb.
func memoryMain() error {
	line, err := bufio.NewReader(os.Stdin).ReadBytes('\n')
	if err != nil {
		return err
	}
	var j memoryJob
	if err := json.Unmarshal(line, &j); err != nil {
		return err
	}
	j.Options.Child = testChild()
	said, err := j.do()
	if err != nil {
		return err
	}
	self, err := residentPeak()
	if err == nil {
		fmt.Printf("%d\n%s", self, said)
	}
	return err
}

// do is what one process of the host does.
func (j memoryJob) do() (said string, err error) {
	if j.Step == "take" {
		j.Options.Dir, j.Options.URLs = j.Options.Dir+"-taker", nil
	}
	r, err := New(j.Options)
	if err != nil {
		return "", err
	}
	switch j.Step {
	case "sync", "inspect":
		out, err := r.Sync(context.Background())
		if err != nil || out.Accepted.ID != j.Tip {
			return "", fmt.Errorf("accepted %s: %w", out.Accepted.ID, err)
		}
	case "give":
		f, err := os.Create(j.Scratch)
		if err != nil {
			return "", err
		}
		_, err = r.Pack("", f)
		return "", errors.Join(err, f.Close())
	case "take":
		f, err := os.Open(j.Scratch)
		if err != nil {
			return "", err
		}
		defer f.Close()
		out, err := r.Receive(context.Background(), f, j.Tip)
		if err != nil || out.Accepted.ID != j.Tip {
			return "", fmt.Errorf("accepted %s: %w", out.Accepted.ID, err)
		}
	case "refuse":
		f, err := os.Open(j.Scratch)
		if err != nil {
			return "", err
		}
		defer f.Close()
		out, err := r.Receive(context.Background(), f, j.Tip)
		switch {
		case err != nil:
			return err.Error(), nil
		case out.Refused == nil:
			return "", errors.New("nothing was refused")
		}
		return out.Refused.Sentence, nil
	case "compact":
		id, err := parseID(j.Tip)
		if err != nil {
			return "", err
		}
		r.o.Limits.Packs = 0
		return "", r.compact(id)
	}
	return "", nil
}

// residentPeak is VmHWM: unlike ru_maxrss it does not begin with what the parent had.
func residentPeak() (int64, error) {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(text), "VmHWM:")
	if f := strings.Fields(rest); ok && len(f) > 0 {
		return strconv.ParseInt(f[0], 10, 64)
	}
	return 0, errors.New("no VmHWM in /proc/self/status")
}

// tellPeak writes this process's peak to the file that peakFile names, if any.
func tellPeak() {
	if path := os.Getenv(peakFile); path != "" {
		if n, err := residentPeak(); err == nil {
			_ = os.WriteFile(path, []byte(strconv.FormatInt(n, 10)), 0o600)
		}
	}
}
