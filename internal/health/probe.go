package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/gitopsd/gitopsd/internal/desired"
	"github.com/gitopsd/gitopsd/internal/timerslack"
)

// Bounds of one probe.
const (
	maxBody      = 64 << 10        // bytes of an HTTP answer looked at
	maxOutput    = 4 << 10         // bytes of a program's output kept
	maxRedirects = 3               // followed within the same host and port
	killGrace    = 2 * time.Second // for a killed program's pipes to close
)

// searchPath is what a program finds others on; the agent's own environment is not handed down.
const searchPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// newProbe makes the function that asks once. The message tells what was seen when it passed, the error what was wrong.
func newProbe(env []string) func(context.Context, desired.Check) (string, error) {
	return func(ctx context.Context, c desired.Check) (string, error) {
		switch {
		case c.HTTP != nil:
			return probeHTTP(ctx, *c.HTTP)
		case c.TCP != nil:
			return probeTCP(ctx, *c.TCP)
		case c.Exec != nil:
			return probeExec(ctx, c.Exec.Command, env)
		}
		return probeUnit(ctx, *c.Unit)
	}
}

// probeHTTP asks with a client of its own: no proxy from the environment, no kept connection, no foreign redirect.
func probeHTTP(ctx context.Context, c desired.HTTPCheck) (string, error) {
	transport := &http.Transport{DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: maxBody, ForceAttemptHTTP2: false}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, CheckRedirect: checkRedirect}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.URL, nil)
	if err != nil {
		return "", fmt.Errorf("cannot ask %s: %w", c.URL, err)
	}
	req.Header.Set("User-Agent", "gitopsd-health")
	for name, value := range c.Header {
		if strings.EqualFold(name, "Host") {
			req.Host = value
			continue
		}
		req.Header.Set(name, value)
	}
	res, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxBody))
	switch {
	case c.Status != 0 && res.StatusCode != c.Status:
		return "", fmt.Errorf("%s answered %d, wanted %d", c.URL, res.StatusCode, c.Status)
	case c.Status == 0 && (res.StatusCode < 200 || res.StatusCode > 399):
		return "", fmt.Errorf("%s answered %d, wanted 200 to 399", c.URL, res.StatusCode)
	case err != nil:
		return "", fmt.Errorf("%s answered %d but its body broke off: %w", c.URL, res.StatusCode, err)
	case c.Body != "" && !strings.Contains(string(body), c.Body):
		return "", fmt.Errorf("%s answered %d without %q in its first %d bytes", c.URL, res.StatusCode, c.Body, maxBody)
	}
	return fmt.Sprintf("%s answered %d", c.URL, res.StatusCode), nil
}

// checkRedirect follows a few redirects on the host and port that was asked; any other is the answer itself.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects || req.URL.Host != via[0].URL.Host {
		return http.ErrUseLastResponse
	}
	return nil
}

// probeTCP connects and closes.
func probeTCP(ctx context.Context, c desired.TCPCheck) (string, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", c.Address)
	if err != nil {
		return "", err
	}
	if err := conn.Close(); err != nil {
		return "", fmt.Errorf("cannot close the connection to %s: %w", c.Address, err)
	}
	return c.Address + " accepts connections", nil
}

// probeUnit asks systemd.
func probeUnit(ctx context.Context, c desired.UnitCheck) (string, error) {
	out, err := run(ctx, []string{"systemctl", "is-active", "--", c.Name}, nil)
	state, _, _ := strings.Cut(strings.TrimSpace(out), "\n")
	switch {
	case err == nil && state == "active":
		return "unit " + c.Name + " is active", nil
	case errors.Is(err, exec.ErrNotFound):
		return "", fmt.Errorf("cannot ask for unit %s: there is no systemctl here", c.Name)
	case state == "":
		state = "unknown to systemctl"
	}
	return "", fmt.Errorf("unit %s is %s", c.Name, clip(state))
}

// probeExec runs a program without a shell.
func probeExec(ctx context.Context, command, env []string) (string, error) {
	out, err := run(ctx, command, env)
	if err != nil {
		if out = clip(out); out != "" {
			return "", fmt.Errorf("%s: %w: %s", command[0], err, out)
		}
		return "", fmt.Errorf("%s: %w", command[0], err)
	}
	if out = clip(out); out != "" {
		return command[0] + " ended with status 0: " + out, nil
	}
	return command[0] + " ended with status 0", nil
}

// run executes a program in its own process group and kills the whole group when ctx ends. The first bytes of its output are kept.
func run(ctx context.Context, command, env []string) (string, error) {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Dir = "/"
	cmd.Env = append([]string{searchPath}, env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = killGrace // a child left behind with our pipe in its hand is not waited for longer
	out := &head{}
	cmd.Stdout, cmd.Stderr = out, out
	err := timerslack.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	return out.String(), err
}

// head keeps the first maxOutput bytes written to it and lets the rest pass.
type head struct {
	kept []byte
}

func (h *head) Write(p []byte) (int, error) {
	h.kept = append(h.kept, p[:min(len(p), maxOutput-len(h.kept))]...)
	return len(p), nil
}

func (h *head) String() string { return strings.ToValidUTF8(string(h.kept), "?") }
