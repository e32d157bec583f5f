package apply

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/gitopsd/gitopsd/internal/appspec"
)

// Bounds of a hook's output in bytes. What is between head and tail is dropped.
const (
	headMax    = 512 << 10
	tailMax    = 256 << 10 // of each of two files, written in turn
	lineMax    = 16 << 10  // a longer line is cut into several
	logTailMax = 4 << 10
)

const (
	headFile    = "output.log"
	tailFile    = "output.tail"
	oldTailFile = "output.tail.old"
)

// output writes a hook's log: the head to one file, then the tail to two more in
// turn. It may be used from several goroutines.
type output struct {
	dir string

	mu      sync.Mutex
	head    *os.File
	tail    *os.File
	headLen int
	tailLen int
	old     int // bytes in the tail file before this one
	dropped int64
}

func newOutput(dir string) (*output, error) {
	f, err := os.OpenFile(filepath.Join(dir, headFile), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot open the hook's log: %w", err)
	}
	return &output{dir: dir, head: f}, nil
}

// entry adds one line of the log's own.
func (o *output) entry(text string) { o.write([]byte(text + "\n")) }

// write adds whole lines. Output that cannot be written is dropped: a full disk
// must not stop the hook.
func (o *output) write(lines []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.tail == nil && o.headLen+len(lines) <= headMax {
		n, _ := o.head.Write(lines)
		o.headLen += n
		o.dropped += int64(len(lines) - n)
		return
	}
	if o.tail == nil || o.tailLen+len(lines) > tailMax {
		o.turn()
	}
	if o.tail == nil {
		o.dropped += int64(len(lines))
		return
	}
	n, _ := o.tail.Write(lines)
	o.tailLen += n
	o.dropped += int64(len(lines) - n)
}

// turn begins a new tail file and drops the one before the last.
func (o *output) turn() {
	if o.tail != nil {
		o.tail.Close()
		o.dropped += int64(o.old)
		o.old = o.tailLen
		os.Rename(filepath.Join(o.dir, tailFile), filepath.Join(o.dir, oldTailFile))
	}
	o.tailLen = 0
	f, err := os.OpenFile(filepath.Join(o.dir, tailFile), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		f = nil
	}
	o.tail = f
}

// sync makes the log durable and returns how much of it was dropped.
func (o *output) sync() int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.head.Sync()
	if o.tail != nil {
		o.tail.Sync()
	}
	return o.dropped
}

// copyLines copies a stream into the log, each line with a prefix, until the
// stream ends.
func (o *output) copyLines(r io.Reader, prefix string) {
	buf := make([]byte, 0, lineMax)
	var out []byte
	for {
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		out = out[:0]
		rest := buf
		for {
			line, after, found := bytes.Cut(rest, []byte{'\n'})
			if !found {
				break
			}
			out = appendLine(out, prefix, line)
			rest = after
		}
		if len(rest) == cap(buf) || err != nil && len(rest) > 0 {
			out = appendLine(out, prefix, rest)
			rest = nil
		}
		buf = append(buf[:0], rest...)
		if len(out) > 0 {
			o.write(out)
		}
		if err != nil {
			return
		}
	}
}

// appendLine adds a line to out; a byte that is not UTF-8 becomes a question
// mark, as in the agent's logs.
func appendLine(out []byte, prefix string, line []byte) []byte {
	out = append(out, prefix...)
	if utf8.Valid(line) {
		return append(append(out, line...), '\n')
	}
	for len(line) > 0 {
		r, size := utf8.DecodeRune(line)
		if r == utf8.RuneError && size == 1 {
			out = append(out, '?')
		} else {
			out = append(out, line[:size]...)
		}
		line = line[size:]
	}
	return append(out, '\n')
}

// readOutput returns what a hook's log holds at this moment.
func readOutput(dir string) []byte {
	head, _ := os.ReadFile(filepath.Join(dir, headFile))
	if res, _ := readResult(dir); res != nil && res.DroppedBytes > 0 {
		head = fmt.Appendf(head, "[gitopsd]%d bytes of output are left out here\n", res.DroppedBytes)
	}
	old, _ := os.ReadFile(filepath.Join(dir, oldTailFile))
	tail, _ := os.ReadFile(filepath.Join(dir, tailFile))
	return append(append(head, old...), tail...)
}

// logTail returns the last whole lines of a hook's log.
func logTail(dir string) string {
	data := readOutput(dir)
	if len(data) > logTailMax {
		data = data[len(data)-logTailMax:]
		if _, after, found := bytes.Cut(data, []byte{'\n'}); found {
			data = after
		}
	}
	return strings.ToValidUTF8(string(data), "?")
}

// hookDirs lists the hooks of a deployment that have output, in order.
func (a *Applier) hookDirs(d *Deployment) []string {
	var dirs []string
	add := func(e appspec.Event, v variant) {
		if dir := a.hookDir(d.Key(), e, v); exists(filepath.Join(dir, headFile)) {
			dirs = append(dirs, dir)
		}
	}
	for _, e := range d.Events {
		add(e, ownVariant)
		add(e, newVariant)
	}
	for _, e := range []appspec.Event{appspec.ApplicationStart, appspec.ValidateService} {
		add(e, undoVariant)
	}
	return dirs
}

// scriptsLog returns the output of all hooks of a deployment, line by line.
func (a *Applier) scriptsLog(d *Deployment) []string {
	lines := []string{}
	for _, dir := range a.hookDirs(d) {
		text := strings.TrimSuffix(string(readOutput(dir)), "\n")
		if text != "" {
			lines = append(lines, strings.Split(text, "\n")...)
		}
	}
	return lines
}

// Log opens the output of an event's hooks as it is at this moment; an empty
// event means all events in order.
func (a *Applier) Log(k Key, event string) (io.ReadCloser, error) {
	d, err := a.readDeployment(k)
	if err != nil {
		return nil, fmt.Errorf("cannot open the log of deployment %s: %w: %w", k, ErrUnknown, err)
	}
	if event != "" {
		d.Events = []appspec.Event{appspec.Event(event)}
	}
	var all []byte
	for _, dir := range a.hookDirs(d) {
		all = append(all, readOutput(dir)...)
	}
	return io.NopCloser(bytes.NewReader(all)), nil
}
