package main

import (
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/gitopsd/gitopsd/internal/desired/strict"
	"github.com/spf13/cobra"
)

// completionCommand prints what teaches a shell the verbs and flags.
func completionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "completion SHELL",
		Short: "Print what teaches a shell to complete verbs and flags",
		Long:  "Print the script with which bash, zsh, fish or powershell completes gitopsd's verbs and flags. SHELL is one of these names.",
		Example: "  source <(gitopsd completion bash)\n" +
			"  gitopsd completion bash > /etc/bash_completion.d/gitopsd\n" +
			"  gitopsd completion zsh > \"${fpath[1]}/_gitopsd\"\n" +
			"  gitopsd completion fish > ~/.config/fish/completions/gitopsd.fish",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			shells := map[string]func(io.Writer) error{
				"bash":       func(w io.Writer) error { return root.GenBashCompletionV2(w, true) },
				"zsh":        root.GenZshCompletion,
				"fish":       func(w io.Writer) error { return root.GenFishCompletion(w, true) },
				"powershell": root.GenPowerShellCompletionWithDesc,
			}
			write, known := shells[args[0]]
			if !known {
				names := slices.Sorted(maps.Keys(shells))
				return exitError{code: codeUsage, err: fmt.Errorf("cannot complete for shell %.60q: %s", args[0], strict.DidYouMean(args[0], names))}
			}
			return write(cmd.OutOrStdout())
		},
	}
}
