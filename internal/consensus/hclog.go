package consensus

import (
	"context"
	"io"
	"log"
	"log/slog"
	"slices"

	"github.com/hashicorp/go-hclog"
)

// raftLog passes raft's own messages on. Raft calls an error what is a peer
// being away, so its errors are warnings here and the rest is for debugging.
type raftLog struct {
	log  *slog.Logger
	name string
}

var _ hclog.Logger = raftLog{}

// Log implements hclog.Logger, as do all the following.
func (l raftLog) Log(level hclog.Level, msg string, args ...any) {
	to := slog.LevelDebug
	if level >= hclog.Error && !slices.ContainsFunc(args, ends) {
		to = slog.LevelWarn
	}
	if l.log.Enabled(context.Background(), to) {
		l.log.Log(context.Background(), to, "raft: "+msg, args...)
	}
}

// ends says whether a message's argument is what a stop makes of whatever is under way.
func ends(arg any) bool {
	err, ok := arg.(error)
	return ok && isClosed(err)
}

func (l raftLog) Trace(string, ...any)          {}
func (l raftLog) Debug(msg string, args ...any) { l.Log(hclog.Debug, msg, args...) }
func (l raftLog) Info(msg string, args ...any)  { l.Log(hclog.Info, msg, args...) }
func (l raftLog) Warn(msg string, args ...any)  { l.Log(hclog.Warn, msg, args...) }
func (l raftLog) Error(msg string, args ...any) { l.Log(hclog.Error, msg, args...) }
func (l raftLog) IsTrace() bool                 { return false }
func (l raftLog) IsDebug() bool                 { return l.log.Enabled(context.Background(), slog.LevelDebug) }
func (l raftLog) IsInfo() bool                  { return l.IsDebug() }
func (l raftLog) IsWarn() bool                  { return l.IsDebug() }
func (l raftLog) IsError() bool                 { return true }
func (l raftLog) ImpliedArgs() []any            { return nil }
func (l raftLog) With(args ...any) hclog.Logger {
	return raftLog{log: l.log.With(args...), name: l.name}
}
func (l raftLog) Name() string                     { return l.name }
func (l raftLog) Named(name string) hclog.Logger   { return raftLog{log: l.log, name: name} }
func (l raftLog) ResetNamed(n string) hclog.Logger { return l.Named(n) }
func (l raftLog) SetLevel(hclog.Level)             {}
func (l raftLog) GetLevel() hclog.Level            { return hclog.Debug }

func (l raftLog) StandardLogger(*hclog.StandardLoggerOptions) *log.Logger {
	return log.New(io.Discard, "", 0)
}

func (l raftLog) StandardWriter(*hclog.StandardLoggerOptions) io.Writer { return io.Discard }
