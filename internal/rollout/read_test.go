package rollout

import "testing"

// A host counts as the deployment's from ApplicationStop on, but what lies on its disk is the new revision only once Install has ended.
func TestRevisionShownOfAFailedHost(t *testing.T) {
	t.Parallel()
	m := NewMachine()
	d := &deployment{Spec: specOf("b")}
	for _, c := range []struct {
		name    string
		running Spec
		events  []EventRecord
		want    string
	}{
		{"BeforeInstall failed", specOf("b"), []EventRecord{{Event: "BeforeInstall", Status: "Failed"}, {Event: "Install", Status: "Skipped"}}, ""},
		{"Install failed, and was undone", specOf("b"), []EventRecord{{Event: "Install", Status: "Failed"}}, ""},
		{"ValidateService failed", specOf("b"), []EventRecord{{Event: "Install", Status: "Succeeded"}, {Event: "ValidateService", Status: "Failed"}}, "commit-b"},
		{"the agent started again, and said what lies there", specOf("a"), []EventRecord{{Event: "Install", Status: "Skipped"}}, "commit-a"},
		{"nothing is known of Install", specOf("b"), nil, "commit-b"},
	} {
		g := &group{Hosts: []*host{{Name: "h1", Known: true, Running: c.running}}}
		if v := m.hostView(g, d, &row{Host: "h1", Status: rowFailed, Events: c.events}, "h1"); v.Revision != c.want || v.Status != "Failed" {
			t.Errorf("%s: %+v", c.name, v)
		}
	}
}
