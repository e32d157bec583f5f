package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/gitopsd/gitopsd/internal/desired/strict"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
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
	var unknown *pflag.NotExistError
	var value *pflag.InvalidValueError
	switch words := cmd.Flags().Args(); {
	case cmd.HasSubCommands() && len(words) > 0:
		err = unknownVerb(cmd, words[0])
	case errors.As(err, &unknown):
		err = fmt.Errorf("%w: %s", err, cmp.Or(nearFlag(cmd, unknown.GetSpecifiedName()), "`"+cmd.CommandPath()+" --help` lists the flags"))
	case errors.As(err, &value) && value.GetFlag().Value.Type() == "duration":
		err = fmt.Errorf("cannot use --%s %q: %s", value.GetFlag().Name, value.GetValue(), durationHint(value.GetValue()))
	}
	return exitError{code: codeUsage, err: err}
}

// nearFlag says which flag was perhaps meant; empty if none is near.
func nearFlag(cmd *cobra.Command, name string) string {
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	})
	if best := strict.Nearest(name, names); best != "" {
		return "did you mean --" + best + "?"
	}
	return ""
}

// durationHint says how a duration is written.
func durationHint(text string) string {
	if _, err := strconv.ParseUint(text, 10, 32); err == nil {
		return "write " + text + "s"
	}
	return "write for example 10s, 5m or 2h"
}

// helpCommand is `gitopsd help`: unlike cobra's own it does not take a verb that there is not for a success.
func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [VERB]",
		Short: "Show what a verb does and its flags",
		RunE: func(cmd *cobra.Command, args []string) error {
			about := cmd.Root()
			for _, word := range args {
				i := slices.IndexFunc(about.Commands(), func(c *cobra.Command) bool { return c.Name() == word })
				if i < 0 {
					return exitError{code: codeUsage, err: unknownVerb(about, word)}
				}
				about = about.Commands()[i]
			}
			about.InitDefaultHelpFlag()
			about.InitDefaultVersionFlag()
			return about.Help()
		},
	}
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

// usageArgs gives a wrong number of arguments, and an empty one, the exit code of wrong usage.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		err := check(cmd, args)
		if i := slices.Index(args, ""); err == nil && i >= 0 {
			return exitError{code: codeUsage, err: fmt.Errorf("argument %d is empty: is a variable of the shell not set? usage: %s", i+1, cmd.UseLine())}
		}
		if _, told := err.(exitError); err == nil || told {
			return err
		}
		if len(args) > 0 && check(cmd, nil) == nil && check(cmd, args[:1]) != nil { // cobra takes it for a verb that there is not
			err = fmt.Errorf("%s takes no argument, and was given %.60q", cmd.CommandPath(), args[0])
		}
		return exitError{code: codeUsage, err: fmt.Errorf("%w; usage: %s", err, cmd.UseLine())}
	}
}
