package appspec

import (
	"reflect"
	"strings"
	"testing"
)

func TestOrderOfEachKind(t *testing.T) {
	install := "ApplicationStop DownloadBundle BeforeInstall Install AfterInstall ApplicationStart ValidateService"
	block := "BeforeBlockTraffic BlockTraffic AfterBlockTraffic"
	allow := "BeforeAllowTraffic AllowTraffic AfterAllowTraffic"
	want := map[Kind]string{
		InPlace:                      install,
		InPlaceWithLoadBalancer:      block + " " + install + " " + allow,
		BlueGreenReplacement:         install + " " + allow,
		BlueGreenOriginal:            block,
		BlueGreenRollbackOriginal:    allow,
		BlueGreenRollbackReplacement: block,
		Launch:                       install + " " + allow,
		Termination:                  block + " ApplicationStop",
	}
	if len(want) != len(Kinds()) {
		t.Fatalf("%d kinds, the table has %d", len(Kinds()), len(want))
	}
	for _, kind := range Kinds() {
		var names []string
		for _, e := range Order(kind) {
			names = append(names, string(e))
		}
		if got := strings.Join(names, " "); got != want[kind] {
			t.Errorf("%s: %s, want %s", kind, got, want[kind])
		}
	}
	if Order("sideways") != nil {
		t.Error("an unknown kind has an order")
	}
}

func TestOrdersDoNotShareMemory(t *testing.T) {
	for _, kind := range Kinds() {
		first := Order(kind)
		want := append([]Event(nil), first...)
		for i := range first {
			first[i] = "spoiled"
		}
		if got := Order(kind); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v after a caller changed its copy", kind, got)
		}
	}
}

func TestWhichRevisionServesAnEvent(t *testing.T) {
	rows := []struct {
		event          Event
		usual, rolling Revision
	}{
		{BeforeBlockTraffic, LastSuccessfulRevision, MostRecentRevision},
		{AfterBlockTraffic, LastSuccessfulRevision, MostRecentRevision},
		{ApplicationStop, LastSuccessfulRevision, LastSuccessfulRevision},
		{BeforeInstall, CurrentRevision, CurrentRevision},
		{AfterInstall, CurrentRevision, CurrentRevision},
		{ApplicationStart, CurrentRevision, CurrentRevision},
		{ValidateService, CurrentRevision, CurrentRevision},
		{BeforeAllowTraffic, CurrentRevision, LastSuccessfulRevision},
		{AfterAllowTraffic, CurrentRevision, LastSuccessfulRevision},
	}
	for _, row := range rows {
		for _, kind := range Kinds() {
			want := row.usual
			if strings.Contains(string(kind), "rollback") {
				want = row.rolling
			}
			if got := row.event.From(kind); got != want {
				t.Errorf("%s in %s: from %s, want %s", row.event, kind, got, want)
			}
		}
		if got := row.event.FromPrevious(); got != (row.usual == LastSuccessfulRevision) {
			t.Errorf("%s: FromPrevious is %v", row.event, got)
		}
	}
}

func TestScriptableEvents(t *testing.T) {
	reserved := map[Event]bool{BlockTraffic: true, AllowTraffic: true, DownloadBundle: true, Install: true}
	for _, e := range Events() {
		if !e.Known() || e.Scriptable() == reserved[e] {
			t.Errorf("%s: known %v, scriptable %v", e, e.Known(), e.Scriptable())
		}
	}
	if Event("AfterLunch").Own() || !Install.Own() || !AllowTraffic.Own() || ApplicationStop.Own() {
		t.Error("an event belongs to the deployment that does not, or the other way round")
	}
	if Event("AfterLunch").Known() || Event("afterinstall").Scriptable() {
		t.Error("an unknown event is known")
	}
}
