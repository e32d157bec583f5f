package e2e

import "testing"

func TestCommitDeploysAndRevertRollsBack(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{hosts: 5, voters: 3})
	f.deploy(release{name: "one", size: 4 << 20}, "deploymentConfigName: CodeDeployDefault.AllAtOnce\n")
	f.awaitRelease("one")
	second := f.deploy(release{name: "two", size: 4 << 20}, "deploymentConfigName: CodeDeployDefault.OneAtATime\n")
	f.awaitRelease("two")
	if code := f.hosts[4].wait(second); code != 0 {
		t.Errorf("wait for the second commit exits %d, want 0", code)
	}
	f.git.run(f.git.work, "revert", "--no-edit", "-S", "HEAD")
	reverted := f.git.push()
	f.awaitRelease("one")
	if code := f.hosts[0].wait(reverted); code != 0 {
		t.Errorf("wait for the revert exits %d, want 0", code)
	}
	f.assertOnce()
}
