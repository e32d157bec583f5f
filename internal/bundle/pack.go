package bundle

import (
	"errors"
	"io"
	"io/fs"
)

// Previous is an earlier bundle whose frames may be reused.
type Previous struct {
	Index   *Index
	Archive io.ReaderAt
}

// PackOptions tune packing.
type PackOptions struct {
	Previous *Previous // nil: every frame is encoded anew
}

// Pack packs tree into w, one frame after the other, and returns the index and the digest of everything written. The same tree, previous
// bundle and version of this program give the same bytes. Packer does the same in steps that may run in parallel.
func Pack(w io.Writer, tree fs.FS, o PackOptions) (*Index, Digest, error) {
	return nil, "", errors.ErrUnsupported
}
