package bundle

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

// member is one entry of a test archive.
type member struct {
	name string
	kind byte // tar type flag
	link string
	data string
	mode int64
}

func makeTar(t testing.TB, members ...member) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, m := range members {
		h := &tar.Header{Name: m.name, Typeflag: m.kind, Linkname: m.link, Size: int64(len(m.data)), Mode: m.mode}
		if m.kind == 0 {
			h.Typeflag = tar.TypeReg
		}
		if m.kind == tar.TypeXGlobalHeader {
			h = &tar.Header{Typeflag: m.kind, PAXRecords: map[string]string{"comment": "c0ffee"}}
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(m.data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func gzipped(t testing.TB, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func makeZip(t testing.TB, members ...member) []byte {
	t.Helper()
	var out bytes.Buffer
	w := zip.NewWriter(&out)
	for _, m := range members {
		h := &zip.FileHeader{Name: m.name, Method: zip.Deflate, Modified: time.Unix(1e9, 0)}
		h.SetMode(0o640)
		if m.kind == tar.TypeSymlink {
			h.SetMode(fs.ModeSymlink | 0o777)
		}
		f, err := w.CreateHeader(h)
		if err == nil {
			_, err = f.Write([]byte(m.data))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// list walks an archive, reads everything, and returns "type name" lines.
func list(data []byte, kind Type, o Options) ([]string, error) {
	var out []string
	err := Walk(bytes.NewReader(data), int64(len(data)), kind, o, func(e *Entry) error {
		line := e.Type.String() + " " + e.Name
		if e.Link != "" {
			line += " -> " + e.Link
		}
		if e.Type == File {
			content, err := io.ReadAll(e.Content)
			if err != nil {
				return err
			}
			if int64(len(content)) != e.Size {
				return fmt.Errorf("%s has %d bytes, said %d", e.Name, len(content), e.Size)
			}
			line += " " + string(content[:min(len(content), 8)])
		}
		out = append(out, line)
		return nil
	})
	return out, err
}

func TestNamesAreCleanedAndKept(t *testing.T) {
	data := makeTar(t,
		member{name: "pax", kind: tar.TypeXGlobalHeader},
		member{name: "./", kind: tar.TypeDir},
		member{name: "./a//b/./c", data: "1"},
		member{name: "a/", kind: tar.TypeDir},
		member{name: "a/", kind: tar.TypeDir},
		member{name: "a/b/hard", kind: tar.TypeLink, link: "./a//b/c"},
		member{name: "a/soft", kind: tar.TypeSymlink, link: "../x/../y"},
		member{name: "a/out", kind: tar.TypeSymlink, link: "/nowhere"},
		member{name: "\xff odd\n..name", data: "2"},
	)
	want := "file a/b/c 1|directory a|directory a|hard link a/b/hard -> a/b/c|symbolic link a/soft -> ../x/../y|symbolic link a/out -> /nowhere|file \xff odd\n..name 2"
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer encoder.Close()
	for kind, archive := range map[Type][]byte{TypeTar: data, TypeTgz: gzipped(t, data), TypeTarZst: encoder.EncodeAll(data, nil)} {
		// Like tar, we look at the bytes: the three names mean the same.
		for _, named := range []Type{kind, TypeTar, TypeTarZst} {
			got, err := list(archive, named, Options{})
			if err != nil || strings.Join(got, "|") != want {
				t.Errorf("%s read as %s: %v\n%q", kind, named, err, got)
			}
		}
	}
	got, err := list(makeZip(t, member{name: "d/"}, member{name: "./d//f", data: "1"}, member{name: "l", kind: tar.TypeSymlink, data: "d/f"}), TypeZip, Options{})
	if err != nil || strings.Join(got, "|") != "directory d|file d/f 1|symbolic link l -> d/f" {
		t.Errorf("zip: %v %q", err, got)
	}
}

func TestRefusals(t *testing.T) {
	long := strings.Repeat("n", 256)
	cases := []struct {
		want    string
		members []member
		o       Options
	}{
		{"climbs out with", []member{{name: "a/../../b", data: "x"}}, Options{}},
		{"climbs out with", []member{{name: "a/..", kind: tar.TypeDir}}, Options{}},
		{"absolute name", []member{{name: "/a", data: "x"}}, Options{}},
		{"component of 256", []member{{name: "d/" + long, data: "x"}}, Options{}},
		{"too long", []member{{name: strings.Repeat("a/", 2100) + "f", data: "x"}}, Options{}},
		{"256 directories deep", []member{{name: strings.Repeat("a/", 256) + "f", data: "x"}, {name: strings.Repeat("a/", 257) + "f", data: "x"}}, Options{}},
		{"archive's root, but is a file", []member{{name: "./.", data: "x"}}, Options{}},
		{"two entries named \"a\"", []member{{name: "a", data: "x"}, {name: "a", data: "y"}}, Options{}},
		{"two entries named \"a\"", []member{{name: "a/b", data: "x"}, {name: "a", data: "y"}}, Options{}},
		{"two entries named \"a\"", []member{{name: "a", kind: tar.TypeDir}, {name: "a", kind: tar.TypeSymlink, link: "b"}}, Options{}},
		{"lies below \"a\", which is a file", []member{{name: "a", data: "x"}, {name: "a/b", data: "y"}}, Options{}},
		{"which is a symbolic link", []member{{name: "a", kind: tar.TypeSymlink, link: "b"}, {name: "a/c/d", data: "y"}}, Options{}},
		{"no earlier file", []member{{name: "h", kind: tar.TypeLink, link: "later"}, {name: "later", data: "x"}}, Options{}},
		{"no earlier file", []member{{name: "s", kind: tar.TypeSymlink, link: "/etc/passwd"}, {name: "h", kind: tar.TypeLink, link: "s"}}, Options{}},
		{"absolute name", []member{{name: "h", kind: tar.TypeLink, link: "/etc/passwd"}}, Options{}},
		{"outside of the archive", []member{{name: "d/s", kind: tar.TypeSymlink, link: "../.."}}, Options{}},
		{"outside of the archive", []member{{name: "s", kind: tar.TypeSymlink, link: "/etc"}}, Options{Links: LinksInside}},
		{"impossible target", []member{{name: "s", kind: tar.TypeSymlink}}, Options{}},
		{"is a device", []member{{name: "d", kind: tar.TypeBlock}}, Options{}},
		{"named pipe", []member{{name: "p", kind: tar.TypeFifo}}, Options{}},
		{"more than 10 bytes", []member{{name: "a", data: "123456"}, {name: "b", data: "123456"}}, Options{MaxBytes: 10}},
		{"more than 3 entries", []member{{name: "a/b/c", data: "x"}, {name: "d", data: "y"}}, Options{MaxEntries: 3}},
	}
	for _, c := range cases {
		if _, err := list(makeTar(t, c.members...), TypeTar, c.o); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: got %v, want %q", c.members[0].name[:min(20, len(c.members[0].name))], err, c.want)
		}
	}
	zips := map[string][]member{
		"climbs out with": {{name: "../a", data: "x"}},
		"absolute name":   {{name: "/a", data: "x"}},
		"two entries":     {{name: "a", data: "x"}, {name: "a", data: "x"}},
		"outside of the":  {{name: "l", kind: tar.TypeSymlink, data: "../x"}},
		"target of 5000":  {{name: "l", kind: tar.TypeSymlink, data: strings.Repeat("l", 5000)}},
	}
	for want, members := range zips {
		if _, err := list(makeZip(t, members...), TypeZip, Options{}); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), want) {
			t.Errorf("zip: got %v, want %q", err, want)
		}
	}
	if _, err := list(makeTar(t, member{name: "s", kind: tar.TypeSymlink, link: "../../x"}), TypeTar, Options{Links: LinksAny}); err != nil {
		t.Errorf("LinksAny: %v", err)
	}
}

// zeros is a reader of a tar with one huge file of zeros.
func bomb(t *testing.T, size int64) []byte {
	t.Helper()
	var out bytes.Buffer
	encoder, err := zstd.NewWriter(&out, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(encoder)
	if err := w.WriteHeader(&tar.Header{Name: "zeros", Typeflag: tar.TypeReg, Size: size}); err != nil {
		t.Fatal(err)
	}
	block := make([]byte, 1<<20)
	for range 4 { // the rest is only promised: the promise alone must do
		if _, err := w.Write(block); err != nil {
			t.Fatal(err)
		}
	}
	if err := encoder.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestBombsAreRefusedByTheirPromise(t *testing.T) {
	if _, err := list(bomb(t, 3<<30), TypeTarZst, Options{}); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "bomb") {
		t.Errorf("got %v", err)
	}
	if _, err := list(bomb(t, 1<<45), TypeTarZst, Options{MaxRatio: 1 << 40}); !errors.Is(err, ErrRefused) {
		t.Errorf("got %v", err)
	}
}

func TestDamageIsNoEnd(t *testing.T) {
	whole := gzipped(t, makeTar(t, member{name: "a", data: strings.Repeat("abc", 5000)}, member{name: "b", data: "x"}))
	for cut := 1; cut < len(whole); cut++ {
		if got, err := list(whole[:cut], TypeTgz, Options{}); err == nil {
			t.Fatalf("cut at %d of %d: read as %q without an error", cut, len(whole), got)
		}
	}
	zipped := makeZip(t, member{name: "a", data: strings.Repeat("abc", 5000)})
	for cut := 1; cut < len(zipped); cut += 3 {
		if _, err := list(zipped[:cut], TypeZip, Options{}); err == nil {
			t.Fatalf("zip cut at %d of %d: no error", cut, len(zipped))
		}
	}
	at := bytes.Index(zipped, []byte("PK\x01\x02"))
	for offset, want := range map[int]string{16: "checksum", 24: "", 28: "", 10: "compression method", 8: "encrypted"} {
		bad := bytes.Clone(zipped)
		bad[at+offset] ^= 1
		if _, err := list(bad, TypeZip, Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("zip with byte %d of its record changed: %v, want %q", offset, err, want)
		}
	}
	for _, kind := range []Type{TypeTar, TypeTgz, TypeZip, TypeTarZst} {
		for _, data := range [][]byte{nil, []byte("hello"), noise(3, 4096), {0xfd, '7', 'z', 'X', 'Z', 0}} {
			if _, err := list(data, kind, Options{}); err == nil {
				t.Errorf("%q is read as %s", data[:min(5, len(data))], kind)
			}
		}
	}
}

// bzippedTar is a tar with one file named a, compressed with bzip2, which Go only reads.
const bzippedTar = "425a6839314159265359847f9b7900006d5b80c980600065800000e0001e000808200054349a00320f5045140f50c407d8a2510df3044b4756a34e2b5412020e646604c4a15cbe2329e9546fdc24d11100f8bb9229c2848423fcdbc8"

func zstandard(t testing.TB, data []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return w.EncodeAll(data, nil)
}

// Bytes that do not compress unpack to other ones if they are changed, without any other error than the checksum's, which stands behind the end of the tar.
func TestChecksumsBehindTheTarAreJudged(t *testing.T) {
	data := makeTar(t, member{name: "a", data: string(noise(1, 100_000))})
	for kind, whole := range map[Type][]byte{TypeTgz: gzipped(t, data), TypeTarZst: zstandard(t, data)} {
		if _, err := list(whole, kind, Options{}); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		bad := bytes.Clone(whole)
		bad[len(bad)/2] ^= 1
		if _, err := list(bad, kind, Options{}); err == nil {
			t.Errorf("%s with a byte changed: no error", kind)
		}
		if _, err := list(whole[:len(whole)-2], kind, Options{}); err == nil {
			t.Errorf("%s cut off in its checksum: no error", kind)
		}
		if _, err := list(append(bytes.Clone(whole), "garbage, garbage"...), kind, Options{}); err == nil {
			t.Errorf("%s with garbage behind it: no error", kind)
		}
	}
}

// What gzip and bzip2 let follow an archive is let through: more members, and zeros up to a round number.
func TestWhatMayFollowACompressedTar(t *testing.T) {
	data := makeTar(t, member{name: "a", data: "1"})
	bz, err := hex.DecodeString(bzippedTar)
	if err != nil {
		t.Fatal(err)
	}
	for what, archive := range map[string][]byte{
		"two members":                append(gzipped(t, data[:700]), gzipped(t, data[700:])...),
		"two members, zeros between": append(append(gzipped(t, data[:700]), zeros(100)...), gzipped(t, data[700:])...),
		"zeros":                      append(gzipped(t, data), zeros(1000)...),
		"zeros inside":               gzipped(t, append(bytes.Clone(data), zeros(1<<20)...)),
		"bzip2":                      bz,
		"bzip2 and garbage":          append(bytes.Clone(bz), "garbage"...),
	} {
		if got, err := list(archive, TypeTgz, Options{}); err != nil || len(got) != 1 {
			t.Errorf("%s: %q %v", what, got, err)
		}
	}
	endless := gzipped(t, append(bytes.Clone(data), zeros(maxTrailBytes+1)...))
	if _, err := list(endless, TypeTgz, Options{}); !errors.Is(err, ErrRefused) {
		t.Errorf("too much behind the end: %v", err)
	}
}

// manyZip makes a zip whose directory holds n records that all point to the same stored member.
func manyZip(n int, promised uint16) []byte {
	var out bytes.Buffer
	w := zip.NewWriter(&out)
	body := []byte("x")
	f, _ := w.CreateRaw(&zip.FileHeader{Name: "000000", Method: zip.Store, CRC32: crc32.ChecksumIEEE(body), CompressedSize64: 1, UncompressedSize64: 1})
	_, _ = f.Write(body)
	_ = w.Close()
	return repeatRecord(out.Bytes(), n, promised)
}

// repeatRecord gives the one member of a zip n records in the directory, which promises so many.
func repeatRecord(one []byte, n int, promised uint16) []byte {
	at := bytes.Index(one, []byte("PK\x01\x02"))
	end := bytes.Index(one, []byte("PK\x05\x06"))
	record, tail := one[at:end], bytes.Clone(one[end:])
	many := bytes.Clone(one[:at])
	for i := range n {
		r := bytes.Clone(record)
		copy(r[zipCentralBytes:], fmt.Sprintf("%06d", i))
		many = append(many, r...)
	}
	tail[8], tail[9] = byte(promised), byte(promised>>8)
	tail[10], tail[11] = byte(promised), byte(promised>>8)
	size := uint32(n * len(record))
	tail[12], tail[13], tail[14], tail[15] = byte(size), byte(size>>8), byte(size>>16), byte(size>>24)
	return append(many, tail...)
}

func TestZipWithMoreEntriesThanItSays(t *testing.T) {
	if got, err := list(manyZip(70_000, 70_000-65_536), TypeZip, Options{}); err != nil || len(got) != 70_000 {
		t.Errorf("an old tool's count modulo 65,536: %d entries (%v)", len(got), err)
	}
	if _, err := list(manyZip(300, 3), TypeZip, Options{}); err == nil || !strings.Contains(err.Error(), "says 3") {
		t.Errorf("a wrong count: %v", err)
	}
	if _, err := list(manyZip(70_000, 1), TypeZip, Options{MaxEntries: 1000}); !errors.Is(err, ErrRefused) {
		t.Errorf("too many entries: %v", err)
	}
}

func TestReaderRepeatsItsError(t *testing.T) {
	data := makeTar(t, member{name: "ok", data: "1"}, member{name: "../x", data: "2"})
	r, err := Open(bytes.NewReader(data), int64(len(data)), TypeTar, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if e, err := r.Next(); err != nil || e.Name != "ok" {
		t.Fatal(e, err)
	}
	_, first := r.Next()
	_, second := r.Next()
	if first == nil || !errors.Is(second, first) {
		t.Errorf("%v, then %v", first, second)
	}
}

func FuzzArchive(f *testing.F) {
	tarData := makeTar(f, member{name: "d/", kind: tar.TypeDir}, member{name: "d/f", data: "1234"}, member{name: "s", kind: tar.TypeSymlink, link: "d/f"}, member{name: "h", kind: tar.TypeLink, link: "d/f"})
	packed, _, _ := pack(f, sampleTree(), PackOptions{})
	zipData := makeZip(f, member{name: "d/"}, member{name: "d/f", data: "1234"}, member{name: "l", kind: tar.TypeSymlink, data: "d"})
	for i, data := range [][]byte{tarData, gzipped(f, tarData), zipData, packed[:4096], manyZip(3, 3), []byte("BZh9")} {
		f.Add(data, uint8(i))
	}
	kinds := []Type{TypeTar, TypeTgz, TypeZip, TypeTarZst, TypeZip, TypeTar}
	f.Fuzz(func(t *testing.T, data []byte, which uint8) {
		seen := map[string]EntryType{}
		var total int64
		o := Options{MaxBytes: 8 << 20, MaxEntries: 2000}
		_ = Walk(bytes.NewReader(data), int64(len(data)), kinds[int(which)%len(kinds)], o, func(e *Entry) error {
			if e.Name == "" || e.Name != path.Clean(e.Name) || path.IsAbs(e.Name) || strings.HasPrefix(e.Name, "..") && (len(e.Name) == 2 || e.Name[2] == '/') || strings.Contains(e.Name, "\x00") {
				t.Fatalf("name %q", e.Name)
			}
			if was, ok := seen[e.Name]; ok && (was != Dir || e.Type != Dir) {
				t.Fatalf("%q twice", e.Name)
			}
			for dir := path.Dir(e.Name); dir != "."; dir = path.Dir(dir) {
				if was, ok := seen[dir]; ok && was != Dir {
					t.Fatalf("%q below a %s", e.Name, was)
				}
			}
			if e.Type == Hardlink && seen[e.Link] != File && seen[e.Link] != Hardlink {
				t.Fatalf("hard link %q to %q", e.Name, e.Link)
			}
			seen[e.Name] = e.Type
			if e.Content != nil {
				n, _ := io.Copy(io.Discard, e.Content)
				if n > e.Size {
					t.Fatalf("%q has %d bytes, said %d", e.Name, n, e.Size)
				}
				total += n
			}
			return nil
		})
		if total > 8<<20 || len(seen) > 2000 {
			t.Fatalf("%d bytes, %d entries", total, len(seen))
		}
	})
}

// TestArchivesThatAreCutOffSaySo: "unexpected EOF" says neither of what nor why.
func TestArchivesThatAreCutOffSaySo(t *testing.T) {
	raw := makeTar(t, member{name: "a", data: "1", mode: 0o644}, member{name: "big", data: string(noise(3, 200<<10)), mode: 0o644})
	framed, _, _ := pack(t, sampleTree(), PackOptions{})
	whole := map[Type][]byte{TypeTar: raw, TypeTgz: gzipped(t, raw), TypeTarZst: framed, TypeZip: makeZip(t, member{name: "a", data: string(noise(3, 200<<10)), mode: 0o644})}
	for kind, data := range whole {
		for _, n := range []int{len(data) / 2, len(data) - 3, 100} {
			if kind == TypeTar && n == len(data)-3 {
				continue // of the blocks that fill it up, nothing is missed
			}
			err := Walk(bytes.NewReader(data[:n]), int64(n), kind, Options{}, func(e *Entry) error {
				if e.Content == nil {
					return nil
				}
				_, err := io.Copy(io.Discard, e.Content)
				return err
			})
			if !errors.Is(err, ErrCutOff) || strings.Contains(err.Error(), "unexpected EOF") {
				t.Errorf("%d of %d bytes of a %s: %v", n, len(data), kind, err)
			}
		}
	}
	cut := whole[TypeZip][:1000]
	if _, err := Recognize(bytes.NewReader(cut), int64(len(cut))); !errors.Is(err, ErrNoArchive) || !errors.Is(err, ErrCutOff) {
		t.Errorf("a zip: %v", err)
	}
}
