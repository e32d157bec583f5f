package agent

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/gitopsd/gitopsd/internal/desired"
	"github.com/gitopsd/gitopsd/internal/status"
	"github.com/gitopsd/gitopsd/internal/swarm"
)

func TestTheSwarmHasItsSitesFromTheCommit(t *testing.T) {
	links := map[string]int64{"dc2": 1 << 20}
	w := &world{State: &desired.State{
		Fleet: desired.Fleet{Sites: map[string]desired.Site{"dc1": {Origin: "own"}, "dc2": {Origin: "shared"}, "dc3": {Origin: "shared", Links: links}}},
		Hosts: map[desired.HostName]desired.Host{"web-1": {Site: "dc1"}, "web-2": {Site: "dc2"}, "web-3": {Site: "dc3"}, "web-4": {Site: "dc4"}, "web-5": {}},
	}}
	for host, want := range map[string]swarm.Site{
		"web-1": {Name: "dc1", Own: true}, "web-2": {Name: "dc2"}, "web-3": {Name: "dc3", Links: links},
		"web-4": {Name: "dc4"}, // fleet.yaml lists no sites, or cannot be read
		"web-5": {}, "web-6": {},
	} {
		if got := siteOf(w, host); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, want %+v", host, got, want)
		}
	}
	if got := siteOf(nil, "web-1"); !reflect.DeepEqual(got, swarm.Site{}) {
		t.Errorf("before there is a commit: %+v", got)
	}
	if desired.LinkRateMin != swarm.LinkMin {
		t.Errorf("fleet.yaml takes links of %d bytes a second, the swarm can do with %d", desired.LinkRateMin, swarm.LinkMin)
	}
}

// TestSitesDecideHowOftenTheOriginIsRead counts what three agents read of their origin, before and after a commit that moves a host to another site.
func TestSitesDecideHowOftenTheOriginIsRead(t *testing.T) {
	f := newTestFleet(t, "web-1", "web-2", "web-3")
	defer f.end()
	place := func(sites string, of map[string]string) {
		files := []string{"fleet.yaml", "name: test\nsites: " + sites + "\n"}
		for host, site := range of {
			files = append(files, "hosts/"+host+".yaml", f.inventory[host]+"site: "+site+"\n")
		}
		f.origin.commit(files...)
	}
	place("{dc1: {origin: own}, dc2: {origin: own}}", map[string]string{"web-1": "dc1", "web-2": "dc1", "web-3": "dc2"})
	for _, h := range f.hosts {
		h.start()
	}
	f.copies("one", 2)
	place("{dc1: {origin: own}, dc2: {origin: own}}", map[string]string{"web-3": "dc1"})
	f.copies("two", 1)
	f.whereTheBundleIs(map[string]string{"web-1": "dc1", "web-2": "dc1", "web-3": "dc1"})
	place("{dc1: {}, dc2: {links: {dc1: 1MiB/s}}}", map[string]string{"web-3": "dc2"})
	f.copies("three", 1)
}

// copies deploys a release and says how often it left the origin.
func (f *testFleet) copies(name string, want int64) {
	f.t.Helper()
	revision := f.release(name, "")
	commit := f.deploy(revision, "deploymentConfigName: CodeDeployDefault.AllAtOnce\n")
	for _, h := range f.hosts {
		if a := h.await(commit); a.Code != 0 {
			f.t.Fatalf("release %s: %+v", name, a)
		}
	}
	var size, origin int64
	if _, err := fmt.Sscanf(revision[strings.LastIndex(revision, "size: "):], "size: %d", &size); err != nil {
		f.t.Fatal(err)
	}
	until(f.t, func() string {
		report, err := status.NewClient(f.hosts[0].config.Socket).Report(context.Background(), "website")
		if err != nil {
			return err.Error()
		}
		origin = 0
		for _, h := range report.Groups[0].Hosts {
			if origin += h.BytesFromOrigin; h.BytesFromOrigin+h.BytesFromPeers == 0 {
				return h.Name + "'s bytes of release " + name
			}
		}
		return ""
	})
	if origin != want*size {
		f.t.Errorf("release %s of %d bytes: %d left the origin, %d copies should have", name, size, origin, want)
	}
}
