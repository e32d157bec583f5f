package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/gitopsd/gitopsd/internal/agent"
	"github.com/gitopsd/gitopsd/internal/timerslack"
	"github.com/spf13/cobra"
)

// agentCommand is the daemon.
func agentCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Run the daemon: follow the config repository and keep this host as it says",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runAgent(cmd.Context(), file, cmd.ErrOrStderr())
		},
	}
	cmd.Flags().StringVar(&file, "config", agent.DefaultConfigFile, "the host's own file")
	return cmd
}

// runAgent reads the configuration, runs the agent until a signal ends ctx, and reloads on SIGHUP.
func runAgent(ctx context.Context, file string, out io.Writer) error {
	load := func() (agent.Config, error) { return agent.LoadConfig(file, os.LookupEnv) }
	config, err := load()
	if err != nil {
		return exitError{code: codeInvalid, err: err}
	}
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("cannot find this program's own file, which the hook supervisor is started from: %w", err)
	}
	level := new(slog.LevelVar)
	level.Set(config.Log.Level)
	log := newLogger(out, config.Log.Format, level)
	runSparingly(log)
	a, err := agent.New(agent.Options{Config: config, Reload: load, Program: program, Version: versionLine(), LogLevel: level, Log: log})
	if err != nil {
		return invalidConfig(err)
	}
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	for {
		select {
		case err := <-ended:
			if errors.Is(err, context.Canceled) {
				return nil
			}
			return invalidConfig(err)
		case <-hangups:
			if err := a.Reload(); err != nil {
				log.Error("reload", "error", err)
			}
		}
	}
}

// How the agent keeps its share of a host small, whose services have the right of way.
const (
	wakeSlack     = 8 * time.Millisecond // it may be woken so late
	collectGrowth = 300                  // percent by which its few MiB of memory grow before the garbage is collected; GOGC overrides it
)

// runSparingly lets the agent be woken, and collect its garbage, less often: with what it does when a bundle comes it would otherwise do either hundreds of times a second.
func runSparingly(log *slog.Logger) {
	if err := timerslack.Relax(wakeSlack); err != nil {
		log.Debug("the agent is woken as often as any program", "error", err)
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(collectGrowth)
	}
}

// invalidConfig gives a configuration that a person must correct its exit code, with which systemd starts the agent no more.
func invalidConfig(err error) error {
	if errors.As(err, new(*agent.ConfigError)) {
		return exitError{code: codeInvalid, err: err}
	}
	return err
}

// newLogger writes text or JSON lines.
func newLogger(out io.Writer, format string, level *slog.LevelVar) *slog.Logger {
	options := &slog.HandlerOptions{Level: level}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(out, options))
	}
	return slog.New(slog.NewTextHandler(out, options))
}
