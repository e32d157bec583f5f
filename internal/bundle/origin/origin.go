package origin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/gitopsd/gitopsd/internal/bundle"
)

// Kind says which kind of origin a location is; the names are those of a revision's revisionType.
type Kind string

// The kinds there are.
const (
	S3         Kind = "S3"
	GitHub     Kind = "GitHub"
	Forge      Kind = "Forge"
	Https      Kind = "Https"
	Directory  Kind = "Directory"
	Repository Kind = "Repository"
)

// Location says where one archive is; which fields count depends on Kind.
type Location struct {
	Kind    Kind
	Bucket  string        // S3
	Key     string        // S3
	Version string        // S3 version id; "": the newest
	ETag    string        // S3 and Https: sent as If-Match, so that an overwritten key fails instead of mixing; "": none
	URL     string        // Https: of the archive. Forge: of the repository, as people open it
	Path    string        // Directory: absolute path of the archive. Repository: the folder's name, for messages
	Owner   string        // GitHub: OWNER/NAME
	Commit  string        // GitHub and Forge: full commit id
	Forge   string        // Forge: which software, see forge.go
	Type    bundle.Type   // GitHub and Forge: tgz or zip; "": tgz
	Digest  bundle.Digest // GitHub and Forge: what the archive must be, so that another one is refused with the reason; "": not judged
	Size    int64         // GitHub and Forge: bytes of the archive, which forges do not tell; 0: unknown
	Tree    fs.FS         // Repository: the folder
}

// String names the location for people, without anything secret a URL may carry.
func (l Location) String() string {
	switch l.Kind {
	case S3:
		return "s3://" + l.Bucket + "/" + l.Key
	case Https:
		return Redact(l.URL)
	case GitHub:
		return "github.com/" + l.Owner + "@" + shortCommit(l.Commit)
	case Forge:
		return Redact(l.URL) + "@" + shortCommit(l.Commit)
	case Repository:
		return "folder " + l.Path + " of the config repository"
	}
	return l.Path
}

func shortCommit(id string) string { return id[:min(10, len(id))] }

// index is where the piece index of the archive at l is stored.
func (l Location) index() Location {
	beside := Location{Kind: l.Kind, Bucket: l.Bucket, Key: l.Key + bundle.IndexSuffix, Path: l.Path + bundle.IndexSuffix}
	if l.Kind == Https {
		base, query, _ := strings.Cut(l.URL, "?")
		if beside.URL = base + bundle.IndexSuffix; query != "" {
			beside.URL += "?" + query
		}
	}
	return beside
}

// Options say how this host reaches origins; they come from its own configuration.
type Options struct {
	Endpoint        string        // S3 endpoint URL; "": AWS
	Fallbacks       []string      // more S3 endpoint URLs with the same objects, tried in order while those before fail
	Region          string        // S3 region; "": what the environment says, else us-east-1 where an endpoint is given
	PathStyle       bool          // S3 bucket in the path instead of the host name
	CredentialsFile string        // AWS shared credentials file, then the only source of credentials; "": the SDK's default chain
	Timeout         time.Duration // until a response begins; 0: 30 s, with Fallbacks 6 s. Bodies are bounded by ctx alone
	Proxy           string        // URL of the proxy; "": what HTTPS_PROXY, HTTP_PROXY and NO_PROXY say; NoProxy: none
	Token           TokenSource   // what a forge's host is shown; nil: nothing
	AllowHTTP       bool          // plain http:// for the kinds Https and Forge
	Client          *http.Client  // shared by all origins of a host; nil: one is made of Timeout and Proxy
}

// Origin is one archive at its source. Its methods may be called from several goroutines.
type Origin interface {
	// Size returns the archive's size in bytes.
	Size(ctx context.Context) (int64, error)
	// ReadRange reads n > 0 bytes from off. Fewer bytes than n are an error of the reader, never a silent end.
	ReadRange(ctx context.Context, off, n int64) (io.ReadCloser, error)
	// ReadIndex returns the encoded piece index: the one stored beside the archive, else the one at its end. It is at most
	// bundle.MaxIndexBytes long and unchecked.
	ReadIndex(ctx context.Context) ([]byte, error)
}

// Open prepares an origin without touching the network. An error means that location or options can never work.
func Open(l Location, o Options) (Origin, error) {
	from, err := open(l, o)
	if err != nil {
		return nil, permanent("open", l, err)
	}
	return from, nil
}

func open(l Location, o Options) (Origin, error) {
	o, err := o.withClient()
	if err != nil {
		return nil, err
	}
	switch l.Kind {
	case S3:
		return openEndpoints(l, o)
	case GitHub, Forge:
		return openForge(l, o)
	case Https:
		return openHTTPS(l, o)
	case Directory:
		return openDirectory(l)
	case Repository:
		return openTree(l)
	}
	return nil, fmt.Errorf("kind %q is unknown; S3, GitHub, Forge, Https, Directory and Repository are possible", l.Kind)
}

