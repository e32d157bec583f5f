package main

import (
	"strings"

	"github.com/gitopsd/gitopsd/internal/status"
	"github.com/spf13/cobra"
)

// logsCommand prints what hooks wrote.
func logsCommand() *cobra.Command {
	var flags readFlags
	var query status.LogQuery
	cmd := &cobra.Command{
		Use:   "logs GROUP [HOST]",
		Short: "Print what the hooks of a deployment wrote, on any host of the group",
		Long: "Print what the hooks of a deployment wrote, on any host of the group. With -o json or yaml: {apiVersion, group, hosts: [{name, deployment, output, error}]},\n" +
			"where error says why a host has no output.",
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := flags.client()
			if err != nil {
				return err
			}
			query.Group = args[0]
			query.Host = strings.Join(args[1:], "")
			if flags.output == "table" { // the text as it comes
				return agentError(client.Logs(cmd.Context(), query, cmd.OutOrStdout()))
			}
			logs, err := client.Outputs(cmd.Context(), query)
			if err != nil {
				return agentError(err)
			}
			return printDocument(cmd.OutOrStdout(), flags.output, logs)
		},
	}
	flags.add(cmd, false)
	cmd.Flags().StringVar(&query.Deployment, "deployment", "", "a deployment id; when not given each host's newest, which the output names")
	cmd.Flags().StringVar(&query.Event, "event", "", "one lifecycle event, for instance AfterInstall; all when not given")
	return cmd
}
