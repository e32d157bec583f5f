package store

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"

	"github.com/gitopsd/gitopsd/internal/bundle"
)

// Ref names a bundle as a commit pins it.
type Ref = bundle.Ref

// Errors that callers branch on.
var (
	ErrNoSpace  = errors.New("not enough space")            // the bundle cannot fit now; Collect, raise the limit or free the disk
	ErrMismatch = errors.New("content does not match")      // bytes are not what the digest or index says
	ErrNoIndex  = errors.New("the bundle has no index yet") // SetIndex comes first
	ErrMissing  = errors.New("not in the store")
)

// Options configure a store.
type Options struct {
	Dir       string       // made if missing, with mode 0700
	Limit     int64        // bytes all bundles may use together; 0: no limit
	KeepFree  int64        // bytes of the disk that bundles never use; 0: 64 MiB, negative: none
	Log       *slog.Logger // nil: discard
	SyncEvery int64        // bytes written between two durable bitmaps; 0: 8 MiB
}

// Store is a directory of bundles.
type Store struct{}

// Open prepares dir and reads what is there. Close releases its lock.
func Open(o Options) (*Store, error) { return nil, errors.ErrUnsupported }

// Close writes what partials have not yet made durable and releases the store.
func (s *Store) Close() error { return errors.ErrUnsupported }

// Begin starts or resumes a bundle. Without Ref.Index, pieces cannot be written before SetIndex. Begin of a bundle that is already being
// fetched returns the same Partial; of a complete one, an error that wraps fs.ErrExist.
func (s *Store) Begin(ref Ref) (*Partial, error) { return nil, errors.ErrUnsupported }

// Lookup returns a complete bundle.
func (s *Store) Lookup(d bundle.Digest) (*Bundle, bool) { return nil, false }

// Partial returns a bundle that is on its way.
func (s *Store) Partial(d bundle.Digest) (*Partial, bool) { return nil, false }

// Digests lists complete bundles, those used last first.
func (s *Store) Digests() []bundle.Digest { return nil }

// Pin keeps a digest, complete or on its way, from being collected for as long as any owner names it. Pins are durable.
func (s *Store) Pin(owner string, d bundle.Digest) error { return errors.ErrUnsupported }

// Unpin takes one owner's pin away; no pin is no error.
func (s *Store) Unpin(owner string, d bundle.Digest) error { return errors.ErrUnsupported }

// Collect deletes unpinned bundles, longest unused first, until all together use at most limit bytes (0: delete every unpinned one), and
// returns what it deleted.
func (s *Store) Collect(ctx context.Context, limit int64) ([]bundle.Digest, error) {
	return nil, errors.ErrUnsupported
}

// Unpack unpacks a complete bundle into destDir, which must not exist or be empty. See UnpackArchive.
func (s *Store) Unpack(ctx context.Context, d bundle.Digest, destDir string) error {
	return errors.ErrUnsupported
}

// UnpackOptions tune UnpackArchive.
type UnpackOptions struct {
	Limits   bundle.Options // what the archive may hold
	KeepFree int64          // bytes of the disk to leave; 0: 64 MiB, negative: none
}

// UnpackArchive unpacks an archive file into destDir as CodeDeploy's agent would: modes and times kept, owners only from tar and only as
// root, a single top-level folder that holds an appspec stripped.
func UnpackArchive(ctx context.Context, file string, t bundle.Type, destDir string, o UnpackOptions) error {
	return errors.ErrUnsupported
}

// Bundle is a complete bundle.
type Bundle struct {
	Path string // the archive file; read only
	Ref  Ref    // with its index, if it is known
}

// ReadPiece reads piece i and verifies it.
func (b *Bundle) ReadPiece(i int) ([]byte, error) { return nil, errors.ErrUnsupported }

// Partial is a bundle on its way.
type Partial struct{}

// Ref returns what is being fetched, with the index once it is known.
func (p *Partial) Ref() Ref { return Ref{} }

// Index returns the index, or nil while it is unknown.
func (p *Partial) Index() *bundle.Index { return nil }

// SetIndex gives a partial its index. The caller has checked the index against what git pins or the leader published. Setting an equal
// index again is no error; another one is refused unless nothing was written yet or Discard came first.
func (p *Partial) SetIndex(x *bundle.Index) error { return errors.ErrUnsupported }

// Have returns a copy of the bitmap of verified pieces.
func (p *Partial) Have() Bitmap { return nil }

// Missing returns the number of pieces still missing; with no index, 1.
func (p *Partial) Missing() int { return 0 }

// Write verifies and stores piece i. Writing a piece twice is no error. ErrMismatch says that the bytes are wrong and nothing was written.
func (p *Partial) Write(i int, data []byte) error { return errors.ErrUnsupported }

// Read returns piece i, verified; fs.ErrNotExist if it is missing.
func (p *Partial) Read(i int) ([]byte, error) { return nil, fs.ErrNotExist }

// Reuse copies every piece that a complete bundle of this store has from there, and returns how many pieces and bytes that were.
func (p *Partial) Reuse(ctx context.Context) (pieces int, bytes int64, err error) {
	return 0, 0, errors.ErrUnsupported
}

// Finish verifies the whole digest and makes the bundle complete. On ErrMismatch the pieces stay, but none counts as verified any more.
func (p *Partial) Finish(ctx context.Context) error { return errors.ErrUnsupported }

// Discard deletes the partial.
func (p *Partial) Discard() error { return errors.ErrUnsupported }
