package configrepo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// sshUpstream runs git-upload-pack on an ssh server, protocol 0.
type sshUpstream struct {
	remote remote
	branch string
	limits Limits
	config *ssh.ClientConfig

	mu   sync.Mutex
	conn net.Conn // the open connection, if any
	p    *pktReader
	in   io.WriteCloser
	got  bool // the advertisement was read on this connection
	last plumbing.Hash
}

func newSSHUpstream(r remote, branch string, c Credentials, l Limits) (upstream, error) {
	if c.SSHKeyFile == "" || c.KnownHostsFile == "" {
		return nil, permanent("ssh needs credentials: set sshKeyFile and knownHostsFile (ssh-keyscan HOST prints the lines; compare them)")
	}
	pem, err := readBounded(c.SSHKeyFile, secretBytesMax)
	if err != nil {
		return nil, &permanentError{fmt.Errorf("cannot read sshKeyFile: %w", err)}
	}
	signer, err := ssh.ParsePrivateKey(pem)
	if err != nil {
		var missing *ssh.PassphraseMissingError
		if errors.As(err, &missing) {
			return nil, permanent("sshKeyFile %s has a passphrase, which a daemon cannot type: make a deploy key without one", c.SSHKeyFile)
		}
		return nil, permanent("cannot read sshKeyFile %s: %w", c.SSHKeyFile, err)
	}
	check, err := knownhosts.New(c.KnownHostsFile)
	if err != nil {
		return nil, &permanentError{fmt.Errorf("cannot read knownHostsFile: %w", err)}
	}
	return &sshUpstream{remote: r, branch: branch, limits: l, config: &ssh.ClientConfig{
		User:              r.user,
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyCallback:   check,
		HostKeyAlgorithms: hostKeyAlgorithms(check, r.host),
		Timeout:           10 * time.Second,
	}}, nil
}

// hostKeyAlgorithms asks the known hosts which kinds of key they list, so that
// the server does not offer another kind than the pinned one.
func hostKeyAlgorithms(check ssh.HostKeyCallback, host string) []string {
	var probe *knownhosts.KeyError
	if err := check(host, &net.TCPAddr{IP: net.IPv4zero}, noKey{}); !errors.As(err, &probe) {
		return nil
	}
	var out []string
	for _, known := range probe.Want {
		if t := known.Key.Type(); t == ssh.KeyAlgoRSA {
			out = append(out, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
		} else {
			out = append(out, t)
		}
	}
	return out
}

// noKey matches no known host.
type noKey struct{}

func (noKey) Type() string                        { return "none" }
func (noKey) Marshal() []byte                     { return []byte("none") }
func (noKey) Verify([]byte, *ssh.Signature) error { return errors.New("not a key") }

// open starts git-upload-pack and reads the list of refs.
func (s *sshUpstream) open(ctx context.Context) error {
	conn, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "tcp", s.remote.host)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.conn = conn
	s.mu.Unlock()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	c, chans, reqs, err := ssh.NewClientConn(conn, s.remote.host, s.config)
	if err != nil {
		return sshError(err)
	}
	client := ssh.NewClient(c, chans, reqs)
	session, err := client.NewSession()
	if err != nil {
		return err
	}
	if s.in, err = session.StdinPipe(); err != nil {
		return err
	}
	out, err := session.StdoutPipe()
	if err != nil {
		return err
	}
	session.Stderr = &boundedBuffer{limit: 4 << 10}
	if err := session.Start("git-upload-pack " + shellQuote(s.remote.path)); err != nil {
		return err
	}
	s.p = &pktReader{r: out, left: s.limits.RefBytes}
	if _, s.last, err = readAdvertisement(s.p, s.branch); err != nil {
		s.lastWord(ctx, session)
		if said := session.Stderr.(*boundedBuffer).String(); said != "" {
			return fmt.Errorf("the server says: %s", oneLine(said))
		}
		return err
	}
	s.got = true
	return nil
}

// lastWordPatience bounds how long the end of what a server complains of is waited for.
const lastWordPatience = 2 * time.Second

// lastWord waits until the server's program has ended and what it complained of
// is here: that travels beside its output, which may end first.
func (s *sshUpstream) lastWord(ctx context.Context, session *ssh.Session) {
	_ = s.in.Close()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = session.Wait() // ends with the connection at the latest
	}()
	patience := time.NewTimer(lastWordPatience)
	defer patience.Stop()
	select {
	case <-ended:
	case <-patience.C:
	case <-ctx.Done():
	}
}

// sshError names the two failures that people must mend.
func sshError(err error) error {
	var key *knownhosts.KeyError
	switch {
	case errors.As(err, &key) && len(key.Want) == 0:
		return permanent("the server's host key is not in knownHostsFile")
	case errors.As(err, &key):
		return permanent("the server's host key is another than knownHostsFile lists: somebody may be in between")
	case strings.Contains(err.Error(), "unable to authenticate"):
		return permanent("the server refuses the key of sshKeyFile")
	}
	return err
}

// within closes the connection when ctx ends, whatever blocks on it.
func (s *sshUpstream) within(ctx context.Context, do func() error) error {
	stop := context.AfterFunc(ctx, s.hangUp)
	defer stop()
	err := do()
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func (s *sshUpstream) tip(ctx context.Context) (plumbing.Hash, error) {
	s.close()
	err := s.within(ctx, func() error { return s.open(ctx) })
	return s.last, err
}

func (s *sshUpstream) fetch(ctx context.Context, want plumbing.Hash, haves []plumbing.Hash, sink io.Writer) error {
	return s.within(ctx, func() error {
		if !s.got {
			if err := s.open(ctx); err != nil {
				return err
			}
		}
		s.got = false // the conversation can be had once
		if _, err := io.WriteString(s.in, fetchRequest(0, want, haves)); err != nil {
			return err
		}
		s.p.left = s.limits.PackBytes + s.limits.PackBytes/8 + 1<<20
		return readFetch(s.p, 0, sink)
	})
}

func (s *sshUpstream) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		_ = s.conn.Close()
	}
}

func (s *sshUpstream) close() {
	if s.got {
		_, _ = io.WriteString(s.in, flushPkt)
		s.got = false
	}
	s.hangUp()
}

// shellQuote makes a path one word for the server's shell.
func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// boundedBuffer keeps the first bytes written to it and swallows the rest.
type boundedBuffer struct {
	mu    sync.Mutex
	data  []byte
	limit int
}

func (b *boundedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.data = append(b.data, p[:min(len(p), b.limit-len(b.data))]...)
	return len(p), nil
}

func (b *boundedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.data)
}
