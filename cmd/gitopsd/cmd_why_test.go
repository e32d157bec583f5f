package main

import (
	"strings"
	"testing"

	"github.com/gitopsd/gitopsd/internal/status"
)

// TestWhySaysEachThingOnce: every host of a group with a wrong digest has the same to say, and it is long.
func TestWhySaysEachThingOnce(t *testing.T) {
	advice := "s3://b/k has sha256:aa, the commit says sha256:bb; correct the revision with `gitopsd bundle push --group` and commit"
	fetch := "cannot fetch bundle bb yet: "
	failed := status.Event{Event: "AfterInstall", Status: "Failed", Diagnostics: &status.Diagnostics{ScriptName: "x.sh", Message: "exit 3", LogTail: "the licence says: no\n"}}
	other := failed
	other.Diagnostics = &status.Diagnostics{ScriptName: "x.sh", Message: "exit 3", LogTail: "the disk says: no\n"}
	g := status.Group{Group: "shop/web", ID: "01WEB", State: "Queued", Why: "web-1, web-2 cannot get the bundle: " + fetch + advice,
		Hosts: []status.Host{
			{Name: "web-1", Reason: fetch + advice, Events: []status.Event{failed}},
			{Name: "web-2", Reason: fetch + "web-1 says: " + advice, Events: []status.Event{failed}},
			{Name: "web-3", Reason: fetch + "web-1 says: " + advice, Events: []status.Event{other}},
			{Name: "web-4", Reason: "disk full"}, {Name: "web-5", Reason: "disk full"},
		}}
	notices := []status.Notice{{Kind: "JournalDamaged", Subject: "01WEB", Message: "of this group"}, {Kind: "Unsigned", Message: "once"}, {Kind: "Unsigned", Host: "web-2", Message: "once"},
		{Kind: "JournalDamaged", Subject: "01OTHER", Message: "of another"}}
	var out strings.Builder
	if err := printWhy(&out, g, notices); err != nil {
		t.Fatal(err)
	}
	want := "shop/web is Queued. " + g.Why + "\n" +
		"web-3: the same\nweb-4, web-5: disk full\n" +
		"web-1, web-2: AfterInstall x.sh: exit 3\n    the licence says: no\nweb-3: AfterInstall x.sh: exit 3\n    the disk says: no\n" +
		"notice JournalDamaged: of this group\nnotice Unsigned: once\n"
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}
