package main

import (
	"cmp"
	"fmt"

	"github.com/gitopsd/gitopsd/internal/desired/strict"
	"github.com/spf13/cobra"
)

// strictUsage gives every command below cmd, and cmd itself, the exit code of wrong usage: for a wrong number of arguments, and for a verb that does not exist.
func strictUsage(cmd *cobra.Command) {
	switch {
	case cmd.HasSubCommands():
		cmd.Args = cobra.ArbitraryArgs
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return exitError{code: codeUsage, err: unknownVerb(cmd, args[0])}
		}
	case cmd.Args != nil:
		cmd.Args = usageArgs(cmd.Args)
	}
	for _, sub := range cmd.Commands() {
		strictUsage(sub)
	}
}

// wrongFlag judges flags that cannot be read. A misspelt verb has none of the flags that the right one has: then the verb is what is wrong.
func wrongFlag(cmd *cobra.Command, err error) error {
	if words := cmd.Flags().Args(); cmd.HasSubCommands() && len(words) > 0 {
		err = unknownVerb(cmd, words[0])
	}
	return exitError{code: codeUsage, err: err}
}

// unknownVerb says which verb was perhaps meant.
func unknownVerb(cmd *cobra.Command, word string) error {
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() && c.Name() != "help" {
			names = append(names, c.Name())
		}
	}
	return fmt.Errorf("there is no %s %.60q: %s", cmd.CommandPath(), word, cmp.Or(strict.DidYouMean(word, names), "`gitopsd help` lists the verbs"))
}

// usageArgs gives a wrong number of arguments the exit code of wrong usage.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		err := check(cmd, args)
		if _, told := err.(exitError); err == nil || told {
			return err
		}
		return exitError{code: codeUsage, err: fmt.Errorf("%w; usage: %s", err, cmd.UseLine())}
	}
}
