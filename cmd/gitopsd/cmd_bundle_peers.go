package main

import (
	"fmt"
	"regexp"

	"github.com/gitopsd/gitopsd/internal/status"
	"github.com/spf13/cobra"
)

// digestBegins is a digest or its first digits; how many are enough depends on what there is.
var digestBegins = regexp.MustCompile(`^(sha256:)?[0-9a-fA-F]{1,64}$`)

// bundlePeersCommand shows where a bundle is.
func bundlePeersCommand() *cobra.Command {
	var flags readFlags
	cmd := &cobra.Command{
		Use:   "peers DIGEST",
		Short: "Show which host has how much of a bundle, from where, how fast the rest comes, and whom it asks no more",
		Long: "Show which host has how much of a bundle, from where, how fast the rest comes, and whom it asks no more. DIGEST may be the first digits\n" +
			"of one, four or more. Any host can be asked; it asks each host of the groups that should run the bundle, or run it, and of a bundle that\n" +
			"no group names every host that lives.",
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := flags.client()
			if err != nil {
				return err
			}
			if !digestBegins.MatchString(args[0]) {
				return exitError{code: codeUsage, err: fmt.Errorf("cannot look for bundle %.80q: write the first digits of its digest, 0 to 9 and a to f, or all 64, with or without sha256: before them", args[0])}
			}
			d, err := client.Bundle(cmd.Context(), args[0])
			if err != nil {
				return agentError(err)
			}
			if flags.output != "table" {
				return printDocument(cmd.OutOrStdout(), flags.output, d)
			}
			return status.PrintDistribution(cmd.OutOrStdout(), d)
		},
	}
	flags.add(cmd, false)
	return cmd
}
