package gossip

import (
	"bytes"
	"errors"
	"fmt"
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
	w.log.Debug("memberlist", "severity", severity, "text", plain(strings.TrimPrefix(text, "memberlist: ")))
	return len(p), nil
}

// plain makes one line of what memberlist says, without the address that every
// host has for it: hosts are named, and who dials knows where they are.
func plain(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	fixed := address("").Addr
	for _, before := range []string{" " + fixed, "from=" + fixed, fixed} {
		text = strings.ReplaceAll(text, before, "")
	}
	return strings.TrimSpace(text)
}

// joinError words why a host could not be joined: memberlist makes a list with
// one element of it, over several lines.
func joinError(host string, err error) error {
	text := plain(err.Error())
	if _, after, ok := strings.Cut(text, "failed to join: "); ok {
		text = after
	}
	if strings.Contains(text, host) {
		return errors.New(text)
	}
	return fmt.Errorf("%s: %s", host, text)
}
