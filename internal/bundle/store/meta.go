package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/gitopsd/gitopsd/internal/bundle"
)

// metaVersion is that of the ref and pins files.
const metaVersion = 1

// maxMetaBytes bounds what is read of ref, pins and have files.
const maxMetaBytes = 16 << 20

type refFile struct {
	Version int           `json:"version"`
	Digest  bundle.Digest `json:"digest"`
	Size    int64         `json:"size"`
	Type    bundle.Type   `json:"type"`
}

func encodeRef(ref Ref) []byte {
	data, _ := json.Marshal(refFile{Version: metaVersion, Digest: ref.Digest, Size: ref.Size, Type: ref.Type}) // strings and numbers can always be encoded
	return append(data, '\n')
}

// readRef reads ref and index of a bundle's directory, and when it was last used. An index that is damaged, or cannot be read, counts as none: whoever has
// the bytes can do without.
func readRef(dir string) (ref Ref, used time.Time, err error) {
	file := filepath.Join(dir, "ref")
	data, err := readBounded(file, maxMetaBytes)
	if err != nil {
		return ref, used, err
	}
	var raw refFile
	if err := json.Unmarshal(data, &raw); err != nil {
		return ref, used, fmt.Errorf("cannot read %s: %w", file, err)
	}
	if raw.Version != metaVersion {
		return ref, used, fmt.Errorf("cannot read %s: it has version %d, this program knows version %d", file, raw.Version, metaVersion)
	}
	if info, err := os.Lstat(file); err == nil {
		used = info.ModTime()
	}
	ref = Ref{Digest: raw.Digest, Size: raw.Size, Type: raw.Type}
	encoded, err := readBounded(filepath.Join(dir, "index"), bundle.MaxIndexBytes)
	if err == nil {
		if x, err := bundle.DecodeIndex(encoded); err == nil && x.ArchiveSize() == ref.Size {
			ref.Index = x
		}
	} else if starved(err) {
		return ref, used, err
	}
	return ref, used, ref.Check()
}

func readBounded(file string, limit int64) ([]byte, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if info.Size() > limit {
		return nil, fmt.Errorf("cannot read %s: %d bytes are more than the %d possible", file, info.Size(), limit)
	}
	return os.ReadFile(file)
}

// haveMagic begins a bitmap file: magic, sha256 of the encoded index it belongs to, bitmap, sha256 of all before.
const haveMagic = "gitopsd have 1\n"

func encodeHave(x *bundle.Index, have Bitmap) []byte {
	of := sha256.Sum256(x.Encode())
	out := append([]byte(haveMagic), of[:]...)
	out = append(out, have...)
	sum := sha256.Sum256(out)
	return append(out, sum[:]...)
}

// decodeHave returns an empty bitmap for anything but a whole file that belongs to x: pieces are then fetched again, or found again.
func decodeHave(x *bundle.Index, data []byte) Bitmap {
	empty := NewBitmap(x.Len())
	if len(data) != len(haveMagic)+sha256.Size+len(empty)+sha256.Size {
		return empty
	}
	body, sum := data[:len(data)-sha256.Size], data[len(data)-sha256.Size:]
	of := sha256.Sum256(x.Encode())
	if got := sha256.Sum256(body); !bytes.Equal(got[:], sum) || !bytes.HasPrefix(body, append([]byte(haveMagic), of[:]...)) {
		return empty
	}
	have := Bitmap(bytes.Clone(body[len(haveMagic)+sha256.Size:]))
	for i := x.Len(); i < 8*len(have); i++ {
		have.Clear(i)
	}
	return have
}

type pinsFile struct {
	Version int                        `json:"version"`
	Pins    map[bundle.Digest][]string `json:"pins"`
}

func readPins(file string) (map[bundle.Digest][]string, error) {
	data, err := readBounded(file, maxMetaBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return map[bundle.Digest][]string{}, nil
	}
	if err != nil {
		return nil, err
	}
	var raw pinsFile
	if err := json.Unmarshal(data, &raw); err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", file, err)
	}
	if raw.Version != metaVersion {
		return nil, fmt.Errorf("cannot read %s: it has version %d, this program knows version %d", file, raw.Version, metaVersion)
	}
	if raw.Pins == nil {
		raw.Pins = map[bundle.Digest][]string{}
	}
	return raw.Pins, nil
}
