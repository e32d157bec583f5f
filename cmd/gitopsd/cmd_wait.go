package main

import (
	"context"
	"fmt"
	"io"
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
		Long: "Wait until the commit, or a descendant of it, is verified and its deployment, with the rollback of one that failed, has ended. What changes meanwhile goes " +
			"to standard error. Exit codes: 0 succeeded or nothing to change, 4 failed, or the group matches no host, 5 rolled back or held back, 6 stopped or paused, 7 timeout, " +
			"8 timeout without a quorum, 9 agent unreachable, 11 refused.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := flags.client()
			if err != nil {
				return err
			}
			if timeout <= 0 {
				return exitError{code: codeUsage, err: fmt.Errorf("cannot use --timeout %s: nothing could be answered in that; write for example 10s, 5m or 2h, or look once with `gitopsd status`", timeout)}
			}
			if commit != "" && !fullCommit.MatchString(commit) {
				return exitError{code: codeUsage, err: fmt.Errorf("cannot wait for %.60q: write a full commit id, as `git rev-parse HEAD` prints it", commit)}
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			awaited, err := await(ctx, client, args[0], commit, cmd.ErrOrStderr())
			switch {
			case err != nil && cmd.Context().Err() != nil:
				return exitError{code: codeError, err: fmt.Errorf("interrupted: %s", standing(args[0], awaited, ""))}
			case err != nil && ctx.Err() != nil:
				code := codeTimeout
				if awaited.Code == status.CodeNoQuorum {
					code = codeNoQuorum
				}
				return exitError{code: code, err: fmt.Errorf("gave up after %s: %s", timeout, standing(args[0], awaited, "still "))}
			case err != nil:
				return agentError(err)
			}
			if flags.output != "table" {
				if err := printDocument(cmd.OutOrStdout(), flags.output, awaited); err != nil {
					return err
				}
			} else if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", awaited.State, status.Printable(awaited.Message)); err != nil {
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

// await asks until the answer is final, and prints a line whenever the state or the number of hosts in a state changes. It returns the last answer together with an
// error.
func await(ctx context.Context, client *status.Client, group, commit string, progress io.Writer) (status.Awaited, error) {
	last, err := client.Wait(ctx, group, commit, false)
	for said := ""; err == nil && !last.Done; {
		if now := last.Progress(); now != said {
			said = now
			fmt.Fprintf(progress, "%s; %s\n", status.Printable(now), status.Printable(last.Message))
		}
		var next status.Awaited
		if next, err = client.Await(ctx, group, commit, said); err == nil {
			last = next
		}
	}
	return last, err
}

// standing says how far a group was when the waiting ended; still goes before its state.
func standing(group string, last status.Awaited, still string) string {
	if last.State == "" {
		return group + ": the agent has not answered"
	}
	return status.Printable(fmt.Sprintf("%s is %s%s; %s", group, still, last.Progress(), last.Message))
}
