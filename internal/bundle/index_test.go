package bundle

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func foreign(t testing.TB, data []byte, piece int) *Index {
	t.Helper()
	x, err := IndexOf(bytes.NewReader(data), piece)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func TestIndexSurvivesEncoding(t *testing.T) {
	archive, framed, _ := pack(t, sampleTree(), PackOptions{})
	for name, x := range map[string]*Index{"framed": framed, "foreign": foreign(t, archive, 0), "one piece": foreign(t, archive[:10], 0)} {
		got, err := DecodeIndex(x.Encode())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got.Digest() != x.Digest() || got.Len() != x.Len() || got.ArchiveSize() != x.ArchiveSize() || got.Framed() != x.Framed() || got.RawDigest() != x.RawDigest() {
			t.Errorf("%s came back as another", name)
		}
		for i := range x.Len() {
			if got.Piece(i) != x.Piece(i) {
				t.Errorf("%s: piece %d came back as another", name, i)
			}
		}
	}
	if x, err := ReadIndex(bytes.NewReader(archive), int64(len(archive))); err != nil || x.Digest() != framed.Digest() {
		t.Errorf("the index at the end is another (%v)", err)
	}
}

func TestPiecesCoverTheArchive(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.IntRange(1, 200_000).Draw(t, "size")
		piece := rapid.IntRange(MinForeignPiece, 70_000).Draw(t, "piece")
		data := noise(uint64(size), size)
		x, err := IndexOf(bytes.NewReader(data), piece)
		if err != nil {
			t.Fatal(err)
		}
		var end int64
		for i := range x.Len() {
			p := x.Piece(i)
			if p.Offset != end || p.Size < 1 {
				t.Fatalf("piece %d begins at %d, not at %d", i, p.Offset, end)
			}
			end += int64(p.Size)
			if err := x.Verify(i, data[p.Offset:end]); err != nil {
				t.Fatal(err)
			}
		}
		if end != int64(size) || x.ArchiveSize() != end || x.PayloadDigest() != DigestBytes(data) {
			t.Fatalf("pieces end at %d of %d", end, size)
		}
	})
}

func TestIndexRefusals(t *testing.T) {
	_, framed, _ := pack(t, sampleTree(), PackOptions{})
	x := foreign(t, noise(1, 600_000), 0)
	put32 := func(at int, v uint32) func([]byte) []byte {
		return func(d []byte) []byte { binary.LittleEndian.PutUint32(d[at:], v); return d }
	}
	cases := map[string]struct {
		of     *Index
		change func([]byte) []byte
	}{
		"its header alone":   {framed, func(d []byte) []byte { return d[:50] }},
		"does not begin":     {framed, func(d []byte) []byte { d[0]++; return d }},
		"it has version 7":   {framed, func(d []byte) []byte { d[8] = 7; return d }},
		"kind 9":             {framed, func(d []byte) []byte { d[10] = 9; return d }},
		"lists 0 pieces":     {framed, put32(20, 0)},
		"4294967295 pieces":  {framed, put32(20, 1<<32-1)},
		"frames need":        {framed, func(d []byte) []byte { return d[:len(d)-1] }},
		"raw bytes, outside": {framed, put32(indexHeaderBytes+4, MaxFrameRaw+1)},
		"0 stored":           {framed, put32(indexHeaderBytes, 0)},
		"its header says":    {framed, put32(indexHeaderBytes, 1)},
		"must leave empty":   {framed, put32(16, 4096)},
		"outside of 4096":    {x, put32(16, 1)},
		"make 2 pieces":      {x, put32(16, 512<<10)},
		"pieces need":        {x, func(d []byte) []byte { return append(d, 0) }},
	}
	for want, c := range cases {
		_, err := DecodeIndex(c.change(bytes.Clone(c.of.Encode())))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if _, err := ReadIndex(bytes.NewReader(noise(2, 5000)), 5000); !errors.Is(err, ErrNoIndex) {
		t.Errorf("noise: %v", err)
	}
}

func TestRefCheck(t *testing.T) {
	archive, x, digest := pack(t, sampleTree(), PackOptions{})
	good := Ref{Digest: digest, Size: int64(len(archive)), Type: TypeTarZst, Index: x}
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*Ref){
		"must begin with":        func(r *Ref) { r.Digest = "md5:1" },
		"64":                     func(r *Ref) { r.Digest = "sha256:12" },
		"lower-case":             func(r *Ref) { r.Digest = "sha256:" + Digest(strings.Repeat("A", 64)) },
		"size 0":                 func(r *Ref) { r.Size = 0 },
		"no archive type":        func(r *Ref) { r.Type = TypeDirectory },
		"its index speaks of":    func(r *Ref) { r.Size++ },
		"lists zstd frames, but": func(r *Ref) { r.Type = TypeZip },
	} {
		ref := good
		change(&ref)
		if err := ref.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestTypeOfName(t *testing.T) {
	for name, want := range map[string]Type{"a/B.TAR.ZST": TypeTarZst, "x.tgz": TypeTgz, "x.tar.gz": TypeTgz, "x.tar": TypeTar, "x.zip": TypeZip, "x.gz": "", "zip": ""} {
		if got, ok := TypeOfName(name); got != want || ok != (want != "") {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestFrameDecoderIsBoundedByTheIndex(t *testing.T) {
	encoder, err := NewFrameEncoder()
	if err != nil {
		t.Fatal(err)
	}
	decoder, err := NewFrameDecoder()
	if err != nil {
		t.Fatal(err)
	}
	defer decoder.Close()
	raw := make([]byte, MaxFrameRaw)
	stored := encoder.Encode(nil, raw)
	honest := Piece{Size: len(stored), Sum: sum256(stored), RawSize: len(raw), RawSum: sum256(raw)}
	if got, err := decoder.Decode(nil, stored, honest); err != nil || !bytes.Equal(got, raw) {
		t.Fatal(err)
	}
	lying := honest
	lying.RawSize = 1000
	if got, err := decoder.Decode(nil, stored, lying); err == nil || cap(got) > 4096 {
		t.Errorf("a frame larger than its index says: %v", err)
	}
	lying.RawSize = MaxFrameRaw + 1
	if _, err := decoder.Decode(nil, stored, lying); err == nil {
		t.Error("an impossible raw size is accepted")
	}
}

func FuzzDecodeIndex(f *testing.F) {
	_, framed, _ := pack(f, sampleTree(), PackOptions{})
	f.Add(framed.Encode())
	f.Add(foreign(f, noise(1, 9000), MinForeignPiece).Encode())
	f.Add([]byte(indexMagic))
	f.Fuzz(func(t *testing.T, data []byte) {
		x, err := DecodeIndex(data)
		if err != nil {
			return
		}
		if !bytes.Equal(x.Encode(), data) {
			t.Fatal("two encodings of one index")
		}
		var end int64
		for i := range x.Len() {
			if p := x.Piece(i); p.Offset != end || p.Size <= 0 || p.Size > max(MaxFrameStored, MaxForeignPiece) || p.RawSize > MaxFrameRaw {
				t.Fatalf("piece %d is %+v", i, p)
			}
			end += int64(x.Piece(i).Size)
		}
		if end != x.PayloadSize() || x.ArchiveSize() != end+int64(len(x.Tail())) {
			t.Fatal("sizes do not add up")
		}
	})
}