// readWhole reads a small object entirely, refusing more than limit bytes.
func readWhole(r io.ReadCloser, limit int64) ([]byte, error) {
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(data)) > limit {
		return nil, fmt.Errorf("it has more than the %d bytes an index may have", limit)
	}
	return data, err
}

// tailIndex reads the index that archives of our own format carry at their end. It returns nil where there is none.
func tailIndex(ctx context.Context, from Origin) ([]byte, error) {
	size, err := from.Size(ctx)
	if err != nil || size < bundle.TailFooterBytes {
		return nil, err
	}
	footer, err := readRange(ctx, from, size-bundle.TailFooterBytes, bundle.TailFooterBytes)
	if err != nil {
		return nil, err
	}
	length, ok := bundle.TailIndexLength(footer, size)
	if !ok {
		return nil, nil
	}
	return readRange(ctx, from, size-bundle.TailFooterBytes-length, length)
}

func readRange(ctx context.Context, from Origin, off, n int64) ([]byte, error) {
	body, err := from.ReadRange(ctx, off, n)
	if err != nil {
		return nil, err
	}
	return readWhole(body, n)
}

// exactBody yields n bytes of a response or fails: a connection that ends early must not look like the end.
type exactBody struct {
	body io.ReadCloser
	left int64
	fail func(error) error // names operation and place
}

func (b *exactBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	n, err := b.body.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	switch {
	case b.left == 0 && (err == nil || err == io.EOF):
		return n, nil
	case err == io.EOF:
		return n, b.fail(fmt.Errorf("the response ended %d bytes early: %w", b.left, io.ErrUnexpectedEOF))
	case err != nil:
		return n, b.fail(err)
	}
	return n, nil
}

func (b *exactBody) Close() error { return b.body.Close() }

func checkRange(off, n int64) error {
	if off < 0 || n <= 0 || off > bundle.MaxArchiveBytes || n > bundle.MaxArchiveBytes {
		return fmt.Errorf("internal error: range of %d bytes from %d", n, off)
	}
	return nil
}

// checkContentRange says whether a response holds the bytes asked for. Servers that ignore ranges answer with everything, which is only
// good if everything was asked for.
func checkContentRange(header string, status int, length, off, n int64) error {
	if status == http.StatusPartialContent {
		want := fmt.Sprintf("bytes %d-%d/", off, off+n-1)
		if !strings.HasPrefix(header, want) {
			return fmt.Errorf("asked for %d bytes from %d, it answered with %q: %w", n, off, header, errShorter)
		}
		return nil
	}
	if off == 0 && length == n {
		return nil
	}
	return errors.New("the server ignores range requests, which piecewise distribution needs")
}

// errShorter says that the object is not as long as the revision says.
var errShorter = errors.New("the stored object is shorter than the revision says")

// Parse reads a location as commands take it: s3://bucket/key, https://..., file:///path or a path.
func Parse(s string) (Location, error) {
	if scheme, _, found := strings.Cut(s, "://"); found {
		if lower := strings.ToLower(scheme); lower != scheme && slices.Contains([]string{"s3", "https", "http", "file"}, lower) {
			return Location{}, fmt.Errorf("cannot use the scheme %q of the location: write it in lower case, %s://", scheme, lower)
		}
	}
	switch {
	case strings.HasPrefix(s, "s3://"):
		bucket, key, found := strings.Cut(strings.TrimPrefix(s, "s3://"), "/")
		if bucket == "" || !found || key == "" || strings.HasSuffix(key, "/") {
			return Location{}, fmt.Errorf("cannot use location %q: write s3://BUCKET/KEY", Redact(s))
		}
		return Location{Kind: S3, Bucket: bucket, Key: key}, nil
	case strings.HasPrefix(s, "https://"), strings.HasPrefix(s, "http://"):
		return Location{Kind: Https, URL: s}, nil
	}
	file := strings.TrimPrefix(s, "file://")
	if !path.IsAbs(file) {
		return Location{}, fmt.Errorf("cannot use location %q: write s3://BUCKET/KEY or an absolute path", Redact(s))
	}
	return Location{Kind: Directory, Path: path.Clean(file)}, nil
}

// lengthOf is the total of a Content-Range header such as "bytes 0-0/123"; -1 if it does not tell.
func lengthOf(header string) int64 {
	_, total, found := strings.Cut(header, "/")
	var n int64
	if _, err := fmt.Sscanf(total, "%d", &n); !found || err != nil || n < 0 {
		return -1
	}
	return n
}
