package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/gitopsd/gitopsd/internal/appspec"
	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/spf13/cobra"
)

// The names of the file, in the order in which Install looks for them.
const (
	appspecName    = "appspec.yml"
	appspecAltName = "appspec.yaml"
)

// appspecCommand groups the verbs about appspec.yml, which need no agent.
func appspecCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "appspec",
		Short: "Check a bundle's appspec.yml and explain what it would do",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(appspecValidateCommand(), appspecExplainCommand())
	return cmd
}

// appspecValidateCommand judges one file.
func appspecValidateCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "validate FILE|DIR",
		Short: "Judge an appspec.yml as CodeDeploy's agent does, with line and column",
		Long: "Judge an appspec.yml as CodeDeploy's agent does on a Linux host. Errors are what the agent refuses; warnings are what it lets\n" +
			"pass although it rarely does what was meant. Of a DIR the scripts and sources that the file names are looked up as well: one that\n" +
			"is missing is an error, and so is what `gitopsd bundle pack DIR` refuses, such as a link that climbs out. Ends with 0, or with 10 if\n" +
			"there are errors.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkAppspecOutput(output); err != nil {
				return err
			}
			file, err := findAppspec(args[0])
			if err != nil {
				return err
			}
			verdict, _, err := judgeAppspec(file)
			if err != nil {
				return err
			}
			if file != args[0] { // a bundle, and not the file alone
				verdict.look(bundleFolder{root: filepath.Dir(file)})
				verdict.lookAtTree(args[0])
			}
			if output == "table" {
				verdict.print(cmd.OutOrStdout())
			} else if err := printDocument(cmd.OutOrStdout(), output, verdict); err != nil {
				return err
			}
			return verdict.exit()
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table, json or yaml")
	return cmd
}

func checkAppspecOutput(output string) error {
	switch output {
	case "table", "json", "yaml":
		return nil
	}
	return exitError{code: codeUsage, err: fmt.Errorf("cannot print %q: -o takes table, json or yaml", output)}
}

// appspecVerdict is what validate prints.
type appspecVerdict struct {
	OK       bool             `json:"ok"`
	Spec     *appspec.Spec    `json:"spec"`
	Errors   []appspecRemark  `json:"errors"`
	Warnings []appspecWarning `json:"warnings"`

	file string
}

