package main

import (
	"fmt"
	"os"
	"os/user"
	"strings"

	"github.com/gitopsd/gitopsd/internal/status"
	"github.com/spf13/cobra"
)

// operateCommands are the writes: they steer execution; what should run changes only by a commit.
func operateCommands() []*cobra.Command {
	return []*cobra.Command{
		operateCommand("sync", "Look for a new commit now instead of at the next poll", false),
		operateCommand("stop", "Stop a group's deployment; hosts inside one finish, the rest are skipped", true),
		operateCommand("pause", "Start no further host of a group until it is resumed", true),
		operateCommand("resume", "Go on after a pause", true),
		operateCommand("retry", "Try a held back revision, or a blocked rollback, again", true),
		operateCommand("skip", "End the bake of the wave that is watched now, so that the rollout goes on", true),
	}
}

// operated is what such a verb prints once the agent has taken it; the table has nothing to show.
type operated struct {
	OK    bool   `json:"ok"`
	Verb  string `json:"verb"`
	Group string `json:"group,omitempty"` // as it was written
}

// operateCommand builds one of them.
func operateCommand(verb, short string, takesGroup bool) *cobra.Command {
	var flags readFlags
	op := status.Operation{Verb: verb}
	use, args := verb, cobra.NoArgs
	if takesGroup {
		use, args = verb+" GROUP", cobra.ExactArgs(1)
	}
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  args,
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := flags.client()
			if err != nil {
				return err
			}
			op.Group = strings.Join(args, "")
			op.Actor = fmt.Sprintf("uid %d", os.Getuid()) // of one that has no name on this host
			if u, err := user.Current(); err == nil && u.Username != "" {
				op.Actor = u.Username
			}
			if err := client.Operate(cmd.Context(), op); err != nil {
				return agentError(err)
			}
			if flags.output != "table" {
				return printDocument(cmd.OutOrStdout(), flags.output, operated{OK: true, Verb: verb, Group: op.Group})
			}
			_, err = fmt.Fprintln(cmd.ErrOrStderr(), strings.TrimSpace(verb+" "+op.Group)+": done")
			return err
		},
	}
	flags.add(cmd, false)
	if takesGroup {
		cmd.Flags().StringVar(&op.Reason, "reason", "", "why; kept with the group, and shown of a pause and a stop")
	}
	return cmd
}
