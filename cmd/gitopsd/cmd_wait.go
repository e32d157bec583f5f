package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/gitopsd/gitopsd/internal/status"
	"github.com/spf13/cobra"
)

// fullCommit is a commit's id, never a branch or an abbreviation: agents do not share the caller's clone.
var fullCommit = regexp.MustCompile(`^[0-9a-f]{40}$`)

// waitCommand waits for a commit's outcome.
func waitCommand() *cobra.Command {
	var flags readFlags
	var commit string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "wait GROUP",
		Short: "Wait until a commit's deployment has ended, and exit with its outcome",
		Long: "Wait until the commit, or a descendant of it, is verified and its deployment has ended. Exit codes: 0 succeeded or nothing to change, " +
			"4 failed, 5 rolled back or held back, 6 stopped or paused, 7 timeout, 8 no quorum, 9 agent unreachable, 11 refused.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := flags.client()
			if err != nil {
				return err
			}
			if commit != "" && !fullCommit.MatchString(commit) {
				return exitError{code: codeUsage, err: fmt.Errorf("cannot wait for %.60q: write a full commit id, as `git rev-parse HEAD` prints it", commit)}
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			awaited, err := await(ctx, client, args[0], commit)
			if errors.Is(err, context.DeadlineExceeded) {
				return exitError{code: codeTimeout, err: fmt.Errorf("%s is still %s after %s: %s", args[0], awaited.State, timeout, awaited.Message)}
			}
			if err != nil {
				return agentError(err)
			}
			if flags.output != "table" {
				if err := printDocument(cmd.OutOrStdout(), flags.output, awaited); err != nil {
					return err
				}
			} else if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", awaited.State, awaited.Message); err != nil {
				return err
			}
			if awaited.Code != 0 {
				return exitError{code: awaited.Code}
			}
			return nil
		},
	}
	flags.add(cmd, false)
	cmd.Flags().StringVar(&commit, "commit", "", "wait for this commit (its full id) or a descendant; the newest known one when not given")
	cmd.Flags().DurationVar(&timeout, "timeout", 30*time.Minute, "give up after this long")
	return cmd
}

// await asks until the answer is final. It returns the last answer together with an error.
func await(ctx context.Context, client *status.Client, group, commit string) (status.Awaited, error) {
	var last status.Awaited
	for block := false; ; block = true {
		awaited, err := client.Wait(ctx, group, commit, block)
		if err != nil {
			return last, err
		}
		if last = awaited; awaited.Done {
			return awaited, nil
		}
	}
}
