package durable

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func openSlots(t testing.TB, path string) (*Slots, string) {
	t.Helper()
	s, value, err := OpenSlots(path, 100)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, string(value)
}

func TestSlotsKeepTheNewestValue(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	s, value := openSlots(t, path)
	if value != "" {
		t.Errorf("a new file holds %q", value)
	}
	for i := range 5 {
		want := fmt.Sprintf("value %d", i)
		if err := s.Write([]byte(want)); err != nil {
			t.Fatal(err)
		}
		if _, value := openSlots(t, path); value != want {
			t.Errorf("%q, want %q", value, want)
		}
	}
	big := bytes.Repeat([]byte("x"), 3*slotMin)
	if err := s.Write(big); err != nil {
		t.Fatal(err)
	}
	if err := s.Write(append(big, 'y')); err != nil {
		t.Fatal(err)
	}
	if _, value := openSlots(t, path); value != string(big)+"y" {
		t.Errorf("%d bytes after growing", len(value))
	}
	if err := s.Write(make([]byte, slotMax)); err == nil {
		t.Error("a value over the bound was taken")
	}
}

func TestSlotsTakeOverAPlainFile(t *testing.T) {
	for _, plain := range []string{"", "the old way", string(bytes.Repeat([]byte{1, 2, 3}, 100_000))} {
		path := filepath.Join(t.TempDir(), "state")
		if err := WriteFile(path, []byte(plain), 0o600); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if _, value := openSlots(t, path); value != plain {
				t.Errorf("%d bytes, want %d", len(value), len(plain))
			}
		}
	}
}

// After a cut at any operation the acknowledged value or the one in flight is
// there, from taking over a plain file on.
// TestReadSlotsOnlyLooks: also while somebody else has the file open, and it makes none.
func TestReadSlotsOnlyLooks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	if _, err := ReadSlots(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of nothing: %v", err)
	}
	if _, err := os.Lstat(path); err == nil {
		t.Error("it was made")
	}
	s, _ := openSlots(t, path)
	for _, value := range []string{"one", "two"} {
		if err := s.Write([]byte(value)); err != nil {
			t.Fatal(err)
		}
		if got, err := ReadSlots(path); err != nil || string(got) != value {
			t.Errorf("%q, %v; want %q", got, err, value)
		}
	}
	damaged := append([]byte(slotsMagic+"\x01"), make([]byte, slotsBlock)...)
	if err := os.WriteFile(path, damaged, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadSlots(path); !errors.Is(err, ErrCorrupt) {
		t.Errorf("of a damaged one: %v", err)
	}
}

func TestSlotsSurviveEveryCut(t *testing.T) {
	for _, tear := range []bool{false, true} {
		for n := 1; ; n++ {
			path := filepath.Join(t.TempDir(), "state")
			if err := os.WriteFile(path, []byte("value 0"), 0o600); err != nil {
				t.Fatal(err)
			}
			faults := &Faults{}
			faults.CutAt(n, tear)
			acked := 0
			s, _, err := (&Disk{Hook: faults.Hook}).OpenSlots(path, 10)
			for ; err == nil && acked < 4; acked++ {
				if err = s.Write(fmt.Appendf(nil, "value %d", acked+1)); err != nil {
					break
				}
			}
			if s != nil {
				s.Close()
			}
			after, value := openSlots(t, path)
			if value != fmt.Sprintf("value %d", acked) && value != fmt.Sprintf("value %d", acked+1) {
				t.Fatalf("cut at %d: %d acknowledged, %q there", n, acked, value)
			}
			if err := after.Write([]byte("next")); err != nil {
				t.Fatal(err)
			}
			if _, value = openSlots(t, path); value != "next" {
				t.Fatalf("cut at %d: %q", n, value)
			}
			if !faults.Cut() {
				break
			}
		}
	}
}

func TestSlotsGoOnAfterAFailure(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	faults := &Faults{}
	s, _, err := (&Disk{Hook: faults.Hook}).OpenSlots(path, 10)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for at := range 2 { // of the write, of the sync
		if err := s.Write([]byte("before")); err != nil {
			t.Fatal(err)
		}
		faults.FailAt(faults.Count()+1+at, syscall.ENOSPC)
		if err := s.Write([]byte("lost")); !IsFull(err) {
			t.Fatal(err)
		}
		if err := s.Write([]byte("after")); err != nil {
			t.Fatal(err)
		}
		if _, value := openSlots(t, path); value != "after" {
			t.Error(value)
		}
	}
}

