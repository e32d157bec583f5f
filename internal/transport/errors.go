package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
)

// Reasons a dial fails that callers tell apart; all arrive inside a DialError.
var (
	// ErrUnknownHost: the Directory has no key for the host.
	ErrUnknownHost = errors.New("host has no key in the inventory")
	// ErrNoAddress: neither the Directory nor SetAddress knows where it is.
	ErrNoAddress = errors.New("host has no known address")
	// ErrKeyMismatch: somebody else answered.
	ErrKeyMismatch = errors.New("wrong host key")
	// ErrRefused: the peer does not admit this host.
	ErrRefused = errors.New("refused by the peer")
	// ErrBusy: the peer, or this host, is at one of its bounds.
	ErrBusy = errors.New("too busy")
	// ErrProtocol: the peer does not speak the protocol or its version.
	ErrProtocol = errors.New("protocol not supported")
	// ErrClone: an instance answered that another one had replaced.
	ErrClone = errors.New("two machines use this host's key")
	// ErrClosed: the transport is not running.
	ErrClosed = errors.New("transport is not running")
)

// DialError says which host could not be reached, where, and why.
type DialError struct {
	Host    string
	Address string // "" if none was known
	Err     error
}

func (e *DialError) Error() string {
	if e.Address == "" {
		return fmt.Sprintf("cannot dial host %s: %v", e.Host, e.Err)
	}
	return fmt.Sprintf("cannot dial host %s at %s: %v", e.Host, e.Address, e.Err)
}

func (e *DialError) Unwrap() error { return e.Err }

// trimOp drops the "dial tcp 10.0.0.1:7946:" that net puts before an error
// whose address is named anyway.
func trimOp(err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Err != nil && op.Op != "remote error" {
		var call *os.SyscallError
		if errors.As(op.Err, &call) {
			return call.Err
		}
		if op.Timeout() {
			return fmt.Errorf("no answer: %w", op.Err)
		}
		return op.Err
	}
	return err
}

// explainHandshake turns what crypto/tls says into what a person can act on.
func explainHandshake(err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "remote error" {
		switch text := op.Err.Error(); {
		case strings.Contains(text, "bad certificate"):
			return fmt.Errorf("%w: it does not know this host's key (is the key in its copy of the inventory?)", ErrRefused)
		case strings.Contains(text, "no application protocol"):
			return fmt.Errorf("%w: it does not serve this protocol", ErrProtocol)
		default:
			return fmt.Errorf("%w: %s", ErrRefused, text)
		}
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("no answer to the TLS handshake: %w", err)
	}
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("it closed the connection before its hello: %w", err)
	}
	return trimOp(err)
}
