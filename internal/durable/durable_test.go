package durable

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestWriteFileIsOldOrNewAtEveryCut(t *testing.T) {
	for _, tear := range []bool{false, true} {
		for n := 1; ; n++ {
			dir := t.TempDir()
			path := filepath.Join(dir, "f")
			if err := WriteFile(path, []byte("old"), 0o600); err != nil {
				t.Fatal(err)
			}
			faults := &Faults{}
			faults.CutAt(n, tear)
			disk := &Disk{Hook: faults.Hook}
			err := disk.WriteFile(path, []byte("newer"), 0o640)
			got, _ := os.ReadFile(path)
			if string(got) != "old" && string(got) != "newer" {
				t.Fatalf("cut at %d: content %q", n, got)
			}
			if !faults.Cut() {
				if err != nil || string(got) != "newer" {
					t.Fatalf("without a cut: %q, %v", got, err)
				}
				break
			}
			if !errors.Is(err, ErrCut) {
				t.Fatalf("cut at %d: error %v", n, err)
			}
		}
	}
}

// Replace waits for nothing; SyncFile makes up for it.
func TestReplaceDoesNotSync(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	var kinds []string
	disk := &Disk{Hook: func(op Op) error { kinds = append(kinds, op.Kind); return nil }}
	for _, text := range []string{"old", "new"} {
		if err := disk.Replace(path, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	got, _ := os.ReadFile(path)
	info, err := os.Stat(path)
	if err != nil || string(got) != "new" || info.Mode().Perm() != 0o640 {
		t.Errorf("%q, %v, %v", got, info.Mode(), err)
	}
	if slices.Contains(kinds, "sync") || slices.Contains(kinds, "syncdir") {
		t.Errorf("it syncs: %q", kinds)
	}
	kinds = nil
	if err := disk.SyncFile(path); err != nil || !slices.Equal(kinds, []string{"sync"}) {
		t.Errorf("%q, %v", kinds, err)
	}
	faults := &Faults{}
	faults.FailAt(1, os.ErrPermission)
	if err := (&Disk{Hook: faults.Hook}).SyncFile(path); !errors.Is(err, os.ErrPermission) {
		t.Errorf("a disk that fails: %v", err)
	}
	if err := SyncFile(path + "x"); err == nil {
		t.Error("a file that is not there is synced")
	}
}

func TestWriteFileLeavesNoTemporaryOnError(t *testing.T) {
	full := errors.New("disk full")
	for n := 1; n <= 5; n++ {
		dir := t.TempDir()
		faults := &Faults{}
		faults.FailAt(n, full)
		err := (&Disk{Hook: faults.Hook}).WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o600)
		if !errors.Is(err, full) {
			t.Fatalf("operation %d: error %v", n, err)
		}
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if IsTemp(e.Name()) {
				t.Errorf("operation %d left %s", n, e.Name())
			}
		}
	}
}

