package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/gitopsd/gitopsd/internal/status"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// defaultSocket is where an agent with the default configuration listens.
const defaultSocket = "/run/gitopsd/api.sock"

// readFlags are the flags of every verb that asks an agent.
type readFlags struct {
	addr   string
	output string
	follow bool
}

// add declares the flags on cmd; follow is left out where a verb cannot follow.
func (f *readFlags) add(cmd *cobra.Command, follow bool) {
	addr := os.Getenv("GITOPSD_ADDR")
	if addr == "" {
		addr = defaultSocket
	}
	cmd.Flags().StringVar(&f.addr, "addr", addr, "the agent's socket, a path or unix://PATH (environment: GITOPSD_ADDR)")
	cmd.Flags().StringVarP(&f.output, "output", "o", "table", "table, json or yaml")
	if follow {
		cmd.Flags().BoolVarP(&f.follow, "watch", "w", false, "follow changes; with -o json one object a line")
	}
}

// client returns a client after checking the flags.
func (f *readFlags) client() (*status.Client, error) {
	switch f.output {
	case "table", "json", "yaml":
	default:
		return nil, exitError{code: codeUsage, err: fmt.Errorf("cannot print %q: -o takes table, json or yaml", f.output)}
	}
	if err := checkSocket(f.addr); err != nil {
		return nil, exitError{code: codeUsage, err: err}
	}
	return status.NewClient(f.addr), nil
}

// checkSocket refuses what can be no socket's path: an agent is asked on its own host only.
func checkSocket(addr string) error {
	path := strings.TrimPrefix(addr, "unix://")
	switch scheme, _, isURL := strings.Cut(path, "://"); {
	case path == "":
		return fmt.Errorf("cannot use the address %q, of --addr or GITOPSD_ADDR: write the path of the agent's socket, such as %s", addr, defaultSocket)
	case isURL && !strings.Contains(scheme, "/"):
		return fmt.Errorf("cannot use the address %q, of --addr or GITOPSD_ADDR: it is only a path or unix://PATH, such as unix://%s", addr, defaultSocket)
	}
	return nil
}

// statusCommand shows every group, or one.
func statusCommand() *cobra.Command {
	var flags readFlags
	cmd := &cobra.Command{
		Use:   "status [GROUP]",
		Short: "Show what runs, what should run, and why a deployment waits, holds or failed",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := flags.client()
			if err != nil {
				return err
			}
			name := strings.Join(args, "")
			if flags.follow {
				return followStatus(cmd, client, flags.output, name)
			}
			report, err := client.Report(cmd.Context(), name)
			if err != nil {
				return agentError(err)
			}
			return printReport(cmd.OutOrStdout(), flags.output, report)
		},
	}
	flags.add(cmd, true)
	return cmd
}

// followStatus prints each change until the user leaves.
func followStatus(cmd *cobra.Command, client *status.Client, output, name string) error {
	out := cmd.OutOrStdout()
	screen := isTerminal(out) && output == "table"
	err := client.Follow(cmd.Context(), name, func(r status.Report) error {
		if screen {
			if _, err := io.WriteString(out, "\x1b[H\x1b[2J"); err != nil {
				return err
			}
		}
		if output == "json" {
			return printJSONLine(out, r)
		}
		return printReport(out, output, r)
	})
	if cmd.Context().Err() == context.Canceled {
		return nil
	}
	return agentError(err)
}

// printReport prints in the form asked for.
func printReport(out io.Writer, output string, r status.Report) error {
	if output != "table" {
		return printDocument(out, output, r)
	}
	for _, n := range r.Notices {
		if _, err := fmt.Fprintf(out, "! %s %s\n", status.Printable(strings.TrimSpace(n.Kind+" "+n.Host)), status.Printable(n.Message)); err != nil {
			return err
		}
	}
	if len(r.Groups) == 0 {
		why := "no groups: the config repository declares none"
		if r.Commit == "" {
			why = "no commit has been accepted yet"
		}
		_, err := fmt.Fprintln(out, why)
		return err
	}
	for i, g := range r.Groups {
		if i > 0 {
			fmt.Fprintln(out)
		}
		if _, err := io.WriteString(out, status.Table(g, palette(out))); err != nil {
			return err
		}
	}
	return nil
}

// palette colours terminals only, and not where NO_COLOR asks for none.
func palette(out io.Writer) status.Palette {
	if isTerminal(out) && os.Getenv("NO_COLOR") == "" {
		return status.ANSI()
	}
	return status.Palette{}
}

// isTerminal says whether out is a terminal.
func isTerminal(out io.Writer) bool {
	f, ok := out.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
