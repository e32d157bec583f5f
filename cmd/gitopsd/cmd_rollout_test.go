package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

func runRollout(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := rolloutCommand()
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetArgs(args)
	err := cmd.Execute()
	return out.String(), err
}

func TestRolloutSimulateJSON(t *testing.T) {
	for _, flag := range []string{"type=FLEET_PERCENT,value=85", "Value=85,TYPE=fleet_percent", "VALUE=85, Type=FLEET_PERCENT"} {
		text, err := runRollout(t, "simulate", "--hosts", "10", "--minimum-healthy-hosts", flag, "--fail", "3", "-o", "json")
		if err != nil {
			t.Fatalf("%s: %v", flag, err)
		}
		var got map[string]any
		if err := json.Unmarshal([]byte(text), &got); err != nil {
			t.Fatal(err)
		}
		want := map[string]any{"status": "Failed", "minimumHealthy": 9.0, "window": 1.0, "attempted": 3.0, "succeeded": 2.0, "failed": 1.0, "skipped": 7.0}
		for k, v := range want {
			if got[k] != v {
				t.Errorf("%s: %s = %v, want %v", flag, k, got[k], v)
			}
		}
		if reason, _ := got["reason"].(string); !strings.HasPrefix(reason, "N=10 m=9 B=1: h3 failed") {
			t.Errorf("%s: reason %q", flag, reason)
		}
	}
}

func TestRolloutSimulateTable(t *testing.T) {
	text, err := runRollout(t, "simulate", "--hosts", "4", "--deployment-config", "CodeDeployDefault.HalfAtATime")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"STATUS", "Succeeded", "order: h1 h2 h3 h4", "N=4 m=2 B=2"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

func TestRolloutSimulateUsage(t *testing.T) {
	tests := [][]string{
		{"simulate"},
		{"simulate", "--hosts", "3", "-o", "xml"},
		{"simulate", "--hosts", "3", "--fail", "x"},
		{"simulate", "--hosts", "3", "--fail", "4"},
		{"simulate", "--hosts", "3", "--deployment-config", "Mine"},
		{"simulate", "--hosts", "3", "--deployment-config", "AllAtOnce", "--minimum-healthy-hosts", "type=HOST_COUNT,value=1"},
		{"simulate", "--hosts", "3", "--minimum-healthy-hosts", "type=HOST_COUNT"},
		{"simulate", "--hosts", "3", "--minimum-healthy-hosts", "type=FLEET_PERCENT,value=100"},
		{"simulate", "--hosts", "3", "--minimum-healthy-hosts", "type=HOST_COUNT,value=1,value=2"},
		{"simulate", "--hosts", "3", "--minimum-healthy-hosts", "type=MOST_CONCURRENCY,value=1"},
	}
	for _, args := range tests {
		_, err := runRollout(t, args...)
		var coded exitError
		if !errors.As(err, &coded) || coded.code != codeUsage {
			t.Errorf("%v: %v", args, err)
		}
	}
}
