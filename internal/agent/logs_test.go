package agent

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/internal/status"
)

// TestOutputThatRetentionRemovedIsSaidToBeGone: a deployment whose output is removed did leave some.
func TestOutputThatRetentionRemovedIsSaidToBeGone(t *testing.T) {
	d := newDisk(t)
	r := &reader{self: "web-1", applier: d.applier}
	logs := func(deployment, event string) string {
		var out bytes.Buffer
		if err := r.localLogs(t.Context(), status.LogQuery{Group: "g1", Deployment: deployment, Event: event}, &out); err != nil {
			return err.Error()
		}
		return out.String()
	}
	well := func(id, letter, spec string) {
		t.Helper()
		deployment := d.deploySpec(id, letter, spec)
		if err := d.applier.MarkGood(deployment.Key()); err != nil {
			t.Fatal(err)
		}
	}
	hooks := plainSpec + "hooks:\n  AfterInstall:\n    - {location: hook.sh}\n"
	well("d-1", "1", hooks)
	if got := logs("d-1", ""); !strings.Contains(got, "hello of 1") {
		t.Fatal(got)
	}
	if got := logs("d-1", "BeforeInstall"); !strings.Contains(got, "ran no hook of BeforeInstall") {
		t.Error(got)
	}
	well("d-2", "2", plainSpec)
	well("d-3", "3", hooks)
	d.kept.LogAge = time.Nanosecond
	well("d-4", "4", hooks)
	for deployment, want := range map[string]string{
		"d-1": "the hook output of deployment d-1 is no longer on web-1: old output is removed",
		"d-2": "no hook of deployment d-2 left output on web-1",
		"d-4": "hello of 4",
		"":    "hello of 4",
	} {
		if got := logs(deployment, ""); !strings.Contains(got, want) {
			t.Errorf("%q: %s, want %q", deployment, got, want)
		}
	}
	d.kept.LogAge = 0
	for n := range 4 { // whose releases push out those before
		well(fmt.Sprintf("d-1%d", n), fmt.Sprint(n), hooks)
	}
	if got := logs("d-1", ""); !strings.Contains(got, "there is no hook output of deployment d-1 on web-1: no hook was run, or its output was old and removed") {
		t.Error(got)
	}
	if got := logs("d-4", ""); !strings.Contains(got, "hello of 4") {
		t.Errorf("its release is gone, its output is not: %s", got)
	}
}

// TestOutputNamesTheDeploymentItIsOf: the newest here may be an older one than the group's, and may have gone back to an earlier revision.
func TestOutputNamesTheDeploymentItIsOf(t *testing.T) {
	d := newDisk(t)
	r := &reader{self: "web-1", applier: d.applier}
	logs := func(deployment, event string) string {
		t.Helper()
		var out bytes.Buffer
		if err := r.localLogs(t.Context(), status.LogQuery{Group: "g1", Deployment: deployment, Event: event}, &out); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	hooks := plainSpec + "hooks:\n  AfterInstall:\n    - {location: hook.sh}\n"
	for _, c := range []struct{ id, letter string }{{"d-1", "a"}, {"d-2", "b"}, {"d-3", "a"}} {
		d.deploySpec(c.id, c.letter, hooks)
		for _, event := range []string{"", "AfterInstall"} {
			if got := logs("", event); !strings.HasPrefix(got, "Deployment - "+c.id+"\nLifecycleEvent - AfterInstall\n") || strings.Count(got, "hello of "+c.letter) != 1 || strings.Count(got, "hello") != 1 {
				t.Errorf("after %s: %s", c.id, got)
			}
		}
	}
	if got := logs("d-2", ""); !strings.HasPrefix(got, "LifecycleEvent - ") || !strings.Contains(got, "hello of b") {
		t.Errorf("of one that was named: %s", got)
	}
}
