package apply

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/gitopsd/gitopsd/internal/apply/plan"
)

// labelled makes a file with a context, as a host with SELinux would; it skips
// the test where the kernel or the user may not do that.
func labelled(t *testing.T, context string) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if context == "" {
		return f
	}
	if err := unix.Fsetxattr(int(f.Fd()), xattrContext, []byte(context), 0); err != nil {
		t.Skipf("security.selinux cannot be set here: %v", err)
	}
	return f
}

// The type, and the user and range where they are given, go into the context that
// the policy gave the file; its role stays.
func TestContextIsWrittenIntoTheAttribute(t *testing.T) {
	for _, c := range []struct {
		set  plan.Context
		want string
	}{
		{plan.Context{Type: "httpd_sys_content_t"}, "system_u:object_r:httpd_sys_content_t:s0"},
		{plan.Context{User: "unconfined_u", Type: "bin_t", Range: "s0-s1:c0.c5,c7"}, "unconfined_u:object_r:bin_t:s0-s1:c0.c5,c7"},
	} {
		f := labelled(t, "system_u:object_r:default_t:s0\x00")
		if err := setAttr(int(f.Fd()), plan.Attr{Mode: 0o644, UID: -1, GID: -1, Context: &c.set}); err != nil {
			t.Fatal(err)
		}
		got, err := readXattr(f.Name(), xattrContext)
		if err != nil || strings.TrimRight(string(got), "\x00") != c.want {
			t.Errorf("%+v: the attribute is %q, %v; not %q", c.set, got, err, c.want)
		}
	}
}

// A file without a context, as on a file system that was never labelled, is
// refused with what is missing: there is no user and role to leave as they are.
func TestContextOfAnUnlabelledFile(t *testing.T) {
	f := labelled(t, "")
	if had, _ := readXattr(f.Name(), xattrContext); had != nil {
		t.Skip("files are labelled here")
	}
	err := setAttr(int(f.Fd()), plan.Attr{Mode: 0o644, UID: -1, GID: -1, Context: &plan.Context{Type: "bin_t"}})
	if err == nil || !strings.Contains(err.Error(), "cannot set the SELinux context") || !strings.Contains(err.Error(), "not user:role:type") {
		t.Errorf("setting it: %v", err)
	}
}

// On a host without SELinux the deployment is refused before anything is touched.
func TestContextNeedsSELinux(t *testing.T) {
	if newHost().SELinux() {
		t.Skip("this host runs SELinux")
	}
	w := newBench(t)
	a := w.applier()
	res := w.apply(a, w.deployment("d-1", w.bundle(map[string]string{
		"appspec.yml": plainSpec + "permissions: [{object: /app, pattern: '**', context: {type: bin_t, range: s0}}]\n", "a/f": "x",
	})))
	if res.Outcome != OutcomeFailed || res.Error == nil || !strings.Contains(res.Error.Message, "this host does not run SELinux") {
		t.Fatalf("%v %v", res.Outcome, res.Error)
	}
	if _, err := os.Lstat(filepath.Join(w.target, "app")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something was put in place: %v", err)
	}
}

// What Install sets on a directory that stays, undo takes back, its context too.
func TestUndoRestoresTheContext(t *testing.T) {
	const before = "system_u:object_r:var_t:s0"
	f := labelled(t, before+"\x00")
	dir := filepath.Dir(f.Name())
	if err := unix.Setxattr(dir, xattrContext, []byte(before+"\x00"), 0); err != nil {
		t.Skipf("security.selinux cannot be set here: %v", err)
	}
	old, err := readAttr(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := change(dir, plan.Attr{Mode: 0o755, UID: -1, GID: -1, Context: &plan.Context{User: "staff_u", Type: "bin_t", Range: "s1"}}); err != nil {
		t.Fatal(err)
	}
	if err := change(dir, old); err != nil {
		t.Fatal(err)
	}
	if got, err := readXattr(dir, xattrContext); err != nil || strings.TrimRight(string(got), "\x00") != before {
		t.Errorf("the context is %q, %v; it was %q", got, err, before)
	}
}
