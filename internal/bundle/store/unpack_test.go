package store

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/gitopsd/gitopsd/internal/bundle"
)

type member struct {
	tar.Header
	data string
}

func tgz(t testing.TB, members ...member) string {
	t.Helper()
	var out bytes.Buffer
	zipped := gzip.NewWriter(&out)
	w := tar.NewWriter(zipped)
	for _, m := range members {
		h := m.Header
		h.Size = int64(len(m.data))
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(m.data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), zipped.Close()); err != nil {
		t.Fatal(err)
	}
	return writeTemp(t, out.Bytes())
}

func writeTemp(t testing.TB, data []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "archive")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func unpack(t testing.TB, file string, kind bundle.Type) string {
	t.Helper()
	dest := filepath.Join(t.TempDir(), "dest")
	removeAtEnd(t, dest)
	if err := UnpackArchive(context.Background(), file, kind, dest, UnpackOptions{KeepFree: -1}); err != nil {
		t.Fatal(err)
	}
	return dest
}

// removeAtEnd helps an ordinary user's test out of directories that it may not write to.
func removeAtEnd(t testing.TB, dir string) {
	t.Cleanup(func() {
		if err := RemoveTree(dir); err != nil {
			t.Error(err)
		}
	})
}

func mustRead(t testing.TB, parts ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(parts...))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestTarKeepsModesTimesLinksAndOwners(t *testing.T) {
	when := time.Unix(86400, 0)
	dir := time.Unix(172800, 0)
	dest := unpack(t, tgz(t,
		member{Header: tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o700}},
		member{Header: tar.Header{Name: "./closed", Typeflag: tar.TypeDir, Mode: 0o2550, ModTime: dir}},
		member{Header: tar.Header{Name: "./closed/f", Mode: 0o4750, ModTime: when, Uid: 65534, Gid: 65534}, data: "one"},
		member{Header: tar.Header{Name: "implied/deep/g", Mode: 0o640, ModTime: when}, data: "two"},
		member{Header: tar.Header{Name: "hard", Typeflag: tar.TypeLink, Linkname: "./closed/f"}},
		member{Header: tar.Header{Name: "soft", Typeflag: tar.TypeSymlink, Linkname: "/nowhere/at/all"}},
		member{Header: tar.Header{Name: "odd \xff\n name"}, data: "odd"},
	), bundle.TypeTgz)
	info, err := os.Lstat(filepath.Join(dest, "closed/f"))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != 0o750|fs.ModeSetuid || !info.ModTime().Equal(when) {
		t.Errorf("file has %s, %s", info.Mode(), info.ModTime())
	}
	if os.Geteuid() == 0 {
		if uid, gid := ownerOf(t, filepath.Join(dest, "closed/f")); uid != 65534 || gid != 65534 {
			t.Errorf("root unpacks a tar with owner %d:%d", uid, gid)
		}
	}
	if info, err = os.Lstat(filepath.Join(dest, "closed")); err != nil || info.Mode() != fs.ModeDir|0o550|fs.ModeSetgid || !info.ModTime().Equal(dir) {
		t.Errorf("directory has %v (%v)", info.Mode(), err)
	}
	if info, err = os.Lstat(filepath.Join(dest, "implied")); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("implied directory has %v (%v)", info.Mode(), err)
	}
	if link, err := os.Readlink(filepath.Join(dest, "soft")); err != nil || link != "/nowhere/at/all" {
		t.Errorf("link to %q (%v)", link, err)
	}
	if mustRead(t, dest, "hard") != "one" || mustRead(t, dest, "odd \xff\n name") != "odd" || mustRead(t, dest, "implied/deep/g") != "two" {
		t.Error("other content")
	}
}

