package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/gitopsd/gitopsd/internal/demo"
	"github.com/spf13/cobra"
)

// demoCommand shows everything at once on one machine.
func demoCommand() *cobra.Command {
	var o demo.Options
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Watch a first deployment: five hosts on this machine, three releases, two reverts; nothing needed but git",
		Long: "Start a config repository, an S3 server and five agents on this machine, deploy three releases of a small web application, the third of which fails and\n" +
			"is rolled back by itself, and revert with git. Then stay up and say what to try. Nothing outside the demo's folder is changed.\n\n" +
			"With --once it ends after the story: 0 when every port served what it should at every step and exactly one copy of each bundle left S3.",
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Hosts < 1 || o.Hosts > demo.HostsMax {
				return exitError{code: codeUsage, err: fmt.Errorf("cannot show %d hosts: choose 1 to %d", o.Hosts, demo.HostsMax)}
			}
			// A closed terminal must not leave agents behind; a closed pipe is met as an error of writing, not as a signal.
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGHUP, syscall.SIGQUIT)
			defer stop()
			broken := make(chan os.Signal, 1)
			signal.Notify(broken, syscall.SIGPIPE)
			defer signal.Stop(broken)
			o.Out = cmd.OutOrStdout()
			return demo.Run(ctx, o)
		},
	}
	cmd.Flags().BoolVar(&o.Once, "once", false, "end after the story; 0 only if all of it went as it should")
	cmd.Flags().IntVar(&o.Hosts, "hosts", demo.HostsDefault, "how many hosts, 1 to 25")
	cmd.Flags().StringVar(&o.Dir, "dir", "", "empty or new folder to use and keep; by default a fresh one that is removed at the end")
	return cmd
}
