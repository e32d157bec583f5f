package main

import (
	"fmt"
	"io"

	"github.com/gitopsd/gitopsd/internal/status"
	"github.com/spf13/cobra"
)

// whyCommand explains one group in a paragraph.
func whyCommand() *cobra.Command {
	var flags readFlags
	cmd := &cobra.Command{
		Use:   "why GROUP",
		Short: "Say in a sentence why a group is in its state, with the numbers, the host, the hook and its last lines",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := flags.client()
			if err != nil {
				return err
			}
			report, err := client.Report(cmd.Context(), args[0])
			if err != nil {
				return agentError(err)
			}
			group, err := report.Find(args[0])
			if err != nil {
				return err
			}
			if flags.output != "table" {
				return printDocument(cmd.OutOrStdout(), flags.output, group)
			}
			return printWhy(cmd.OutOrStdout(), group, report.Notices)
		},
	}
	flags.add(cmd, false)
	return cmd
}

// printDiagnosis prints which script failed and its last lines.
func printDiagnosis(out io.Writer, where string, e status.Event) {
	fmt.Fprintf(out, "%s: %s %s: %s\n", where, e.Event, e.Diagnostics.ScriptName, status.Printable(e.Diagnostics.Message))
	fmt.Fprint(out, status.Indented(e.Diagnostics.LogTail, 10))
}

// printWhy prints the reason, the failing hooks' last lines, and the notices that concern the group.
func printWhy(out io.Writer, g status.Group, notices []status.Notice) error {
	fmt.Fprintf(out, "%s is %s. %s\n", g.Group, g.State, g.Why)
	for _, h := range g.Hosts {
		if h.Reason != "" {
			fmt.Fprintf(out, "%s: %s\n", h.Name, status.Printable(h.Reason))
		}
		for _, e := range h.Events {
			if e.Status != "Failed" || e.Diagnostics == nil {
				continue
			}
			printDiagnosis(out, h.Name, e)
		}
	}
	for _, f := range g.Failures {
		if f.Diagnostics != nil {
			printDiagnosis(out, f.Host+" in "+f.Deployment, f.Event)
		}
	}
	for _, n := range notices {
		if n.Subject == "" || n.Subject == g.Group {
			fmt.Fprintf(out, "notice %s: %s\n", n.Kind, status.Printable(n.Message))
		}
	}
	return nil
}
