package status

import (
	"context"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

var update = flag.Bool("update", false, "rewrite the files in testdata")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// golden compares text with a file of testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; run with -update and read the change\ngot:\n%s\nwant:\n%s", file, got, want)
	}
}

// fakeSource answers from memory.
type fakeSource struct {
	mu      sync.Mutex
	report  Report
	history History
	bundle  Distribution
	awaited Awaited
	logs    string
	err     error // of every question
	ready   error
	asked   []string
	ops     []Operation
	changed chan struct{}
	reads   chan struct{} // told of every read, if not nil
}

func (f *fakeSource) note(what string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, what)
	return f.err
}

// set changes the answers and tells.
func (f *fakeSource) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
	if f.changed != nil {
		close(f.changed)
		f.changed = nil
	}
}

func (f *fakeSource) Report(_ context.Context, name string) (Report, error) {
	if err := f.note("report " + name); err != nil {
		return Report{}, err
	}
	f.mu.Lock()
	report := f.report
	f.mu.Unlock()
	if f.reads != nil {
		f.reads <- struct{}{}
	}
	if name == "" {
		return report, nil
	}
	g, err := report.Find(name)
	report.Groups = []Group{g}
	return report, err
}

func (f *fakeSource) History(_ context.Context, name string) (History, error) {
	err := f.note("history " + name)
	return f.history, err
}

func (f *fakeSource) Bundle(_ context.Context, digest string) (Distribution, error) {
	err := f.note("bundle " + digest)
	return f.bundle, err
}

func (f *fakeSource) Logs(_ context.Context, q LogQuery, w io.Writer) error {
	if err := f.note("logs " + q.Group + " " + q.Host + " " + q.Deployment + " " + q.Event); err != nil {
		return err
	}
	if _, err := io.WriteString(w, f.logs); err != nil {
		return err
	}
	if f.logs == "cut" {
		return errors.New("the disk is gone")
	}
	return nil
}

func (f *fakeSource) Wait(_ context.Context, name, commit string) (Awaited, error) {
	err := f.note("wait " + name + " " + commit)
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.awaited, err
}

func (f *fakeSource) Operate(_ context.Context, op Operation) error {
	if err := f.note("operate " + op.Verb); err != nil {
		return err
	}
	f.ops = append(f.ops, op)
	return nil
}

func (f *fakeSource) Changed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.changed == nil {
		f.changed = make(chan struct{})
	}
	return f.changed
}

func (f *fakeSource) Ready() error { return f.ready }

// sample is a report with everything in it.
func sample() Report {
	return Report{
		APIVersion: APIVersion, Host: "web-1", Commit: "1111111111111111111111111111111111111111",
		Notices: []Notice{{Kind: "Unsigned", Host: "web-1", Subject: "shop", Message: "commit 2222 is not signed", Since: "2026-01-02T03:04:05Z"}},
		Groups: []Group{{
			Group: "shop/production/website", ID: "01JD3K9V8Q", Name: "website-production", Application: "website", State: "HeldBack",
			Why:         "N=3 m=2 B=1: web-2 failed ValidateService (exit 3), so no other host may be taken down",
			Desired:     Revision{Commit: "1111111111111111111111111111111111111111", SpecHash: "aaaa", Digest: "sha256:bbbb"},
			Running:     Revision{Commit: "3333333333333333333333333333333333333333", SpecHash: "cccc", Digest: "sha256:dddd"},
			Deployment:  &Deployment{ID: "d-ABCDEFGHI", Creator: "user", Status: "Failed", Wave: 1, Waves: 2, Reason: "too many failed", Leader: "web-3", Term: 7, RollbackOf: "d-AAAAAAAAA"},
			Quarantined: []string{"aaaa"},
			Failures:    []Failure{{Deployment: "d-ABCDEFGHI", Host: "web-2", Event: Event{Event: "ValidateService", Status: "Failed"}}},
			Hosts: []Host{
				{Name: "web-1", Status: "Succeeded", Health: "healthy", Evidence: "all pass", Revision: "3333333333333333333333333333333333333333", Alive: "alive",
					Events: []Event{{Event: "ApplicationStop", Status: "Succeeded", StartTime: "2026-01-02T03:04:05Z", EndTime: "2026-01-02T03:04:06Z"}}, BytesFromOrigin: 1024, BytesFromPeers: 5 << 20},
				{Name: "web-2", Status: "Failed", Health: "unhealthy", Revision: "1111111111111111111111111111111111111111", Alive: "dead", Reason: "exit 3",
					Events: []Event{{Event: "ValidateService", Status: "Failed", Diagnostics: &Diagnostics{ErrorCode: "ScriptFailed", ScriptName: "hooks/validate.sh", Message: "it failed with exit code 3", LogTail: "one\ntwo\n"}}}},
				{Name: "web-3", Status: "Pending", Health: "unknown", Events: []Event{{Event: "Install", Status: "InProgress"}, {Event: "AfterInstall", Status: "Skipped"}}, BytesPerSecond: 3 << 20, ETASeconds: 75},
			},
		}},
	}
}

func sampleDistribution() Distribution {
	return Distribution{APIVersion: APIVersion, Host: "web-1", Digest: "sha256:bbbb", Groups: []string{"shop/production/website"}, Hosts: []BundleHost{
		{Name: "web-1", Site: "dc1", State: "complete", Pieces: 40, HavePieces: 40, Bytes: 10 << 20, HaveBytes: 10 << 20, Percent: 100, FromOrigin: 6 << 20, FromPeers: 3 << 20, Reused: 1 << 20, Peers: 2,
			Banned: []BannedPeer{}},
		{Name: "web-2", Site: "dc2", State: "fetching", Pieces: 40, HavePieces: 10, Bytes: 10 << 20, HaveBytes: 5 << 19, Percent: 25, FromPeers: 5 << 19, FromOtherSites: 1 << 19, BytesPerSecond: 1 << 20,
			ETASeconds: 8, Peers: 2, Banned: []BannedPeer{{Host: "web-3", Why: "piece 3 of bundle bbbb from web-3 is wrong"}}},
		{Name: "web-3", Banned: []BannedPeer{}, Error: "it is down"},
		{Name: "web-4", Banned: []BannedPeer{}},
	}}
}

func sampleHistory() History {
	return History{APIVersion: APIVersion, Group: "shop/production/website", Deployments: []Past{{
		ID: "d-ABCDEFGHI", Creator: "user", Commit: "1111111111111111111111111111111111111111", Signers: []string{"anna"}, SpecHash: "aaaa", Digest: "sha256:bbbb",
		Status: "Failed", StartTime: "2026-01-02T03:04:05Z", EndTime: "2026-01-02T03:05:05Z", RollbackOf: "d-AAAAAAAAA", Reason: "too many failed", Hosts: sample().Groups[0].Hosts[1:2],
	}}}
}