// appspecRemark is one error; hint may be empty.
type appspecRemark struct {
	Line    int    `json:"line"`
	Column  int    `json:"column"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

// appspecWarning is one warning; code names its kind.
type appspecWarning struct {
	Line    int                 `json:"line"`
	Column  int                 `json:"column"`
	Code    appspec.WarningCode `json:"code"`
	Message string              `json:"message"`
}

// judgeAppspec reads and judges file.
func judgeAppspec(file string) (appspecVerdict, *appspec.Spec, error) {
	verdict := appspecVerdict{Errors: []appspecRemark{}, Warnings: []appspecWarning{}, file: file}
	src, archive, err := readAppspec(file)
	if err != nil {
		return verdict, nil, err
	}
	if archive != "" {
		verdict.Errors = append(verdict.Errors, appspecRemark{Message: fmt.Sprintf("it is a %s archive, and no AppSpec file", archive),
			Hint: "unpack it and name the folder: " + unpacking(archive, file)})
		return verdict, nil, nil
	}
	spec, warnings, err := appspec.Parse(src, appspec.Options{FileName: file})
	for _, w := range warnings {
		verdict.Warnings = append(verdict.Warnings, appspecWarning{Line: w.Line, Column: w.Column, Code: w.Code, Message: w.Message})
	}
	var refused *appspec.Error
	switch {
	case errors.As(err, &refused):
		for _, p := range refused.Problems {
			verdict.Errors = append(verdict.Errors, appspecRemark{Line: p.Line, Column: p.Column, Message: p.Message, Hint: p.Hint})
		}
	case err != nil:
		return verdict, nil, err
	default:
		verdict.OK, verdict.Spec = true, spec
	}
	return verdict, spec, nil
}

// readAppspec reads file up to a little more than Parse takes, and tells what archive it is, if it is one.
func readAppspec(file string) (src []byte, archive bundle.Type, err error) {
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe that nobody writes to is empty, and not waited for
	if err != nil {
		return nil, "", fmt.Errorf("cannot read the AppSpec file: %w", err)
	}
	defer func() { _ = f.Close() }() // read only, nothing can be lost
	if src, err = io.ReadAll(io.LimitReader(f, appspec.MaxSourceBytes+1)); err != nil {
		return nil, "", fmt.Errorf("cannot read the AppSpec file %s: %w", file, err)
	}
	if len(src) == 0 || src[0] == 0 { // zeros, which a crash leaves of a file, would pass for an empty tar
		return src, "", nil
	}
	if info, statErr := f.Stat(); statErr == nil && info.Mode().IsRegular() {
		archive, _ = bundle.Recognize(f, info.Size())
	} else {
		archive, _ = bundle.Recognize(bytes.NewReader(src), int64(len(src)))
	}
	return src, archive, nil
}

// unpacking is the command that unpacks an archive.
func unpacking(archive bundle.Type, file string) string {
	if archive == bundle.TypeZip {
		return "unzip " + shellWord(file) + " -d bundle"
	}
	return "mkdir bundle && tar -xf " + shellWord(file) + " -C bundle"
}

// print writes the verdict for people: one line an error or warning, then the verdict itself.
func (v appspecVerdict) print(out io.Writer) {
	for _, e := range v.Errors {
		fmt.Fprintf(out, "%s: error: %s\n", place(v.file, e.Line, e.Column), e.Message)
		if e.Hint != "" {
			fmt.Fprintf(out, "    %s\n", e.Hint)
		}
	}
	for _, w := range v.Warnings {
		fmt.Fprintf(out, "%s: warning: %s\n", place(v.file, w.Line, w.Column), w.Message)
	}
	verdict := "is valid"
	if !v.OK {
		verdict = "is refused"
	}
	fmt.Fprintf(out, "%s %s: %s, %s\n", v.file, verdict, counted(len(v.Errors), "error"), counted(len(v.Warnings), "warning"))
}

// place is file:line:column, or the file alone.
func place(file string, line, column int) string {
	if line == 0 {
		return file
	}
	return fmt.Sprintf("%s:%d:%d", file, line, column)
}

// exit is the error that the verb ends with; the reasons are printed already.
func (v appspecVerdict) exit() error {
	if v.OK {
		return nil
	}
	return exitError{code: codeInvalid}
}

// findAppspec finds the file that path means: path itself, or the AppSpec file of the bundle unpacked at path.
func findAppspec(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("cannot find the AppSpec file: %w", err)
	}
	if !info.IsDir() {
		return path, nil
	}
	root, err := bundleRoot(path)
	if err != nil {
		return "", err
	}
	for _, name := range []string{appspecName, appspecAltName} {
		file := filepath.Join(root, name)
		if _, err := os.Stat(file); err == nil {
			return file, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("cannot find the AppSpec file: %w", err)
		}
	}
	return "", exitError{code: codeInvalid, err: fmt.Errorf("cannot find %s in %s: a bundle holds it in its top folder", appspecName, path)}
}

// bundleRoot is the folder of dir that deployments see: dir, or the only folder in it if that holds a name with appspec in it, as
// archives made by forges do.
func bundleRoot(dir string) (string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", fmt.Errorf("cannot read the bundle: %w", err)
	}
	if len(entries) != 1 || !entries[0].IsDir() {
		return dir, nil
	}
	inner := filepath.Join(dir, entries[0].Name())
	names, err := os.ReadDir(inner)
	if err != nil {
		return "", fmt.Errorf("cannot read the bundle: %w", err)
	}
	for _, n := range names {
		if strings.Contains(strings.ToLower(n.Name()), "appspec") {
			return inner, nil
		}
	}
	return dir, nil
}