func TestZipKeepsModesButNeitherOwnersNorSetuid(t *testing.T) {
	var out bytes.Buffer
	w := zip.NewWriter(&out)
	add := func(name string, mode fs.FileMode, data string) {
		h := &zip.FileHeader{Name: name, Method: zip.Deflate, Modified: time.Unix(86400, 0)}
		if mode != 0 {
			h.SetMode(mode)
		}
		f, err := w.CreateHeader(h)
		if err == nil {
			_, err = f.Write([]byte(data))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	add("suid", 0o750|fs.ModeSetuid, "x")
	add("plain", 0, "made up")
	add("d/", fs.ModeDir|0o711, "")
	add("d/link", fs.ModeSymlink|0o777, "../suid")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	dest := unpack(t, writeTemp(t, out.Bytes()), bundle.TypeZip)
	for name, want := range map[string]fs.FileMode{"suid": 0o750, "plain": 0o644, "d": fs.ModeDir | 0o711} {
		info, err := os.Lstat(filepath.Join(dest, name))
		if err != nil || info.Mode() != want {
			t.Errorf("%s has %v, want %v (%v)", name, info.Mode(), want, err)
		}
		if name == "suid" && !info.ModTime().Equal(time.Unix(86400, 0)) {
			t.Errorf("time is %s", info.ModTime())
		}
	}
	if got := mustRead(t, dest, "d/link"); got != "x" {
		t.Errorf("link leads to %q", got)
	}
}

func TestTopFolderIsStrippedAsTheAgentDoes(t *testing.T) {
	cases := []struct {
		name  string
		names []string
		want  string // must exist afterwards
	}{
		{"github", []string{"repo-abc/appspec.yml", "repo-abc/f"}, "f"},
		{"any case, anywhere in the name", []string{"repo/my-AppSpec.txt", "repo/f"}, "f"},
		{"no appspec", []string{"repo/f"}, "repo/f"},
		{"two entries", []string{"repo/appspec.yml", "other"}, "repo/appspec.yml"},
		{"one file", []string{"appspec.yml"}, "appspec.yml"},
		{"child of the same name", []string{"a/appspec.yml", "a/a/f"}, "a/f"},
		{"only one level", []string{"a/b/appspec.yml"}, "a/b/appspec.yml"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var members []member
			for _, name := range c.names {
				members = append(members, member{Header: tar.Header{Name: name}, data: name})
			}
			top, _, _ := strings.Cut(c.names[0], "/")
			if top != c.names[0] {
				members = append(members, member{Header: tar.Header{Name: top + "/", Typeflag: tar.TypeDir, Mode: 0o700}})
			}
			dest := unpack(t, tgz(t, members...), bundle.TypeTgz)
			if _, err := os.Lstat(filepath.Join(dest, c.want)); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestHostileArchivesLeaveNothing(t *testing.T) {
	big := strings.Repeat("x", 1<<20)
	cases := map[string][]member{
		"climbs out":           {{Header: tar.Header{Name: "ok"}, data: big}, {Header: tar.Header{Name: "../evil"}, data: "x"}},
		"absolute name":        {{Header: tar.Header{Name: "/etc/evil"}, data: "x"}},
		"lies below":           {{Header: tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/tmp"}}, {Header: tar.Header{Name: "l/evil"}, data: "x"}},
		"outside of the":       {{Header: tar.Header{Name: "d/l", Typeflag: tar.TypeSymlink, Linkname: "../../etc"}}},
		"no earlier file":      {{Header: tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "etc/passwd"}}},
		"is a device":          {{Header: tar.Header{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}}},
		"is a named pipe":      {{Header: tar.Header{Name: "p", Typeflag: tar.TypeFifo}}},
		"two entries named":    {{Header: tar.Header{Name: "a"}, data: "1"}, {Header: tar.Header{Name: "./a"}, data: "2"}},
		"climbs out with \"..": {{Header: tar.Header{Name: "h"}, data: "1"}, {Header: tar.Header{Name: "i", Typeflag: tar.TypeLink, Linkname: "../../etc/passwd"}}},
	}
	for want, members := range cases {
		dest := filepath.Join(t.TempDir(), "dest")
		err := UnpackArchive(t.Context(), tgz(t, members...), bundle.TypeTgz, dest, UnpackOptions{KeepFree: -1})
		if !errors.Is(err, bundle.ErrRefused) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
		if _, err := os.Lstat(dest); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: something is left", want)
		}
	}
}

// A link's text may stay inside of the archive while its way does not.
func TestLinksThatClimbOutByOtherLinks(t *testing.T) {
	link := func(name, target string) member {
		return member{Header: tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target}}
	}
	file := func(name string) member { return member{Header: tar.Header{Name: name}, data: "x"} }
	maze := []member{file("d/f")}
	for i := range 41 {
		maze = append(maze, link(fmt.Sprintf("l%d", i), fmt.Sprintf("./l%d/../d", i+1)))
	}
	cases := map[string]struct {
		members []member
		refused bool
	}{
		"by a link that is known":    {[]member{file("a/b/f"), link("a/b/up", "../.."), link("a/b/x", "up/../etc")}, true},
		"by one that comes later":    {[]member{link("a/b/x", "up/.."), link("a/b/up", "../.."), file("a/b/f")}, true},
		"by two":                     {[]member{link("a/b/x", "one/.."), link("a/b/one", "two"), link("a/b/two", "../..")}, true},
		"by the folder stripped":     {[]member{file("top/appspec.yml"), link("top/x", "../y")}, true},
		"out of one that is kept":    {[]member{file("top/appspec.yml"), file("y"), link("top/x", "../y")}, false},
		"up and down":                {[]member{file("a/f"), link("b/x", "../a/../a/f")}, false},
		"by a link that stays":       {[]member{file("a/b/f"), link("l", "a/b"), link("x", "l/../b/f")}, false},
		"by one that is absolute":    {[]member{link("l", "/srv/shared/lib"), link("x", "l/../other")}, false},
		"inside what is stripped":    {[]member{file("top/appspec.yml"), file("top/a/f"), link("top/b/x", "../a/f")}, false},
		"through a file that is not": {[]member{link("x", "none/../y")}, false},
		"in a maze":                  {maze, false},
	}
	for name, c := range cases {
		dest := filepath.Join(t.TempDir(), "dest")
		err := UnpackArchive(t.Context(), tgz(t, c.members...), bundle.TypeTgz, dest, UnpackOptions{KeepFree: -1})
		if c.refused != errors.Is(err, bundle.ErrRefused) || !c.refused && err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Lstat(dest); c.refused != errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: what is left is wrong: %v", name, err)
		}
	}
}

func TestUnpackIntoAFullDirectoryIsRefused(t *testing.T) {
	dest := t.TempDir()
	if err := os.WriteFile(filepath.Join(dest, "mine"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	file := tgz(t, member{Header: tar.Header{Name: "a"}, data: "1"})
	if err := UnpackArchive(t.Context(), file, bundle.TypeTgz, dest, UnpackOptions{}); err == nil || !strings.Contains(err.Error(), "is not empty") {
		t.Errorf("got %v", err)
	}
	if err := UnpackArchive(t.Context(), file, bundle.TypeTgz, filepath.Join(t.TempDir(), "d"), UnpackOptions{KeepFree: 1 << 60}); !errors.Is(err, ErrNoSpace) {
		t.Errorf("no room: %v", err)
	}
	empty := t.TempDir()
	bad := tgz(t, member{Header: tar.Header{Name: "d/a"}, data: "1"}, member{Header: tar.Header{Name: "/b"}})
	if err := UnpackArchive(t.Context(), bad, bundle.TypeTgz, empty, UnpackOptions{}); err == nil {
		t.Error("accepted")
	}
	if entries, err := os.ReadDir(empty); err != nil || len(entries) > 0 {
		t.Errorf("a directory that was there is left with %v (%v)", entries, err)
	}
}

func TestParallelPackMakesTheSameBytes(t *testing.T) {
	tree := fstest.MapFS{}
	for i := range byte(8) {
		tree[string('a'+rune(i))+"/data"] = &fstest.MapFile{Data: noise(i, 1<<20), Mode: 0o644}
	}
	var one, many bytes.Buffer
	if _, _, err := bundle.Pack(&one, tree, bundle.PackOptions{}); err != nil {
		t.Fatal(err)
	}
	x, digest, err := Pack(t.Context(), &many, tree, bundle.PackOptions{}, 4)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one.Bytes(), many.Bytes()) || digest != bundle.DigestBytes(one.Bytes()) || x.ArchiveSize() != int64(one.Len()) {
		t.Error("the bytes depend on the number of workers")
	}
	tree["a/data"] = &fstest.MapFile{Data: noise(99, 1<<20), Mode: 0o644}
	tree["b/data"] = &fstest.MapFile{Data: noise(98, 1<<20), Mode: 0o644}
	before := bundle.PackOptions{Previous: &bundle.Previous{Index: x, Archive: bytes.NewReader(one.Bytes())}}
	var next, alone bytes.Buffer
	y, _, err := bundle.Pack(&next, tree, before)
	if err != nil {
		t.Fatal(err)
	}
	if z, _, err := bundle.Pack(&alone, tree, bundle.PackOptions{}); err != nil || y.Len() < z.Len()+10 {
		t.Fatalf("%d frames: hardly anything is in parts (%v)", y.Len(), err)
	}
	for _, workers := range []int{1, 4, 64} {
		var parallel bytes.Buffer
		if _, _, err := Pack(t.Context(), &parallel, tree, before, workers); err != nil || !bytes.Equal(next.Bytes(), parallel.Bytes()) {
			t.Errorf("with a previous bundle and %d workers the bytes are others (%v)", workers, err)
		}
	}
	if _, _, err := Pack(t.Context(), failingWriter{}, tree, bundle.PackOptions{}, 4); err == nil {
		t.Error("a failing writer is not noticed")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := Pack(ctx, &many, tree, bundle.PackOptions{}, 4); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errors.New("full") }

// TestUnpackNoticesBytesThatChanged also where the archive has no checksums of its own, and leaves nothing behind.
// TestUnpackNoticesBytesThatChanged changes every byte of an archive of each kind: whatever its own checksums cover, and whatever error the change leads to, it is
// the disk's fault and nothing is left.
func TestUnpackNoticesBytesThatChanged(t *testing.T) {
	var plain, zipped bytes.Buffer
	w, z := tar.NewWriter(&plain), zip.NewWriter(&zipped)
	for _, name := range []string{"f", "folder/g"} {
		entry, err := z.Create(name)
		if err == nil {
			_, err = entry.Write([]byte("good"))
		}
		if err = errors.Join(err, w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: 4})); err == nil {
			_, err = w.Write([]byte("good"))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	encoder, err := zstd.NewWriter(nil)
	if err = errors.Join(err, w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	var gzipped bytes.Buffer
	g := gzip.NewWriter(&gzipped)
	if _, err := g.Write(plain.Bytes()); err != nil || g.Close() != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		data []byte
		kind bundle.Type
	}{
		"tar":     {plain.Bytes(), bundle.TypeTar},
		"tgz":     {gzipped.Bytes(), bundle.TypeTgz},
		"zip":     {zipped.Bytes(), bundle.TypeZip},
		"tar.zst": {encoder.EncodeAll(plain.Bytes(), nil), bundle.TypeTarZst},
	} {
		want := UnpackOptions{Digest: bundle.DigestBytes(c.data)}
		if err := UnpackArchive(t.Context(), writeTemp(t, c.data), c.kind, filepath.Join(t.TempDir(), "out"), want); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		out := filepath.Join(t.TempDir(), "changed")
		for at := 0; at < len(c.data); at += max(1, len(c.data)/300) {
			changed := bytes.Clone(c.data)
			changed[at] ^= 0x10
			if err := UnpackArchive(t.Context(), writeTemp(t, changed), c.kind, out, want); !errors.Is(err, ErrMismatch) {
				t.Errorf("%s with byte %d changed: %v", name, at, err)
			}
			if _, err := os.Stat(out); !errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("%s with byte %d changed: something is left: %v", name, at, err)
			}
		}
	}
}
