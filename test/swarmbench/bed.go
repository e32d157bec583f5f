package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// bedSpec is a data centre: hosts and an origin, every link of one rate.
type bedSpec struct {
	hosts int
	rate  string // as tc spells it
	mbit  float64
}

// floor is how many seconds a link takes for so many bytes of payload, headers included.
func (s bedSpec) floor(bytes int64) float64 {
	return float64(bytes) * 8 / (s.mbit * 1e6) / wire
}

// The origin's address; hosts follow from .11.
const (
	network    = "10.78.0."
	originHost = "origin"
	originIP   = network + "2"
)

// bed is a set of network namespaces around a bridge that has a namespace of its own.
type bed struct {
	spec   bedSpec
	prefix string
	dir    string
	keep   bool
	names  []string // namespaces made
	procs  []*exec.Cmd
}

// makeBed makes the namespaces, and a folder below dir; after an error no namespace is left.
func makeBed(ctx context.Context, spec bedSpec, dir string, keep bool) (*bed, error) {
	dir, err := os.MkdirTemp(dir, "")
	if err != nil {
		return nil, err
	}
	b := &bed{spec: spec, prefix: "gsb" + strconv.Itoa(os.Getpid()), dir: dir, keep: keep}
	if err := b.make(ctx); err != nil {
		return nil, errors.Join(err, b.remove())
	}
	return b, nil
}

func (b *bed) make(ctx context.Context) error {
	if err := b.namespace(ctx, "fabric"); err != nil {
		return err
	}
	if err := run(ctx, "ip", "-n", b.ns("fabric"), "link", "add", "br0", "type", "bridge", "stp_state", "0", "forward_delay", "0"); err != nil {
		return err
	}
	if err := run(ctx, "ip", "-n", b.ns("fabric"), "link", "set", "br0", "up"); err != nil {
		return err
	}
	if err := b.host(ctx, originHost, originIP); err != nil {
		return err
	}
	for i := range b.spec.hosts {
		if err := b.host(ctx, hostName(i), hostIP(i)); err != nil {
			return err
		}
	}
	return nil
}

func hostName(i int) string       { return "h" + strconv.Itoa(i+1) }
func hostIP(i int) string         { return network + strconv.Itoa(11+i) }
func (b *bed) ns(n string) string { return b.prefix + "-" + n }

func (b *bed) namespace(ctx context.Context, name string) error {
	if err := run(ctx, "ip", "netns", "add", b.ns(name)); err != nil {
		return err
	}
	b.names = append(b.names, name)
	return nil
}

// host makes a namespace with one shaped link to the bridge. Segments are kept small enough for the shaper's bucket, so that the pace is real.
func (b *bed) host(ctx context.Context, name, ip string) error {
	if err := b.namespace(ctx, name); err != nil {
		return err
	}
	ns, fabric, port := b.ns(name), b.ns("fabric"), "p-"+name
	for _, c := range [][]string{
		{"ip", "-n", ns, "link", "set", "lo", "up"},
		{"ip", "netns", "exec", ns, "sysctl", "-qw", "net.ipv4.tcp_congestion_control=" + congestion()},
		{"ip", "link", "add", "eth0", "netns", ns, "type", "veth", "peer", "name", port, "netns", fabric},
		{"ip", "-n", ns, "link", "set", "eth0", "gso_max_size", "16384"},
		{"ip", "-n", ns, "addr", "add", ip + "/24", "dev", "eth0"},
		{"ip", "-n", ns, "link", "set", "eth0", "up"},
		{"ip", "-n", fabric, "link", "set", port, "master", "br0", "up"},
	} {
		if err := run(ctx, c[0], c[1:]...); err != nil {
			return err
		}
	}
	return b.shape(ctx, name, b.spec.rate)
}

// congestion is what the kernel lets a namespace choose: bbr where it is allowed, as on most servers' links it changes little.
func congestion() string {
	allowed, err := os.ReadFile("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
	if err == nil && strings.Contains(string(allowed), "bbr") {
		return "bbr"
	}
	return "reno"
}

// shape gives a host's link a rate, both ways.
func (b *bed) shape(ctx context.Context, name, rate string) error {
	for _, end := range [][2]string{{b.ns(name), "eth0"}, {b.ns("fabric"), "p-" + name}} {
		if err := run(ctx, "ip", "netns", "exec", end[0], "tc", "qdisc", "replace", "dev", end[1], "root", "tbf", "rate", rate, "burst", "32kb", "latency", "40ms"); err != nil {
			return err
		}
	}
	return nil
}

// apart keeps two hosts from reaching each other.
func (b *bed) apart(ctx context.Context, name, ip, other, otherIP string) error {
	if err := run(ctx, "ip", "-n", b.ns(name), "route", "replace", "blackhole", otherIP+"/32"); err != nil {
		return err
	}
	return run(ctx, "ip", "-n", b.ns(other), "route", "replace", "blackhole", ip+"/32")
}

// cut takes a host's link down.
func (b *bed) cut(ctx context.Context, name string) error {
	return run(ctx, "ip", "-n", b.ns("fabric"), "link", "set", "p-"+name, "down")
}

// segmentBytes is the payload of a full segment, and
// headerBytes is what Ethernet, IP and TCP with timestamps put before the payload of a segment.
const (
	segmentBytes = 1448
	headerBytes  = 14 + 20 + 32
)

// sentAgain counts the segments that left a host once more: what its TCP sent again, but for what its own link dropped then. Those are counted by packets, which may have
// several segments each.
func (b *bed) sentAgain(ctx context.Context, name string) (int64, error) {
	out, err := exec.CommandContext(ctx, "ip", "netns", "exec", b.ns(name), "cat", "/proc/net/snmp", "/proc/net/netstat").Output()
	if err != nil {
		return 0, fmt.Errorf("cannot count what %s sent again: %w", name, err)
	}
	again, err := counted(string(out), "Tcp:", "RetransSegs")
	if err != nil {
		return 0, fmt.Errorf("cannot count what %s sent again: %w", name, err)
	}
	dropped, err := counted(string(out), "TcpExt:", "TCPRetransFail")
	if err != nil {
		return 0, fmt.Errorf("cannot count what %s sent again: %w", name, err)
	}
	return again - dropped, nil
}

// counted finds one of the kernel's counters: a line of names begins as that of the numbers after it does.
func counted(text, group, counter string) (int64, error) {
	var names []string
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		switch {
		case len(fields) == 0 || fields[0] != group:
		case names == nil:
			names = fields
		default:
			if at := slices.Index(names, counter); at > 0 && at < len(fields) {
				return strconv.ParseInt(fields[at], 10, 64)
			}
		}
	}
	return 0, fmt.Errorf("the kernel has no counter %s of %s", counter, strings.TrimSuffix(group, ":"))
}

