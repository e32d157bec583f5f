package agent

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/gitopsd/gitopsd/internal/status"
)

// lostLook is how often this host looks whether its data is where it was.
const lostLook = 5 * time.Second

// lostAdvice says, by what is directly below the data directory, what its loss means and what to do.
var lostAdvice = []struct{ name, advice string }{
	{applyDir, "its releases, journals and hook output: going back needs the bundles anew, and hooks of what runs cannot be run; put it back, or make this machine another host (docs/how-to/replace-a-host.md)"},
	{bundlesDir, "its bundles: put it back, or restart the agent, which fetches them anew"},
	{gitDir, "its copy of git: put it back, or restart the agent (docs/how-to/restore-a-host.md)"},
	{raftDir, "its part of the coordinator sets: put it back, or make this machine another host (docs/how-to/replace-a-host.md)"},
	{memberStateFile, "which grants it has accepted: put it back, or make this machine another host (docs/how-to/replace-a-host.md)"},
}

// lost finds parts of the data directory that were removed, or put in another's place, while the agent runs: most of what they hold is not read before it is needed.
type lost struct {
	self, dir string
	log       *slog.Logger
	changed   func() // told when the notices changed

	mu      sync.Mutex
	seen    map[string]os.FileInfo
	missing map[string]status.Notice
}

// Run looks again and again until ctx ends.
func (l *lost) Run(ctx context.Context) error {
	for {
		l.look()
		if !paused(ctx, lostLook) {
			return nil
		}
	}
}

// look compares what is there with what was there first.
func (l *lost) look() {
	moved := false
	for _, part := range lostAdvice {
		info, err := os.Stat(filepath.Join(l.dir, part.name))
		if err != nil && !os.IsNotExist(err) { // nothing is known
			continue
		}
		moved = l.note(part.name, part.advice, info) || moved
	}
	if moved {
		l.changed()
	}
}

// note takes what is at a place now, nil for nothing, and says whether that is news.
func (l *lost) note(name, advice string, now os.FileInfo) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.seen == nil {
		l.seen, l.missing = map[string]os.FileInfo{}, map[string]status.Notice{}
	}
	before := l.seen[name]
	_, known := l.missing[name]
	there := before == nil || now != nil && os.SameFile(before, now)
	place := filepath.Join(l.dir, name)
	switch {
	case before == nil:
		if now != nil {
			l.seen[name] = now
		}
		return false
	case there == !known:
		return false
	case there:
		delete(l.missing, name)
		l.log.Info("a part of the data directory is back", "path", place)
		return true
	}
	l.missing[name] = status.Notice{Kind: "DataLost", Host: l.self, Since: status.Stamp(time.Now()),
		Message: fmt.Sprintf("%s was removed while the agent runs, and with it %s", place, advice)}
	l.log.Error("a part of the data directory was removed while the agent runs", "path", place, "lost", advice)
	return true
}

// notices lists what is missing.
func (l *lost) notices() []status.Notice {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []status.Notice
	for _, n := range l.missing {
		all = append(all, n)
	}
	return all
}
