package main

import "github.com/spf13/cobra"

// newRoot builds the command tree: one constructor a file.
func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "gitopsd",
		Short:         "Deploy signed git commits to fleets of Linux hosts, with CodeDeploy's bundles and no central server",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(commands()...)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return exitError{code: codeUsage, err: err} })
	return root
}

// commands lists every visible verb.
func commands() []*cobra.Command {
	return append(operateCommands(),
		statusCommand(),
		whyCommand(),
		waitCommand(),
		historyCommand(),
		logsCommand(),
		versionCommand(),
	)
}

// hiddenVerb runs the verbs that gitopsd starts of itself; handled is false for all others.
func hiddenVerb(args []string) (code int, handled bool) {
	if len(args) == 0 {
		return 0, false
	}
	switch args[0] {
	default:
		return 0, false
	}
}
