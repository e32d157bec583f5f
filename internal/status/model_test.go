package status

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
)

// TestDocumentsKeepTheirKeys is the contract of `-o json`: keys are added, never renamed.
func TestDocumentsKeepTheirKeys(t *testing.T) {
	for name, document := range map[string]any{
		"status.json": sample(), "history.json": sampleHistory(), "wait.json": Awaited{Done: true, Code: 5, State: "HeldBack", Message: "why", Group: sample().Groups[0]},
		"empty.json": Report{APIVersion: APIVersion, Host: "web-1", Notices: []Notice{}, Groups: []Group{{Hosts: []Host{}}}},
	} {
		text, err := json.MarshalIndent(document, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		golden(t, name, string(text)+"\n")
	}
}

func TestFind(t *testing.T) {
	r := Report{Groups: []Group{
		{Group: "shop/production/website", ID: "g1", Name: "website"}, {Group: "shop/staging/website", ID: "g2", Name: "website"}, {Group: "shop/api", ID: "g3", Name: "api-production"},
	}}
	for name, want := range map[string]string{"shop/api": "g3", "g2": "g2", "api-production": "g3"} {
		if g, err := r.Find(name); err != nil || g.ID != want {
			t.Errorf("%s: %s %v", name, g.ID, err)
		}
	}
	byFolder := Report{Groups: append(r.Groups, Group{Group: "shop/production/intranet", ID: "g4", Name: "i"}, Group{Group: "other/api", ID: "g5", Name: "other"})}
	if g, err := byFolder.Find("intranet"); err != nil || g.ID != "g4" {
		t.Errorf("the last part of a folder: %s %v", g.ID, err)
	}
	if _, err := byFolder.Find("api"); err == nil || !strings.Contains(err.Error(), `2 groups have a folder named "api"`) {
		t.Errorf("the last part of two folders: %v", err)
	}
	for name, want := range map[string]string{
		"website": "2 groups are named", "shop/prodction/website": `did you mean "shop/production/website"?`, "api-prodution": `did you mean "api-production"?`, "zzz": "`gitopsd status` lists the groups", "shop/production/billing": "lists the groups", "": "lists the groups",
	} {
		_, err := r.Find(name)
		var unknown *UnknownGroupError
		if err == nil || !strings.Contains(err.Error(), want) || errors.As(err, &unknown) == (name == "website") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestStampAndShort(t *testing.T) {
	if got := Stamp(time.Time{}); got != "" {
		t.Error(got)
	}
	if got := Stamp(time.Date(2026, 1, 2, 3, 4, 5, 600, time.FixedZone("x", 3600))); got != "2026-01-02T02:04:05.0000006Z" {
		t.Error(got)
	}
	for in, want := range map[string]string{"": "-", "abc": "abc", "0123456789": "01234567", "sha256:0123456789": "01234567"} {
		if got := Short(in); got != want {
			t.Errorf("Short(%q) = %q", in, got)
		}
	}
	for in, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 10 << 20: "10 MiB", 3 << 30: "3.0 GiB", 1 << 62: "4194304 TiB"} {
		if got := Bytes(in); got != want {
			t.Errorf("Bytes(%d) = %q", in, got)
		}
	}
}
