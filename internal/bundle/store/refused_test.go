package store

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// refusing marks the process in which the kernel refuses what the test names.
const refusing = "GITOPSD_TEST_REFUSING"

// A sandbox (seccomp(2)) may refuse sync_file_range with EPERM or ENOSYS. That is no error of the disk: nothing that was copied counts as lost, and the sync at the end does it.
func TestReuseWhereSyncFileRangeIsRefused(t *testing.T) {
	if os.Getenv(refusing) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.count=1")
		cmd.Env = append(os.Environ(), refusing+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	first, firstRef := pack(t, largeTree(1))
	second, secondRef := pack(t, largeTree(2))
	s := open(t, Options{Dir: t.TempDir(), KeepFree: -1})
	fetchAll(t, s, first, firstRef)
	refuse(t, unix.SYS_SYNC_FILE_RANGE, unix.EPERM)
	if err := unix.SyncFileRange(0, 0, 0, 0); !errors.Is(err, unix.EPERM) {
		t.Fatalf("it is not refused: %v", err)
	}
	p := begin(t, s, secondRef)
	promised := p.Reusable().Count()
	if err := p.Reuse(t.Context(), func(int, int) {}); err != nil {
		t.Fatal(err)
	}
	if got := p.Have().Count(); got != promised || promised == 0 {
		t.Errorf("%d of %d pieces count as here", got, promised)
	}
	fetchAll(t, s, second, secondRef)
}

// refuse lets the kernel answer a system call of this process with an error from now on.
func refuse(t *testing.T, call uint32, answer unix.Errno) {
	t.Helper()
	filter := []unix.SockFilter{ // of seccomp_data, whose first word is the call's number
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: call, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(answer)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	runtime.LockOSThread() // no_new_privs is this thread's, and the filter goes to all of them
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	if _, _, err := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program))); err != 0 {
		t.Fatal(err)
	}
	runtime.KeepAlive(filter)
}
