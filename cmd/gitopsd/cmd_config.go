package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/gitopsd/gitopsd/internal/agent"
	"github.com/gitopsd/gitopsd/internal/configrepo/head"
	"github.com/gitopsd/gitopsd/internal/configrepo/trust"
	"github.com/gitopsd/gitopsd/internal/desired"
	"github.com/spf13/cobra"
)

// configCommand groups the verbs that look at configuration files without a running agent.
func configCommand() *cobra.Command {
	config := &cobra.Command{Use: "config", Short: "Check a config repository, print the schema of its files"}
	config.AddCommand(configValidateCommand(), configSchemaCommand())
	return config
}

// validation is the JSON of config validate.
type validation struct {
	OK       bool              `json:"ok"`
	Errors   []desired.Problem `json:"errors"`
	Warnings []desired.Problem `json:"warnings"`
}

// validate judges the tree of a config repository.
func validate(tree fs.FS) validation {
	_, problems := desired.Load(tree)
	v := validation{Errors: []desired.Problem{}, Warnings: []desired.Problem{}}
	v.add(problems...)
	if !slices.ContainsFunc(problems, func(p desired.Problem) bool { return p.File == trust.FileName }) {
		v.add(trustProblems(tree)...)
	}
	return v
}

// add takes problems in.
func (v *validation) add(problems ...desired.Problem) {
	for _, p := range problems {
		if p.Warning {
			v.Warnings = append(v.Warnings, p)
		} else {
			v.Errors = append(v.Errors, p)
		}
	}
	v.OK = len(v.Errors) == 0
}

// headProblems compares the coordinator sets in dir with those of the last commit, if dir is in a work tree that has one; where they are committed already, with
// those of the commit before it.
func headProblems(dir string) []desired.Problem {
	const folder = "coordinators"
	limits, name := head.Limits{Files: desired.SetFilesMax, Bytes: desired.SetBytesMax}, "HEAD"
	before, commit, err := head.Folder(dir, folder, 0, limits)
	if err == nil && holds(os.DirFS(dir), before) {
		name = "HEAD^"
		before, commit, err = head.Folder(dir, folder, 1, limits)
	}
	switch {
	case errors.Is(err, head.ErrNone):
		return nil
	case err != nil:
		return []desired.Problem{{File: folder, Message: fmt.Sprintf("the epochs are not compared with those of the last commit: %v", err), Warning: true}}
	}
	return desired.CheckEpochs(before, name+" ("+commit[:12]+")", os.DirFS(dir))
}

// holds says whether files are in a tree as they are.
func holds(tree fs.FS, files map[string]string) bool {
	for name, text := range files {
		if got, err := fs.ReadFile(tree, name); err != nil || string(got) != text {
			return false
		}
	}
	return true
}

// trustProblems reads trust.yaml as the agents will: keys included.
func trustProblems(tree fs.FS) []desired.Problem {
	src, err := fs.ReadFile(tree, trust.FileName)
	if err == nil {
		_, err = trust.Parse(src, func(name string) ([]byte, error) { return fs.ReadFile(tree, name) })
	}
	var found trust.Problems
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &found):
		return []desired.Problem{{File: trust.FileName, Message: err.Error()}}
	}
	var problems []desired.Problem
	for _, p := range found {
		problems = append(problems, desired.Problem{File: p.File, Line: p.Line, Column: p.Column, Message: p.Message, Suggestion: p.Suggestion})
	}
	return problems
}

func configValidateCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "validate [DIR]",
		Short: "Check a config repository and name every problem with file, line and column",
		Long: "Check a config repository and name every problem with file, line and column. In a git work tree the epochs of coordinators/ are compared\n" +
			"with those of the last commit, or of the one before where they are committed already. Ends with 0, also after warnings, or with 10 if there are errors.",
		Args: usageArgs(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := "."
			if len(args) == 1 {
				dir = args[0]
			}
			if info, err := os.Stat(dir); err != nil {
				return fmt.Errorf("cannot check the config repository: %w", err)
			} else if !info.IsDir() {
				return exitError{code: codeUsage, err: fmt.Errorf("cannot check the config repository: %s is not a folder", dir)}
			}
			v := validate(os.DirFS(dir))
			v.add(headProblems(dir)...)
			if err := printValidation(cmd.OutOrStdout(), cmd.ErrOrStderr(), output, v); err != nil {
				return err
			}
			if !v.OK {
				return exitError{code: codeInvalid}
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table, json or yaml")
	return cmd
}

// printValidation prints one problem a line, or the document.
func printValidation(out, hints io.Writer, output string, v validation) error {
	switch output {
	case "json", "yaml":
		return printDocument(out, output, v)
	case "table":
	default:
		return exitError{code: codeUsage, err: fmt.Errorf("cannot print as %q: write table, json or yaml", output)}
	}
	for _, p := range slices.Concat(v.Errors, v.Warnings) {
		if _, err := fmt.Fprintln(out, p); err != nil {
			return err
		}
	}
	summary := "ok"
	if !v.OK {
		summary = counted(len(v.Errors), "problem")
	}
	if len(v.Warnings) > 0 {
		summary += ", " + counted(len(v.Warnings), "warning")
	}
	_, err := fmt.Fprintln(hints, summary)
	return err
}

// schemaKinds lists what config schema can print.
func schemaKinds() []string { return append(desired.Kinds(), "gitopsd") }

func configSchemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:       "schema KIND",
		Short:     "Print the JSON Schema of one kind of file: " + strings.Join(schemaKinds(), ", "),
		Args:      usageArgs(cobra.ExactArgs(1)),
		ValidArgs: schemaKinds(),
		RunE: func(cmd *cobra.Command, args []string) error {
			schema, ok := desired.Schema(args[0])
			if args[0] == "gitopsd" {
				schema, ok = agent.ConfigSchema(), true
			}
			if !ok {
				return exitError{code: codeUsage, err: fmt.Errorf("cannot print the schema of %q: write one of %s", args[0], strings.Join(schemaKinds(), ", "))}
			}
			encoder := json.NewEncoder(cmd.OutOrStdout())
			encoder.SetIndent("", "  ")
			encoder.SetEscapeHTML(false)
			return encoder.Encode(schema)
		},
	}
}

// counted writes a number with its noun.
func counted[N int | int64](n N, noun string) string {
	switch stem, y := strings.CutSuffix(noun, "y"); {
	case n == 1:
		return "1 " + noun
	case y:
		noun = stem + "ie"
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
