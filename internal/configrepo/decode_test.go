package configrepo

import (
	"bytes"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"
)

func FuzzAdvertisement(f *testing.F) {
	tip := strings.Repeat("ab", 20)
	f.Add([]byte(pkt("# service=git-upload-pack\n") + flushPkt + pkt("%s refs/heads/main\x00 ofs-delta\n", tip) + flushPkt))
	f.Add([]byte(pkt("version 2\n") + pkt("object-format=sha1\n") + flushPkt))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, id, err := readAdvertisement(&pktReader{r: bytes.NewReader(data), left: 1 << 16}, "main")
		if err == nil && !id.IsZero() && !bytes.Contains(data, []byte(id.String())) {
			t.Fatal("a tip out of nowhere")
		}
		_, _ = readLsRefs(&pktReader{r: bytes.NewReader(data), left: 1 << 16}, "main")
		var sink bytes.Buffer
		for version := range 3 {
			sink.Reset()
			_ = readFetch(&pktReader{r: bytes.NewReader(data), left: 1 << 16}, version, &sink)
			if sink.Len() > len(data) {
				t.Fatal("more than was sent")
			}
		}
	})
}

func FuzzObjects(f *testing.F) {
	f.Add([]byte("100644 a\x00" + strings.Repeat("x", 20) + "40000 b\x00" + strings.Repeat("y", 20)))
	f.Add([]byte("tree " + strings.Repeat("ab", 20) + "\nauthor a <b> 1 +0000\ncommitter c <d> 2 +0000\n\nsubject\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if entries, err := decodeTree(raw); err == nil {
			for _, e := range entries {
				if e.name == "" || e.name == "." || e.name == ".." || strings.ContainsAny(e.name, "/\x00") {
					t.Fatalf("name %q", e.name)
				}
			}
		}
		if c, err := decodeCommit(plumbing.ZeroHash, raw); err == nil {
			if d := c.describe(nil); strings.ContainsAny(d.Subject+d.Author, "\n\x00\x1b") {
				t.Fatalf("%+v", d)
			}
		}
	})
}
