package gossip

import (
	"bytes"
	"log"
	"log/slog"
	"strings"
)

// bridge turns memberlist's log into debug lines. memberlist tells in no other
// way that its own probe of a host failed, so suspect hears of it from here.
func bridge(l *slog.Logger, suspect func(host string)) *log.Logger {
	return log.New(&bridgeWriter{log: l, suspect: suspect}, "", 0)
}

type bridgeWriter struct {
	log     *slog.Logger
	suspect func(host string)
}

const (
	suspectBefore = "memberlist: Suspect "
	suspectAfter  = " has failed, no acks received"
)

// Write takes one line, "[LEVEL] memberlist: text".
func (w *bridgeWriter) Write(p []byte) (int, error) {
	line := string(bytes.TrimSpace(p))
	severity, text := "", line
	if strings.HasPrefix(line, "[") {
		if before, after, ok := strings.Cut(line[1:], "] "); ok {
			severity, text = before, after
		}
	}
	if rest, ok := strings.CutPrefix(text, suspectBefore); ok {
		if host, ok := strings.CutSuffix(rest, suspectAfter); ok {
			w.suspect(host)
		}
	}
	w.log.Debug("memberlist", "severity", severity, "text", strings.TrimPrefix(text, "memberlist: "))
	return len(p), nil
}
