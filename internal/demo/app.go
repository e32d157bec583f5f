package demo

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Bounds of the demo's application.
const (
	checkPatience = 20 * time.Second // how long --check waits for the application to answer
	checkPause    = 50 * time.Millisecond
	answerMax     = 1 << 10 // bytes
)

// AppMain is the body of the hidden verb demo-app: the web application that the demo deploys. With --listen it serves files until it is told to stop; with --check
// it asks such an application whether it serves what is expected. It returns the exit code.
func AppMain(args []string) int {
	flags := flag.NewFlagSet("demo-app", flag.ContinueOnError)
	listen := flags.String("listen", "", "address to serve on")
	root := flags.String("root", "", "folder to serve")
	pidFile := flags.String("pid-file", "", "file that names this process while it serves")
	check := flags.String("check", "", "URL to ask instead of serving")
	expect := flags.String("expect", "", "what the URL must answer")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	var err error
	if *check != "" {
		err = checkApp(*check, *expect)
	} else {
		err = serveApp(*listen, *root, *pidFile)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo-app:", err)
		return 1
	}
	return 0
}

// serveApp serves a folder until TERM or INT.
func serveApp(listen, root, pidFile string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", listen)
	if err != nil {
		return fmt.Errorf("cannot serve on %s: %w", listen, err)
	}
	if pidFile != "" {
		if err := os.WriteFile(pidFile, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644); err != nil {
			return fmt.Errorf("cannot write %s: %w", pidFile, err)
		}
	}
	server := &http.Server{Handler: http.FileServer(http.Dir(root)), ReadHeaderTimeout: 5 * time.Second}
	go func() {
		<-ctx.Done()
		server.Close()
	}()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// checkApp asks until the application answers as expected, or says what it answered last.
func checkApp(url, expect string) error {
	ctx, cancel := context.WithTimeout(context.Background(), checkPatience)
	defer cancel()
	pause := time.NewTicker(checkPause)
	defer pause.Stop()
	last := errors.New("it was not asked")
	for {
		got, err := ask(ctx, url)
		switch {
		case err == nil && got == expect:
			return nil
		case err == nil:
			return fmt.Errorf("%s serves %q, not %q", url, got, expect)
		case ctx.Err() == nil:
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer: %w", url, last)
		case <-pause.C:
		}
	}
}

// ask reads one short answer.
func ask(ctx context.Context, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, answerMax))
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("it answers %s", resp.Status)
	}
	return strings.TrimSpace(string(text)), nil
}
