package store

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/gitopsd/gitopsd/internal/durable"
)

// refusing marks the process in which the kernel refuses what the test names.
const refusing = "GITOPSD_TEST_REFUSING"

// A sandbox (seccomp(2)) may refuse sync_file_range with EPERM or ENOSYS. That is no error of the disk: nothing that was copied counts as lost, and the sync at the end does it.
func TestReuseWhereSyncFileRangeIsRefused(t *testing.T) {
	if inAProcess(t) {
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

// inAProcess runs the test in a process of its own, which it may spoil; false says that this is it.
func inAProcess(t *testing.T) bool {
	t.Helper()
	if os.Getenv(refusing) != "" {
		return false
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.count=1")
	cmd.Env = append(os.Environ(), refusing+"=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	return true
}

// A bad sector is found like a changed one: the bundle is suspect, and all that can still be read of it stays. It answered every read with an error, for ever.
func TestABadSector(t *testing.T) {
	if inAProcess(t) {
		return
	}
	archive, ref := sample(t, 1)
	lost := 3
	unpacked, read := open(t, Options{Dir: t.TempDir(), KeepFree: -1}), open(t, Options{Dir: t.TempDir(), KeepFree: -1})
	fetchAll(t, unpacked, archive, ref)
	fetchAll(t, read, archive, ref)
	badSector(t, uint32(ref.Index.Piece(lost).Offset)+1)
	if err := unpacked.Unpack(t.Context(), ref.Digest, t.TempDir()); !errors.Is(err, ErrMismatch) || !errors.Is(err, unix.EIO) {
		t.Errorf("unpacked: %v", err)
	}
	b, _ := read.Lookup(ref.Digest)
	if _, err := b.ReadPiece(lost-1, nil); err != nil {
		t.Errorf("the piece before: %v", err)
	}
	if _, err := b.ReadPiece(lost, nil); !errors.Is(err, ErrMismatch) || !errors.Is(err, unix.EIO) || len(read.Suspects()) != 1 {
		t.Errorf("read: %v; suspects %v", err, read.Suspects())
	}
	if err := read.Recheck(t.Context(), ref.Digest); !errors.Is(err, ErrMismatch) {
		t.Errorf("rechecked: %v", err)
	}
	for _, s := range []*Store{unpacked, read} {
		p := begin(t, s, ref)
		if p.Missing() != 1 || p.Have().Has(lost) {
			t.Errorf("%d pieces are missing", p.Missing())
		}
		writeAll(t, p, archive, ref)
		if err := p.Finish(t.Context(), true); !errors.Is(err, ErrMismatch) || p.Missing() != 1 { // this disk has no sector in reserve
			t.Errorf("finished: %v, %d missing", err, p.Missing())
		}
		writeAll(t, p, archive, ref)
		if _, err := p.Read(lost, nil); !errors.Is(err, ErrMismatch) || p.Missing() != 1 {
			t.Errorf("read from the partial: %v, %d missing", err, p.Missing())
		}
	}
}

// Where this process may open no more files, or has no memory, nothing is taken for damaged.
func TestOpenWithoutDescriptors(t *testing.T) {
	if inAProcess(t) {
		return
	}
	dir, all := t.TempDir(), 40
	s := open(t, Options{Dir: dir, KeepFree: -1})
	for seed := range all {
		_, ref := sample(t, byte(seed))
		begin(t, s, ref)
	}
	s.Close()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	few := limit
	few.Cur = uint64(all)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{Dir: dir, KeepFree: -1}); !errors.Is(err, unix.EMFILE) {
		t.Errorf("with %d descriptors: %v", few.Cur, err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	s = open(t, Options{Dir: dir, KeepFree: -1})
	if left := len(s.partials); left != all {
		t.Errorf("%d of %d bundles are left", left, all)
	}
}

// A bundle that rotted and cannot be opened just now, after it was moved to where partials are, is not forgotten: what is good of it would be fetched again.
func TestRecheckWithoutDescriptors(t *testing.T) {
	if inAProcess(t) {
		return
	}
	archive, ref := sample(t, 1)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	armed := false
	s := open(t, Options{Dir: t.TempDir(), KeepFree: -1, Disk: &durable.Disk{Hook: func(op durable.Op) error {
		if none := (unix.Rlimit{Cur: 1, Max: limit.Max}); armed && op.Kind == "rename" {
			return unix.Setrlimit(unix.RLIMIT_NOFILE, &none)
		}
		return nil
	}}})
	fetchAll(t, s, archive, ref)
	b, _ := s.Lookup(ref.Digest)
	archive[ref.Index.Piece(3).Offset] ^= 1
	if err := os.WriteFile(b.Path, archive, 0o600); err != nil {
		t.Fatal(err)
	}
	armed = true
	err := s.Recheck(t.Context(), ref.Digest)
	armed = false
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(err, ErrMismatch) || !errors.Is(err, unix.EMFILE) || len(s.Suspects()) != 1 {
		t.Errorf("rechecked: %v; suspects %v", err, s.Suspects())
	}
	if err := s.Recheck(t.Context(), ref.Digest); !errors.Is(err, ErrMismatch) {
		t.Errorf("rechecked again: %v", err)
	}
	if p := begin(t, s, ref); p.Missing() != 1 {
		t.Errorf("%d pieces are missing", p.Missing())
	}
}

// badSector lets every pread(2) over the byte at this offset fail, of whichever file.
func badSector(t *testing.T, at uint32) {
	t.Helper()
	const count, offset = 16 + 8*2, 16 + 8*3 // in seccomp_data; the lower half of each, where bytes go from low to high
	filtered(t, []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_PREAD64, Jf: 7},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset},
		{Code: unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K, K: at, Jt: 5},
		{Code: unix.BPF_MISC | unix.BPF_TAX},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: count},
		{Code: unix.BPF_ALU | unix.BPF_ADD | unix.BPF_X},
		{Code: unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K, K: at, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EIO)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	})
}

// refuse lets the kernel answer a system call of this process with an error from now on.
func refuse(t *testing.T, call uint32, answer unix.Errno) {
	t.Helper()
	filtered(t, []unix.SockFilter{ // of seccomp_data, whose first word is the call's number
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: call, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(answer)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	})
}

// filtered puts a filter of seccomp(2) before all system calls of this process.
func filtered(t *testing.T, filter []unix.SockFilter) {
	t.Helper()
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
