package configrepo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
)

// This is the client half of git's upload-pack, protocols 0 and 2, for exactly
// one branch. It exists because go-git's client reads every ref a server cares
// to list before it looks at a deadline, and registers transports globally.

const agent = "agent=gitopsd"

// upstream is an open road to one mirror.
type upstream interface {
	// tip asks for the branch's commit; the zero hash if there is none.
	tip(ctx context.Context) (plumbing.Hash, error)
	// fetch streams the pack that leads from haves to want into sink.
	fetch(ctx context.Context, want plumbing.Hash, haves []plumbing.Hash, sink io.Writer) error
	close()
}

// permanentError is a failure that the same settings will meet again.
type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }

func permanent(format string, a ...any) error { return &permanentError{fmt.Errorf(format, a...)} }

func isPermanent(err error) bool {
	var p *permanentError
	return errors.As(err, &p)
}

// connect opens the road that a checked URL asks for.
func connect(r remote, branch string, c Credentials, l Limits) (upstream, error) {
	switch r.kind {
	case remoteSSH:
		return newSSHUpstream(r, branch, c, l)
	case remoteLocal:
		return newLocalUpstream(r, branch, l)
	}
	return newHTTPUpstream(r, branch, c, l)
}

// readAdvertisement reads protocol 0's list of refs and picks the branch; it
// says which version answered. The service header is optional.
func readAdvertisement(p *pktReader, branch string) (version int, tip plumbing.Hash, err error) {
	first := true
	for {
		kind, line, err := p.next()
		if err != nil {
			return 0, tip, fmt.Errorf("cannot read the list of refs: %w", err)
		}
		if kind == pktFlush {
			if first {
				continue // ends the service header
			}
			return version, tip, nil
		}
		text := string(bytes.TrimSuffix(line, []byte("\n")))
		switch {
		case strings.HasPrefix(text, "# service="):
			continue
		case strings.HasPrefix(text, "ERR "):
			return 0, tip, permanent("the server says: %s", oneLine(text[4:]))
		case first && text == "version 2":
			version = 2
		case first && text == "version 1":
			continue
		}
		first = false
		if strings.Contains(text, "object-format=") && !strings.Contains(text, "object-format=sha1") {
			return 0, tip, permanent("the repository uses an object format other than sha1, which is not supported")
		}
		if version == 2 {
			continue
		}
		ref, _, _ := strings.Cut(text, "\x00")
		id, name, _ := strings.Cut(ref, " ")
		if name == "refs/heads/"+branch {
			if tip, err = parseID(id); err != nil {
				return 0, tip, fmt.Errorf("cannot read the list of refs: %w", err)
			}
		}
	}
}

// lsRefsRequest is protocol 2's question for one branch.
func lsRefsRequest(branch string) string {
	return pkt("command=ls-refs\n") + pkt(agent+"\n") + delimPkt + pkt("ref-prefix refs/heads/%s\n", branch) + flushPkt
}

// readLsRefs reads the answer.
func readLsRefs(p *pktReader, branch string) (tip plumbing.Hash, err error) {
	for {
		kind, line, err := p.next()
		if err != nil {
			return tip, fmt.Errorf("cannot read the list of refs: %w", err)
		}
		if kind != pktData {
			return tip, nil
		}
		f := strings.Fields(string(line))
		if len(f) > 1 && f[0] == "ERR" {
			return tip, permanent("the server says: %s", oneLine(string(line)))
		}
		if len(f) >= 2 && f[1] == "refs/heads/"+branch {
			if tip, err = parseID(f[0]); err != nil {
				return tip, err
			}
		}
	}
}

// fetchRequest asks for want, given haves, in one round.
func fetchRequest(version int, want plumbing.Hash, haves []plumbing.Hash) string {
	var b strings.Builder
	if version == 2 {
		b.WriteString(pkt("command=fetch\n") + pkt(agent+"\n") + delimPkt)
		b.WriteString(pkt("ofs-delta\n") + pkt("no-progress\n") + pkt("want %s\n", want))
	} else {
		b.WriteString(pkt("want %s side-band-64k ofs-delta no-progress %s\n", want, agent) + flushPkt)
	}
	for _, h := range haves {
		b.WriteString(pkt("have %s\n", h))
	}
	b.WriteString(pkt("done\n"))
	if version == 2 {
		b.WriteString(flushPkt)
	}
	return b.String()
}

// readFetch copies the pack out of the answer's side band into sink.
func readFetch(p *pktReader, version int, sink io.Writer) error {
	inPack := version != 2
	for {
		kind, line, err := p.next()
		if err != nil {
			return fmt.Errorf("cannot read the pack: %w", err)
		}
		if kind == pktFlush || kind == pktEnd {
			return nil
		}
		if kind == pktDelim || len(line) == 0 {
			continue
		}
		if bytes.HasPrefix(line, []byte("ERR ")) {
			return fmt.Errorf("the server says: %s", oneLine(string(line[4:])))
		}
		if !inPack {
			inPack = string(bytes.TrimSuffix(line, []byte("\n"))) == "packfile"
			continue
		}
		switch line[0] {
		case 1:
			if _, err := sink.Write(line[1:]); err != nil {
				return err
			}
		case 2: // progress
		case 3:
			return fmt.Errorf("the server says: %s", oneLine(string(line[1:])))
		default:
			if bytes.HasPrefix(line, []byte("ACK ")) || bytes.HasPrefix(line, []byte("NAK")) {
				continue
			}
			return errors.New("cannot read the pack: the server does not use the side band it was asked for")
		}
	}
}
