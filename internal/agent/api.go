package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/gitopsd/gitopsd/internal/durable"
	"github.com/gitopsd/gitopsd/internal/status"
	"github.com/gitopsd/gitopsd/internal/transport"
)

// Bounds of the API servers.
const (
	headerTimeout = 10 * time.Second
	idleTimeout   = 2 * time.Minute
	headerBytes   = 32 << 10
	stopGrace     = 2 * time.Second // for requests under way when the agent stops
	answerTimeout = time.Minute     // one answer; streams set their own deadlines as they go
)

// serve runs an HTTP server on a listener until ctx ends.
func serve(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger) error {
	running, end := context.WithCancel(ctx)
	server := &http.Server{
		Handler: h, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, WriteTimeout: answerTimeout, MaxHeaderBytes: headerBytes,
		ErrorLog:    slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context { return running },
		ConnContext: transport.ConnContext,
	}
	if bounded, ok := l.(*status.Connections); ok {
		server.ConnState = bounded.ConnState
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-running.Done()
		grace, cancel := context.WithTimeout(context.Background(), stopGrace)
		defer cancel()
		if server.Shutdown(grace) != nil {
			server.Close()
		}
	}()
	err := server.Serve(l)
	end()
	<-stopped
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("cannot serve on %s: %w", l.Addr(), err)
}

// listenSocket opens the operators' socket: for root and the group of the file alone. A stale socket of an agent that was killed is replaced; the data
// directory's lock has already ruled out a living one.
func listenSocket(path string) (net.Listener, error) {
	if err := durable.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("cannot make the folder of socket %s: %w", path, err)
	}
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() != os.ModeSocket {
		return nil, fmt.Errorf("cannot listen on %s: a file that is not a socket is there", path)
	}
	young := path + youngSuffix // nobody may connect before the mode is right
	if err := os.Remove(young); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot replace the old socket %s: %w", young, err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: young, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	if err = os.Chmod(young, 0o660); err == nil {
		err = os.Rename(young, path)
	}
	if err != nil {
		l.Close()
		os.Remove(young)
		return nil, fmt.Errorf("cannot restrict socket %s: %w", path, err)
	}
	return l, nil
}

// youngSuffix is short enough for what a socket's path may have beyond socketRule.
const youngSuffix = ".new"