func TestSlotsDamage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	s, _ := openSlots(t, path)
	for _, v := range []string{"one", "two"} {
		if err := s.Write([]byte(v)); err != nil {
			t.Fatal(err)
		}
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	damaged := func(offsets ...int64) ([]byte, error) {
		data := bytes.Clone(whole)
		for _, at := range offsets {
			data[at] ^= 0x41
		}
		value, _, _, _, err := decodeSlots(data)
		return value, err
	}
	first, second := slotsBlock+int64(slotHeader), slotsBlock+s.size+slotHeader
	if value, err := damaged(first); err != nil || string(value) != "one" {
		t.Errorf("the newest is damaged: %q %v", value, err)
	}
	if value, err := damaged(second); err != nil || string(value) != "two" {
		t.Errorf("the oldest is damaged: %q %v", value, err)
	}
	if _, err := damaged(first, second); !errors.Is(err, ErrCorrupt) {
		t.Errorf("both are damaged: %v", err)
	}
	if _, err := damaged(9); !errors.Is(err, ErrCorrupt) {
		t.Errorf("the size is damaged: %v", err)
	}
	if _, err := damaged(7); err == nil {
		t.Error("an unknown version was read")
	}
}

// onTinyDisk mounts a disk of one MiB and returns its directory.
func onTinyDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip("a full disk needs the right to mount one:", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func fill(t *testing.T, dir string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "fill"), make([]byte, 2<<20), 0o600); !IsFull(err) {
		t.Fatalf("the disk is not full: %v", err)
	}
}

func TestFullDiskTakesWhatHasItsPlace(t *testing.T) {
	dir := onTinyDisk(t)
	s, _ := openSlots(t, filepath.Join(dir, "state"))
	l, _ := openLog(t, filepath.Join(dir, "log"))
	if err := l.Reserve(64 << 10); err != nil {
		t.Fatal(err)
	}
	fill(t, dir)
	if err := WriteFile(filepath.Join(dir, "other"), make([]byte, 8<<10), 0o600); !IsFull(err) {
		t.Fatalf("the disk is not full: %v", err)
	}
	for i := range 20 {
		if err := s.Write(fmt.Appendf(nil, "value %d", i)); err != nil {
			t.Fatal(err)
		}
		if err := l.Append(bytes.Repeat([]byte("x"), 1<<10)); err != nil {
			t.Fatal(err)
		}
	}
	if _, value := openSlots(t, filepath.Join(dir, "state")); value != "value 19" {
		t.Error(value)
	}
	if _, records := openLog(t, filepath.Join(dir, "log")); len(records) != 20 {
		t.Errorf("%d records", len(records))
	}
	if err := s.Write(make([]byte, 128<<10)); !IsFull(err) {
		t.Errorf("growing on a full disk: %v", err)
	}
	if err := s.Write([]byte("and on")); err != nil {
		t.Error(err)
	}
}

// What a log reserved and did not use goes back, on file systems that make no holes beyond a file's end too.
func TestTrimGivesBackWhatWasReserved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l, _ := openLog(t, path)
	taken := func() int64 {
		t.Helper()
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Sys().(*syscall.Stat_t).Blocks * 512
	}
	record := bytes.Repeat([]byte("x"), 1<<10)
	if err := errors.Join(l.Append(record), l.Reserve(256<<10)); err != nil {
		t.Fatal(err)
	}
	if taken() < 256<<10 {
		t.Skip("nothing can be reserved here")
	}
	if err := l.Append(record); err != nil {
		t.Fatal(err)
	}
	if l.Trim(); taken() > 64<<10 {
		t.Errorf("%d bytes are still taken", taken())
	}
	if err := l.Append(record); err != nil {
		t.Fatal(err)
	}
	if _, records := openLog(t, path); len(records) != 3 {
		t.Errorf("%d records", len(records))
	}
}

func FuzzDecodeSlots(f *testing.F) {
	data := make([]byte, slotsBlock+2*slotMin)
	copy(data, slotsMagic+"\x01\x00\x00\x01\x00")
	copy(data[slotsBlock:], encodeSlot(1, []byte("value")))
	f.Add(data)
	f.Add([]byte("plain"))
	f.Fuzz(func(t *testing.T, data []byte) {
		value, size, _, newer, err := decodeSlots(data)
		if err == nil && (int64(len(value)) > size || newer > 1) {
			t.Fatal("a value larger than its slot")
		}
	})
}
