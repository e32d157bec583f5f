package main

import (
	"github.com/gitopsd/gitopsd/internal/apply"
	"github.com/gitopsd/gitopsd/internal/configrepo"
	"github.com/gitopsd/gitopsd/internal/demo"
	"github.com/spf13/cobra"
)

// newRoot builds the command tree: one constructor a file.
func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "gitopsd",
		Short:         "Deploy signed git commits to fleets of Linux hosts, with CodeDeploy's bundles and no central server",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetHelpCommand(helpCommand())
	root.AddCommand(commands()...)
	strictUsage(root)
	root.Version = versionLine()
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetFlagErrorFunc(wrongFlag)
	return root
}

// commands lists every visible verb.
func commands() []*cobra.Command {
	all := append(operateCommands(), initCommand(), groupCommand(), hostCommand(), coordinatorsCommand())
	return append(all,
		agentCommand(),
		appspecCommand(),
		applyCommand(),
		bundleCommand(),
		configCommand(),
		rolloutCommand(),
		statusCommand(),
		whyCommand(),
		waitCommand(),
		historyCommand(),
		logsCommand(),
		demoCommand(),
		versionCommand(),
		completionCommand(),
	)
}

// hiddenVerb runs the verbs that gitopsd starts of itself; handled is false for all others.
func hiddenVerb(args []string) (code int, handled bool) {
	if len(args) == 0 {
		return 0, false
	}
	switch args[0] {
	case "supervise":
		return apply.SuperviseMain(args[1:]), true
	case "fetch-child":
		return configrepo.ChildMain(args[1:]), true
	case "demo-app":
		return demo.AppMain(args[1:]), true
	case "-Y": // git calls gpg.ssh.program as it calls ssh-keygen
		return sshSignMain(args), true
	}
	return 0, false
}
