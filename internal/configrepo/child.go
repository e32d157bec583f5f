package configrepo

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// jobVersion is the version of what parent and child say to each other; both
// are normally the same binary, but a binary may be replaced under a running
// parent.
const jobVersion = 1

const jobBytesMax = 1 << 20

// job is one task of the child: fetch from a mirror, or index a peer's pack.
type job struct {
	Version     int         `json:"version"`
	Kind        string      `json:"kind"` // fetch | index
	Mirror      string      `json:"mirror"`
	URL         string      `json:"url,omitempty"`
	Branch      string      `json:"branch,omitempty"`
	AllowLocal  bool        `json:"allowLocal,omitempty"`
	Protocol    int         `json:"protocol,omitempty"` // 1 + what the server chose, so as not to ask again; 0: unknown
	Want        string      `json:"want,omitempty"`
	Haves       []string    `json:"haves,omitempty"`
	File        string      `json:"file,omitempty"` // index: a pack that came from a peer
	Credentials Credentials `json:"credentials"`
	Limits      Limits      `json:"limits"`
}

type jobResult struct {
	Version   int    `json:"version"`
	Error     string `json:"error,omitempty"`
	Permanent bool   `json:"permanent,omitempty"`
	Name      string `json:"name,omitempty"`
	Bytes     int64  `json:"bytes"`
}

// run does the job in this process.
func (j job) run(ctx context.Context) (ingested, error) {
	switch j.Kind {
	case "fetch":
		r, err := parseRemote(j.URL, j.AllowLocal)
		if err != nil {
			return ingested{}, &permanentError{err}
		}
		want, err := parseID(j.Want)
		if err != nil {
			return ingested{}, &permanentError{err}
		}
		haves, err := parseIDs(j.Haves)
		if err != nil {
			return ingested{}, &permanentError{err}
		}
		up, err := connect(r, j.Branch, j.Credentials, j.Limits)
		if err != nil {
			return ingested{}, err
		}
		defer up.close()
		if h, ok := up.(*httpUpstream); ok {
			h.version = j.Protocol - 1
		}
		return ingest(ctx, j.Mirror, j.Limits, func(w io.Writer) error { return up.fetch(ctx, want, haves, w) })
	case "index":
		f, err := os.Open(j.File)
		if err != nil {
			return ingested{}, err
		}
		defer f.Close()
		return ingest(ctx, j.Mirror, j.Limits, func(w io.Writer) error {
			_, err := io.Copy(w, f)
			return err
		})
	}
	return ingested{}, permanent("job of unknown kind %q", j.Kind)
}

// runIn does the job in a child process, or here if argv is empty.
func (j job) runIn(ctx context.Context, argv []string) (ingested, error) {
	j.Version = jobVersion
	if len(argv) == 0 {
		return j.run(ctx)
	}
	line, err := json.Marshal(j)
	if err != nil {
		return ingested{}, err
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "GOTRACEBACK=none")
	cmd.WaitDelay = 5 * time.Second
	out, said := &boundedBuffer{limit: 64 << 10}, &boundedBuffer{limit: 8 << 10}
	cmd.Stdout, cmd.Stderr = out, said
	in, err := cmd.StdinPipe()
	if err != nil {
		return ingested{}, err
	}
	if err := cmd.Start(); err != nil {
		return ingested{}, fmt.Errorf("cannot start the fetching process: %w", err)
	}
	// The pipe stays open: its end tells the child that its parent is gone.
	_, werr := in.Write(append(line, '\n'))
	err = cmd.Wait()
	in.Close()
	if ctx.Err() != nil {
		return ingested{}, ctx.Err()
	}
	var res jobResult
	if jerr := json.Unmarshal([]byte(out.String()), &res); jerr != nil || res.Version != jobVersion {
		return ingested{}, deathOf(errors.Join(err, werr), said.String(), res.Version)
	}
	if res.Error != "" {
		if res.Permanent {
			return ingested{}, &permanentError{errors.New(res.Error)}
		}
		return ingested{}, errors.New(res.Error)
	}
	return ingested{Name: res.Name, Bytes: res.Bytes}, nil
}

// deathOf explains a child that gave no result.
func deathOf(err error, said string, version int) error {
	if version != 0 && version != jobVersion {
		return fmt.Errorf("the fetching process speaks version %d, this one %d: restart the agent", version, jobVersion)
	}
	if strings.Contains(said, "out of memory") || strings.Contains(said, "cannot allocate") {
		return &permanentError{errors.New("the fetching process ran out of the memory it may use: what the server sent is too large or hostile")}
	}
	first, _, _ := strings.Cut(strings.TrimSpace(said), "\n")
	return fmt.Errorf("the fetching process died (%v): %s", err, oneLine(first))
}

// ChildMain is the body of the hidden verb behind Options.Child: it reads one
// job from stdin, does it under a memory limit, and prints the result. It ends
// when its parent does. Returns the exit code.
func ChildMain(args []string) int {
	if len(args) > 0 {
		fmt.Fprintln(os.Stderr, "usage: started by gitopsd itself; reads a job from stdin")
		return 2
	}
	in := bufio.NewReaderSize(os.Stdin, 64<<10)
	line, err := readLine(in, jobBytesMax)
	if err != nil {
		fmt.Fprintln(os.Stderr, "cannot read the job:", err)
		return 2
	}
	go func() {
		_, _ = io.Copy(io.Discard, in)
		os.Exit(3)
	}()
	res := jobResult{Version: jobVersion}
	var j job
	if err := json.Unmarshal(line, &j); err != nil {
		res.Error, res.Permanent = "cannot read the job: "+err.Error(), true
	} else if j.Version != jobVersion {
		res.Error = fmt.Sprintf("the agent speaks version %d, the binary on disk %d: restart the agent", j.Version, jobVersion)
	} else {
		got, err := j.limited()
		res.Name, res.Bytes = got.Name, got.Bytes
		if err != nil {
			res.Error, res.Permanent = err.Error(), isPermanent(err)
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(res); err != nil {
		return 1
	}
	return 0
}

func readLine(r *bufio.Reader, limit int) ([]byte, error) {
	var line []byte
	for {
		part, more, err := r.ReadLine()
		if err != nil {
			return nil, err
		}
		if line = append(line, part...); len(line) > limit {
			return nil, errors.New("it is too long")
		}
		if !more {
			return line, nil
		}
	}
}

// limited runs the job with the address space this process has now plus what
// the limits grant: a runtime that cannot grow dies, and the agent lives.
func (j job) limited() (ingested, error) {
	j.Limits = j.Limits.withDefaults()
	if size, err := addressSpace(); err == nil {
		limit := uint64(size + j.Limits.MemoryBytes)
		if err := unix.Setrlimit(unix.RLIMIT_AS, &unix.Rlimit{Cur: limit, Max: limit}); err != nil {
			return ingested{}, fmt.Errorf("cannot limit memory: %w", err)
		}
	}
	debug.SetMemoryLimit(j.Limits.MemoryBytes / 2)
	ctx, cancel := context.WithTimeout(context.Background(), j.Limits.Timeout)
	defer cancel()
	return j.run(ctx)
}

// addressSpace is this process's present virtual size in bytes.
func addressSpace() (int64, error) {
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, err
	}
	f := bytes.Fields(data)
	if len(f) == 0 {
		return 0, errors.New("/proc/self/statm is empty")
	}
	pages, err := strconv.ParseInt(string(f[0]), 10, 64)
	return pages * int64(os.Getpagesize()), err
}
