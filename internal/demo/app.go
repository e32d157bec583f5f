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
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of the demo's application.
const (
	checkPatience = 20 * time.Second // how long --check waits for the application to answer
	checkPause    = 50 * time.Millisecond
	answerMax     = 1 << 10          // bytes
	stopPatience  = 10 * time.Second // between TERM and KILL
)

// lockVariable names the file that the demo holds a lock on for as long as it lives.
const lockVariable = "DEMO_LOCK"

// AppMain is the body of the hidden verb demo-app: the web application that the demo deploys, and what its hooks call. With --listen it serves files until it is
// told to stop; --start does so in a process of its own, --stop ends the one that --pid-file names, and --check asks whether it serves what is expected. It
// returns the exit code.
func AppMain(args []string) int {
	flags := flag.NewFlagSet("demo-app", flag.ContinueOnError)
	var a application
	flags.StringVar(&a.listen, "listen", "", "address to serve on")
	flags.IntVar(&a.listenFD, "listen-fd", 0, "descriptor to serve on instead")
	flags.StringVar(&a.root, "root", "", "folder to serve")
	flags.StringVar(&a.pidFile, "pid-file", "", "file that names the serving process")
	flags.StringVar(&a.logFile, "log-file", os.DevNull, "where the process that --start leaves behind writes to")
	start := flags.Bool("start", false, "serve in the background")
	stop := flags.Bool("stop", false, "end the process in --pid-file")
	check := flags.String("check", "", "URL to ask instead of serving")
	expect := flags.String("expect", "", "what the URL must answer")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	var err error
	switch {
	case *check != "":
		err = checkApp(*check, *expect)
	case *start:
		err = a.start()
	case *stop:
		err = a.stop()
	default:
		err = a.serve()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo-app:", err)
		return 1
	}
	return 0
}

// application is the web application on one host.
type application struct {
	listen   string
	listenFD int
	root     string
	pidFile  string
	logFile  string
}

// serve serves a folder until TERM or INT, or until the demo is gone.
func (a application) serve() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	l, err := a.listener(ctx)
	if err != nil {
		return fmt.Errorf("cannot serve on %s: %w", a.listen, err)
	}
	if a.pidFile != "" {
		if err := os.WriteFile(a.pidFile, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644); err != nil {
			return fmt.Errorf("cannot write %s: %w", a.pidFile, err)
		}
	}
	if lock := os.Getenv(lockVariable); lock != "" {
		go func() {
			if outlive(lock) {
				stop()
			}
		}()
	}
	server := &http.Server{Handler: http.FileServer(http.Dir(a.root)), ReadHeaderTimeout: 5 * time.Second}
	go func() {
		<-ctx.Done()
		server.Close()
	}()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// listener opens the address, or takes over what start has opened.
func (a application) listener(ctx context.Context) (net.Listener, error) {
	if a.listenFD == 0 {
		var config net.ListenConfig
		return config.Listen(ctx, "tcp", a.listen)
	}
	f := os.NewFile(uintptr(a.listenFD), "listener")
	defer f.Close()
	return net.FileListener(f)
}

// start opens the address and leaves a process behind that serves on it; so the port answers from the moment this returns.
func (a application) start() error {
	l, err := net.Listen("tcp", a.listen)
	if err != nil {
		return fmt.Errorf("cannot serve on %s: %w", a.listen, err)
	}
	defer l.Close()
	socket, err := l.(*net.TCPListener).File()
	if err != nil {
		return fmt.Errorf("cannot hand over %s: %w", a.listen, err)
	}
	defer socket.Close()
	log, err := os.OpenFile(a.logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("cannot open the application's log: %w", err)
	}
	defer log.Close()
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("cannot find this program: %w", err)
	}
	cmd := exec.Command(self, "demo-app", "--listen", a.listen, "--listen-fd", "3", "--root", a.root)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{socket}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot start the application: %w", err)
	}
	if err := os.WriteFile(a.pidFile, []byte(strconv.Itoa(cmd.Process.Pid)+"\n"), 0o644); err != nil {
		return errors.Join(fmt.Errorf("cannot write %s: %w", a.pidFile, err), cmd.Process.Kill())
	}
	return cmd.Process.Release()
}

// stop ends the application that the file names and waits until it is gone. None is no error: a hook may run twice.
func (a application) stop() error {
	text, err := os.ReadFile(a.pidFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot read which process to stop: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 1 {
		return fmt.Errorf("cannot stop the application: %s holds %q, not the number of a process", a.pidFile, text)
	}
	if err := endProcess(pid, stopPatience); err != nil {
		return fmt.Errorf("cannot stop the application: %w", err)
	}
	return os.Remove(a.pidFile)
}

// endProcess sends TERM and, after patience, KILL to a process that is an application of the demo, and waits for its end.
func endProcess(pid int, patience time.Duration) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err != nil || !strings.Contains(string(line), "\x00demo-app\x00") {
		return nil // the number belongs to somebody else by now
	}
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
		for {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(patience.Milliseconds()))
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil {
				return err
			}
			if n > 0 {
				return nil
			}
			break
		}
	}
	return fmt.Errorf("process %d does not end", pid)
}

// outlive waits until nobody holds the lock of a demo any more; it is false when that cannot be found out.
func outlive(lock string) bool {
	f, err := os.Open(lock)
	if err != nil {
		return errors.Is(err, os.ErrNotExist) // the demo is gone, and so is its folder
	}
	defer f.Close()
	for {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_SH); !errors.Is(err, unix.EINTR) {
			return err == nil
		}
	}
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