// sent counts the bytes that left a host as TCP's payload: HTTP's headers included, acknowledgements and what TCP sent again not.
func (b *bed) sent(ctx context.Context, name string) (int64, error) {
	out, err := exec.CommandContext(ctx, "ip", "netns", "exec", b.ns(name), "tc", "-s", "qdisc", "show", "dev", "eth0", "root").Output()
	if err != nil {
		return 0, fmt.Errorf("cannot count what left %s: %w", name, err)
	}
	fields := strings.Fields(string(out))
	for i, f := range fields {
		if f != "Sent" || i+3 >= len(fields) {
			continue
		}
		sum, err := strconv.ParseInt(fields[i+1], 10, 64)
		if err != nil {
			return 0, err
		}
		segments, err := strconv.ParseInt(fields[i+3], 10, 64)
		if err != nil {
			return 0, err
		}
		again, err := b.sentAgain(ctx, name)
		return sum - headerBytes*segments - segmentBytes*again, err
	}
	return 0, fmt.Errorf("cannot count what left %s: tc says %q", name, out)
}

// start runs a program in a host until the bed is removed.
func (b *bed) start(name, log string, env []string, args ...string) (*exec.Cmd, error) {
	file, err := os.Create(filepath.Join(b.dir, log))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	cmd := exec.Command("ip", append([]string{"netns", "exec", b.ns(name)}, args...)...)
	cmd.Env = append(slices.DeleteFunc(os.Environ(), ofThisMachine), env...)
	cmd.Stdout, cmd.Stderr = file, file
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start %s in %s: %w", args[0], name, err)
	}
	b.procs = append(b.procs, cmd)
	return cmd, nil
}

// ofThisMachine says whether a variable tells of the network that the benchmark is run in, and not of the hosts': authorities that are trusted here, and proxies.
func ofThisMachine(variable string) bool {
	name, _, _ := strings.Cut(strings.ToUpper(variable), "=")
	return strings.HasSuffix(name, "_CA_BUNDLE") || strings.HasSuffix(name, "_PROXY")
}

// kill ends a program with everything it started.
func kill(cmd *exec.Cmd) { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }

// remove ends every process, takes the namespaces away and empties the folder.
func (b *bed) remove() error {
	for _, cmd := range b.procs {
		kill(cmd)
		_ = cmd.Wait()
	}
	var all error
	for _, name := range b.names {
		out, _ := exec.Command("ip", "netns", "pids", b.ns(name)).Output()
		for _, pid := range strings.Fields(string(out)) { // daemons of hooks
			if n, err := strconv.Atoi(pid); err == nil {
				_ = syscall.Kill(n, syscall.SIGKILL)
			}
		}
		all = errors.Join(all, run(context.Background(), "ip", "netns", "del", b.ns(name)))
	}
	if b.keep {
		fmt.Fprintln(os.Stderr, "kept:", b.dir)
		return all
	}
	return errors.Join(all, empty(b.dir))
}

// empty frees the blocks of all files below dir and leaves the files. ext4 gives the inode of a file that was deleted within the last minutes to no other, and looks at all
// of these for every file that it makes: what one measurement deletes would slow the next.
func empty(dir string) error {
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		return os.Truncate(path, 0)
	})
}

// run runs a command and puts what it printed into the error.
func run(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// output gives what a command printed, and puts its complaints into the error.
func output(cmd *exec.Cmd) ([]byte, error) {
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil, fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(string(exit.Stderr)))
	}
	return out, err
}

// await polls until ok or ctx ends.
func await(ctx context.Context, what string, ok func() bool) error {
	tick := time.NewTicker(250 * time.Millisecond) // times are those of the logs; reading these takes the processors from the hosts
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited in vain: %s", what)
		case <-tick.C:
		}
	}
	return nil
}

// writeRandom makes a file of incompressible bytes.
func writeRandom(path string, mib int) error {
	random, err := os.Open("/dev/urandom")
	if err != nil {
		return err
	}
	defer random.Close()
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	if _, err := io.CopyN(file, random, int64(mib)<<20); err != nil {
		file.Close()
		return err
	}
	return file.Close()
}
