package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/gitopsd/gitopsd/internal/status"
	"github.com/spf13/cobra"
)

// historyCommand lists a group's deployments.
func historyCommand() *cobra.Command {
	var flags readFlags
	cmd := &cobra.Command{
		Use:   "history GROUP",
		Short: "List a group's deployments, newest first, with who signed them and how they ended",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := flags.client()
			if err != nil {
				return err
			}
			history, err := client.History(cmd.Context(), args[0])
			if err != nil {
				return agentError(err)
			}
			if flags.output != "table" {
				return printDocument(cmd.OutOrStdout(), flags.output, history)
			}
			return printHistory(cmd.OutOrStdout(), history)
		},
	}
	flags.add(cmd, false)
	return cmd
}

// printHistory prints one line a deployment and, below a bad one, why.
func printHistory(out io.Writer, h status.History) error {
	table := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(table, "DEPLOYMENT\tSTATUS\tCREATOR\tCOMMIT\tSIGNERS\tSTARTED\tENDED\tREASON")
	for _, d := range h.Deployments {
		reason := d.Reason
		if d.RollbackOf != "" {
			reason = strings.TrimSpace("rolls back " + d.RollbackOf + "; " + reason)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", d.ID, d.Status, d.Creator, status.Short(d.Commit), strings.Join(d.Signers, ","),
			d.StartTime, d.EndTime, status.Printable(strings.Trim(reason, "; ")))
	}
	return table.Flush()
}
