package bundle

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func TestRecognizeByContent(t *testing.T) {
	one := member{name: "appspec.yml", data: "version: 0.0\n", mode: 0o644}
	zipped := makeZip(t, one)
	framed, _, _ := pack(t, sampleTree(), PackOptions{})
	for name, c := range map[string]struct {
		data []byte
		want Type
	}{
		"tar":                    {makeTar(t, one), TypeTar},
		"tgz":                    {gzipped(t, makeTar(t, one)), TypeTgz},
		"tar.zst":                {framed, TypeTarZst},
		"zip":                    {zipped, TypeZip},
		"zip behind a program":   {append([]byte("#!/bin/sh\nexit\n"), zipped...), TypeZip},
		"tar with nothing in it": {makeTar(t), TypeTar},
		"tar that holds a zip":   {makeTar(t, one, member{name: "z.zip", data: string(zipped), mode: 0o644}), TypeTar},
	} {
		if got, err := Recognize(bytes.NewReader(c.data), int64(len(c.data))); got != c.want || err != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for name, data := range map[string][]byte{
		"empty":           nil,
		"one byte":        {0x1f},
		"a script":        []byte("#!/bin/sh\necho hello\n"),
		"text":            []byte(strings.Repeat("0123456789abcdef", 1<<10)),
		"gzipped text":    gzipped(t, []byte(strings.Repeat("0123456789abcdef", 1<<10))),
		"cut gzip":        gzipped(t, makeTar(t, one))[:12],
		"zstd magic":      {0x28, 0xb5, 0x2f, 0xfd},
		"xz":              append([]byte{0xfd, '7', 'z', 'X', 'Z', 0}, make([]byte, 64)...),
		"zip's magic":     []byte("PK\x03\x04 and nothing more"),
		"zip with no end": zipped[:len(zipped)-10],
	} {
		if got, err := Recognize(bytes.NewReader(data), int64(len(data))); !errors.Is(err, ErrNoArchive) || got != "" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	escape := makeTar(t, member{name: "../escape", data: "x", mode: 0o644})
	if _, err := Recognize(bytes.NewReader(escape), int64(len(escape))); !errors.Is(err, ErrRefused) || errors.Is(err, ErrNoArchive) {
		t.Errorf("a tar that climbs out: %v", err)
	}
}
