package origin

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"
)

// Kind says which kind of origin a location is.
type Kind string

// The kinds there are.
const (
	S3        Kind = "S3"
	Https     Kind = "Https"
	Directory Kind = "Directory"
)

// Location says where one archive is; which fields count depends on Kind.
type Location struct {
	Kind    Kind
	Bucket  string // S3
	Key     string // S3; for Directory the path below Options.Directories
	Version string // S3 version id; "": the newest
	ETag    string // S3 and Https: sent as If-Match, so that an overwritten key fails instead of mixing; "": none
	URL     string // Https
	Path    string // Directory: absolute path of the archive
}

// Options say how this host reaches origins; they come from its own configuration.
type Options struct {
	Endpoint        string        // S3 endpoint URL; "": AWS
	Region          string        // S3 region; "": us-east-1 where an endpoint is given, else what the environment says
	PathStyle       bool          // S3 bucket in the path instead of the host name
	CredentialsFile string        // AWS shared credentials file; "": the SDK's default chain
	Timeout         time.Duration // until a response begins; 0: 30 s. Bodies are bounded by ctx alone
	AllowHTTP       bool          // plain http:// for Kind Https, for tests
	Client          *http.Client  // nil: one of its own with proxies from the environment
}

// Origin is one archive at its source. Its methods may be called from several goroutines.
type Origin interface {
	// Size returns the archive's size in bytes.
	Size(ctx context.Context) (int64, error)
	// ReadRange reads n bytes from off. Fewer bytes than n are an error of the reader, never a silent end.
	ReadRange(ctx context.Context, off, n int64) (io.ReadCloser, error)
	// ReadIndex returns the encoded piece index stored beside the archive. It is at most bundle.MaxIndexBytes long and unchecked.
	ReadIndex(ctx context.Context) ([]byte, error)
}

// Open prepares an origin without touching the network. An error means that location or options can never work.
func Open(l Location, o Options) (Origin, error) { return nil, errors.ErrUnsupported }

// Put stores an archive of size bytes at a location, in parts where it is large, and makes nothing visible before all of it is there.
// progress, if not nil, is told the bytes sent so far.
func Put(ctx context.Context, l Location, o Options, body io.ReaderAt, size int64, progress func(sent int64)) error {
	return errors.ErrUnsupported
}

// Transient reports whether err may go away by itself, so that trying again later makes sense. An error this package did not make is
// transient unless it is context.Canceled.
func Transient(err error) bool { return false }
