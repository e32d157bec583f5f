package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/bundle/store"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
)

const (
	s3Region     = "us-east-1"
	s3Credential = "[default]\naws_access_key_id = demo\naws_secret_access_key = demo-secret\n"
)

// objectStore is an S3 server in this process's memory that counts the bytes that leave it.
type objectStore struct {
	url         string
	credentials string // shared credentials file
	backend     *s3mem.Backend
	server      *http.Server
	ended       chan struct{}
	served      error

	archives atomic.Int64 // bytes of archives that left
	indexes  atomic.Int64 // bytes of piece indexes that left
}

// newObjectStore starts the server on loopback.
func newObjectStore(credentials string) (*objectStore, error) {
	if err := writeFile(credentials, []byte(s3Credential), 0o600); err != nil {
		return nil, err
	}
	backend := s3mem.New()
	if err := backend.CreateBucket(bucket); err != nil {
		return nil, fmt.Errorf("cannot make bucket %s: %w", bucket, err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("cannot start the S3 server: %w", err)
	}
	s := &objectStore{url: "http://" + l.Addr().String(), credentials: credentials, backend: backend, ended: make(chan struct{})}
	s.server = &http.Server{Handler: s.counted(gofakes3.New(backend).Server()), ReadHeaderTimeout: 10 * time.Second}
	go func() {
		defer close(s.ended)
		s.served = s.server.Serve(l)
	}()
	return s, nil
}

// close ends the server and every connection to it.
func (s *objectStore) close() error {
	err := s.server.Close()
	<-s.ended
	if !errors.Is(s.served, http.ErrServerClosed) {
		err = errors.Join(err, s.served)
	}
	return err
}

// counted counts the bodies of answers to GET.
func (s *objectStore) counted(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.HasPrefix(r.URL.Path, "/"+bucket+"/") {
			n := &s.archives
			if strings.HasSuffix(r.URL.Path, bundle.IndexSuffix) {
				n = &s.indexes
			}
			w = &countingAnswer{ResponseWriter: w, n: n}
		}
		next.ServeHTTP(w, r)
	})
}

// countingAnswer counts what is written to a client. It is no io.ReaderFrom, so that every byte passes Write.
type countingAnswer struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c *countingAnswer) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n.Add(int64(n))
	return n, err
}

// publish packs the folder of a release and stores it, with its piece index beside it. It takes no way through the network, which the user's own settings for AWS
// might lead elsewhere.
func (s *objectStore) publish(ctx context.Context, dir string, r release) (packed, error) {
	var archive bytes.Buffer
	archive.Grow(photos*photoBytes + 1<<20)
	index, digest, err := store.Pack(ctx, &archive, os.DirFS(filepath.Clean(dir)), bundle.PackOptions{}, runtime.GOMAXPROCS(0))
	if err != nil {
		return packed{}, fmt.Errorf("cannot pack release %s: %w", r.name, err)
	}
	p := packed{release: r, key: "website/" + r.name + ".tar.zst", digest: string(digest), index: string(index.Digest()),
		size: int64(archive.Len()), payload: index.PayloadSize()}
	for key, body := range map[string][]byte{p.key: archive.Bytes(), p.key + bundle.IndexSuffix: index.Encode()} {
		if _, err := s.backend.PutObject(bucket, key, map[string]string{}, bytes.NewReader(body), int64(len(body)), nil); err != nil {
			return packed{}, fmt.Errorf("cannot store %s: %w", key, err)
		}
	}
	return p, nil
}