func TestWriteFilePermIsExact(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := WriteFile(path, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o666 {
		t.Fatalf("%v %v", info.Mode(), err)
	}
}

func TestMkdirAllRenameRemove(t *testing.T) {
	dir := t.TempDir()
	a := filepath.Join(dir, "a", "b", "c")
	for range 2 {
		if err := MkdirAll(a, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := WriteFile(filepath.Join(a, "f"), []byte("1"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := MkdirAll(filepath.Join(a, "f"), 0o755); err == nil {
		t.Error("a file in the way is no error")
	}
	if err := Rename(filepath.Join(a, "f"), filepath.Join(dir, "g")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Remove(filepath.Join(dir, "g")); err != nil {
			t.Fatal(err)
		}
	}
	if err := SyncFS(dir); err != nil {
		t.Fatal(err)
	}
}

func TestLockExcludes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(path); !errors.Is(err, ErrLocked) {
		t.Fatalf("second lock: %v", err)
	}
	unlock()
	unlock()
	again, err := Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	again()
}

func openLog(t testing.TB, path string) (*Log, [][]byte) {
	t.Helper()
	l, records, err := OpenLog(path, 1<<10)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, records
}

func TestLogKeepsRecords(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l, records := openLog(t, path)
	if len(records) != 0 {
		t.Fatal(records)
	}
	for i := range 5 {
		if err := l.Append(fmt.Appendf(nil, "record %d", i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Append(nil); err == nil {
		t.Error("an empty record was taken")
	}
	if err := l.Append(make([]byte, 1<<10+1)); err == nil {
		t.Error("a record over the bound was taken")
	}
	l, records = openLog(t, path)
	if len(records) != 5 || string(records[4]) != "record 4" {
		t.Fatalf("%q", records)
	}
	if err := l.Reset(); err != nil {
		t.Fatal(err)
	}
	if _, records = openLog(t, path); len(records) != 0 {
		t.Fatalf("after Reset: %q", records)
	}
}

// Each record acknowledged before the cut is there afterwards, nothing else is
// but perhaps the one in flight, and the log goes on.
func TestLogSurvivesEveryCut(t *testing.T) {
	for _, tear := range []bool{false, true} {
		for n := 1; ; n++ {
			path := filepath.Join(t.TempDir(), "log")
			faults := &Faults{}
			faults.CutAt(n, tear)
			acked := 0
			l, _, err := (&Disk{Hook: faults.Hook}).OpenLog(path, 64)
			if err == nil {
				for ; acked < 3; acked++ {
					if err = l.Append(fmt.Appendf(nil, "record %d", acked)); err != nil {
						break
					}
				}
				if err != nil && l.Append([]byte("more")) == nil {
					t.Fatal("a broken log took a record")
				}
				l.Close()
			}
			after, records := openLog(t, path)
			if len(records) < acked || len(records) > acked+1 {
				t.Fatalf("cut at %d: %d acknowledged, %d there", n, acked, len(records))
			}
			if err := after.Append([]byte("next")); err != nil {
				t.Fatal(err)
			}
			if _, records = openLog(t, path); string(records[len(records)-1]) != "next" {
				t.Fatalf("cut at %d: %q", n, records)
			}
			if !faults.Cut() {
				break
			}
		}
	}
}

func TestLogDamage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l, _ := openLog(t, path)
	for range 3 {
		if err := l.Append([]byte("0123456789")); err != nil {
			t.Fatal(err)
		}
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for at := range whole {
		data := bytes.Clone(whole)
		data[at] ^= 0x41
		records, _, err := decodeLog(data, 1<<10)
		last := len(whole) - 18
		switch {
		case at < last && err == nil:
			t.Errorf("damage at %d was not noticed: %d records", at, len(records))
		case at >= last && (err != nil || len(records) != 2):
			t.Errorf("damage at %d in the last record: %d records, %v", at, len(records), err)
		}
	}
	for end := logHeaderSize; end < len(whole); end++ {
		if records, _, err := decodeLog(whole[:end], 1<<10); err != nil || len(records) != (end-logHeaderSize)/18 {
			t.Errorf("cut at %d: %d records, %v", end, len(records), err)
		}
	}
	if _, _, err := decodeLog(append([]byte(logMagic), 9), 10); err == nil {
		t.Error("an unknown version was read")
	}
}

func TestReadLogLeavesTheFileAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l, _ := openLog(t, path)
	if err := l.Append([]byte("x")); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.Write([]byte{1, 2, 3})
	f.Close()
	before, _ := os.ReadFile(path)
	records, err := ReadLog(path, 10)
	after, _ := os.ReadFile(path)
	if err != nil || len(records) != 1 || !bytes.Equal(before, after) {
		t.Fatal(records, err)
	}
}

func TestLogProperty(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		want := rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 1, 40), 0, 8).Draw(rt, "records")
		path := filepath.Join(t.TempDir(), "log")
		l, _, err := OpenLog(path, 40)
		if err != nil {
			rt.Fatal(err)
		}
		defer l.Close()
		for _, r := range want {
			if err := l.Append(r); err != nil {
				rt.Fatal(err)
			}
		}
		data, err := os.ReadFile(path)
		if err != nil {
			rt.Fatal(err)
		}
		got, end, err := decodeLog(data, 40)
		if err != nil || end != int64(len(data)) || len(got) != len(want) {
			rt.Fatal(got, end, err)
		}
		for i := range want {
			if !bytes.Equal(got[i], want[i]) {
				rt.Fatalf("record %d: %x, want %x", i, got[i], want[i])
			}
		}
	})
}

func FuzzDecodeLog(f *testing.F) {
	f.Add(logHeader())
	f.Add(append(logHeader(), 1, 0, 0, 0, 0, 0, 0, 0, 'x'))
	f.Fuzz(func(t *testing.T, data []byte) {
		records, end, err := decodeLog(data, 64)
		if err != nil {
			return
		}
		if end > int64(len(data)) {
			t.Fatal("end past the data")
		}
		again, end2, err := decodeLog(data[:end], 64)
		if err != nil || end2 != end || len(again) != len(records) {
			t.Fatal("what was kept does not read back")
		}
	})
}
