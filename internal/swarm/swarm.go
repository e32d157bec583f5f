// Package swarm brings a bundle to every host of a group while one copy of it leaves its origin.
package swarm

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/bundle/store"
)

// Origin is the first source of a bundle's bytes, as package bundle/origin opens it.
type Origin interface {
	Size(ctx context.Context) (int64, error)
	ReadRange(ctx context.Context, off, n int64) (io.ReadCloser, error)
	ReadIndex(ctx context.Context) ([]byte, error)
}

// Job is one bundle that this host needs.
type Job struct {
	Ref         bundle.Ref      // Size may be 0 when the commit does not say; Index nil
	IndexDigest bundle.Digest   // of the piece index, pinned in git; "" for none
	Origin      Origin          // nil on a host without a route to it
	Where       string          // names the origin in messages
	Members     func() []string // live hosts that have or want the bundle, self included; asked again and again
	Dealer      func() string   // the host that deals pieces (the set's leader), or ""
}

// Progress is how far a bundle is on this host.
type Progress struct {
	Total      int64             `json:"total"`      // bytes; 0 while unknown
	Have       int64             `json:"have"`       // verified bytes
	FromOrigin int64             `json:"fromOrigin"` // bytes read from the origin by this host
	FromPeers  int64             `json:"fromPeers"`  // bytes read from other hosts
	Reused     int64             `json:"reused"`     // bytes found in earlier bundles
	Rate       int64             `json:"rate"`       // bytes in a second, lately
	Peers      int               `json:"peers"`      // hosts heard of in this swarm
	State      string            `json:"state"`      // one sentence: complete, fetching, waiting for origin, ...
	Suspects   map[string]string `json:"suspects"`   // host -> why it is no longer asked
}

// Options configure New.
type Options struct {
	Host     string       // this host's name
	Store    *store.Store // where bundles are kept
	Listener net.Listener // accepts peers (bundle ALPN); closed by Run's end
	Client   *http.Client // dials peers by host name
	Upload   int64        // bytes in a second to peers; 0: no limit
	Download int64        // bytes in a second from peers and origins; 0: no limit
	Log      *slog.Logger // nil discards
}

// Swarm is this host's part in every bundle's distribution.
type Swarm struct{}

// New checks the options and starts nothing.
func New(o Options) (*Swarm, error) { return &Swarm{}, nil }

// Run serves peers until ctx ends.
func (s *Swarm) Run(ctx context.Context) error { return errors.ErrUnsupported }

// Fetch makes a bundle complete in the store.
func (s *Swarm) Fetch(ctx context.Context, job Job) error { return errors.ErrUnsupported }

// Progress says how far a bundle is.
func (s *Swarm) Progress(digest bundle.Digest) Progress { return Progress{} }
