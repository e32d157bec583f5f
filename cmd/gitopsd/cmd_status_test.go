package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/gitopsd/gitopsd/internal/status"
)

// TestNoFieldSteersTheTerminal: what status and why print comes from commits, hooks and other hosts.
func TestNoFieldSteersTheTerminal(t *testing.T) {
	const evil = "\x1b]0;owned\a\x1b[2J\n! Forged"
	notice := status.Notice{Kind: evil, Host: evil, Subject: "", Message: evil}
	event := status.Event{Event: evil, Status: "Failed", Diagnostics: &status.Diagnostics{ScriptName: evil, Message: evil, LogTail: "\x1b[2J"}}
	group := status.Group{Group: evil, ID: evil, State: evil, Why: "why " + evil, Hosts: []status.Host{{Name: evil, Reason: evil, Events: []status.Event{event}}},
		Failures: []status.Failure{{Deployment: evil, Host: evil, Event: event}}}
	var shown, explained bytes.Buffer
	if err := printReport(&shown, "table", status.Report{Notices: []status.Notice{notice}, Groups: []status.Group{group}}); err != nil {
		t.Fatal(err)
	}
	if err := printWhy(&explained, group, []status.Notice{notice}); err != nil {
		t.Fatal(err)
	}
	for verb, text := range map[string]string{"status": shown.String(), "why": explained.String()} {
		if strings.ContainsAny(text, "\x1b\a") || strings.Contains(text, "\n! Forged") {
			t.Errorf("%s prints %q", verb, text)
		}
	}
}
