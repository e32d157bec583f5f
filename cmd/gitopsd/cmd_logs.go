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
		Args:  cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := flags.client()
			if err != nil {
				return err
			}
			query.Group = args[0]
			query.Host = strings.Join(args[1:], "")
			return agentError(client.Logs(cmd.Context(), query, cmd.OutOrStdout()))
		},
	}
	flags.add(cmd, false)
	cmd.Flags().StringVar(&query.Deployment, "deployment", "", "a deployment id; when not given each host's newest, which the output names")
	cmd.Flags().StringVar(&query.Event, "event", "", "one lifecycle event, for instance AfterInstall; all when not given")
	return cmd
}
