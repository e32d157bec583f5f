package main

import (
	"bytes"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

var update = flag.Bool("update", false, "write docs/reference/cli.md anew")

// repository is the top folder, seen from here.
const repository = "../.."

// docsRoot is the command tree as the documentation shows it, whatever the environment of the test.
func docsRoot(t *testing.T) *cobra.Command {
	t.Helper()
	t.Setenv("GITOPSD_ADDR", "")
	root := newRoot()
	root.InitDefaultHelpCmd()
	return root
}

// TestReferenceOfCommandsIsCurrent compares docs/reference/cli.md with the command tree; with -update it writes the file.
func TestReferenceOfCommandsIsCurrent(t *testing.T) {
	var b bytes.Buffer
	b.WriteString("# Command line\n\nGenerated from the command tree by `go test ./cmd/gitopsd -run TestReferenceOfCommandsIsCurrent -update`. See also [exit codes](exit-codes.md).\n")
	writeCommands(&b, docsRoot(t))
	file := filepath.Join(repository, "docs", "reference", "cli.md")
	if *update {
		if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, b.Bytes()) {
		t.Error("docs/reference/cli.md does not say what the commands are: run the test with -update")
	}
}

// writeCommands writes every visible command that does something, in the order of the help text.
func writeCommands(b *bytes.Buffer, cmd *cobra.Command) {
	for _, c := range cmd.Commands() {
		if !c.IsAvailableCommand() || c.Name() == "help" {
			continue
		}
		if c.HasSubCommands() {
			writeCommands(b, c)
			continue
		}
		text := c.Long
		if text == "" {
			text = c.Short + "."
		}
		fmt.Fprintf(b, "\n## %s\n\n```\n%s\n```\n\n%s\n", c.CommandPath(), c.UseLine(), escaped(text))
		if c.Example != "" {
			fmt.Fprintf(b, "\n```\n%s\n```\n", c.Example)
		}
		writeFlags(b, c)
	}
}

// writeFlags writes a command's flags as a table.
func writeFlags(b *bytes.Buffer, c *cobra.Command) {
	heading := "\n| Flag | Default | |\n|---|---|---|\n"
	c.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		byDefault := f.DefValue
		if byDefault == "[]" || byDefault == "" {
			byDefault = ""
		} else {
			byDefault = "`" + byDefault + "`"
		}
		fmt.Fprintf(b, "%s| `%s` | %s | %s |\n", heading, name, byDefault, escaped(f.Usage))
		heading = ""
	})
}

// escaped keeps a text from being read as Markdown.
func escaped(text string) string {
	return strings.NewReplacer("|", "\\|", "<", "&lt;", "*", "\\*").Replace(text)
}

var (
	codeBlock = regexp.MustCompile("(?ms)^ *```[a-z]*\n(.*?)^ *```")
	codeSpan  = regexp.MustCompile("`[^`\n]+`")
	call      = regexp.MustCompile(`(?:^|[ /])gitopsd ([a-z][a-z-]*(?: [^\n]*)?)$`)
)

// calls lists the gitopsd command lines in a text's code: what follows the program's name.
func calls(text string) []string {
	var code []string
	for _, block := range codeBlock.FindAllStringSubmatch(text, -1) {
		code = append(code, strings.Split(block[1], "\n")...)
	}
	for _, span := range codeSpan.FindAllString(codeBlock.ReplaceAllString(text, ""), -1) {
		code = append(code, strings.Trim(span, "`"))
	}
	var found []string
	for _, line := range code {
		line, _, _ = strings.Cut(line, " #")
		for part := range strings.SplitSeq(line, "&&") {
			if m := call.FindStringSubmatch(strings.TrimSpace(part)); m != nil && !strings.HasPrefix(m[1], "demo:") && !strings.Contains(m[1], "deployment/1") {
				found = append(found, m[1])
			}
		}
	}
	return found
}

// TestDocumentsNameOnlyCommandsThatExist looks up every command and flag that a document shows.
func TestDocumentsNameOnlyCommandsThatExist(t *testing.T) {
	root, seen := docsRoot(t), 0
	for _, file := range documents(t) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range calls(string(text)) {
			seen++
			if err := lookUp(root, line); err != nil {
				t.Errorf("%s: gitopsd %s: %v", file, line, err)
			}
		}
	}
	if seen < 100 {
		t.Errorf("only %d commands were found in the documents; does the test still read them?", seen)
	}
}

// documents lists what is checked.
func documents(t *testing.T) []string {
	t.Helper()
	files := []string{filepath.Join(repository, "README.md"), filepath.Join(repository, "CHANGELOG.md"), filepath.Join(repository, "ARCHITECTURE.md")}
	err := filepath.WalkDir(filepath.Join(repository, "docs"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && filepath.Ext(path) == ".md" {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// lookUp finds the command that the words name and every flag after it. Alternatives such as `pack|push` are each looked up.
func lookUp(root *cobra.Command, line string) error {
	cmd := root
	words := strings.Fields(line)
	for len(words) > 0 && cmd.HasSubCommands() {
		var next *cobra.Command
		for name := range strings.SplitSeq(strings.TrimRight(words[0], ".,;:"), "|") {
			next = nil
			for _, c := range cmd.Commands() {
				if c.Name() == name {
					next = c
				}
			}
			if next == nil {
				return fmt.Errorf("there is no %s %s", cmd.CommandPath(), name)
			}
		}
		cmd, words = next, words[1:]
	}
	for _, word := range words {
		name, isLong := strings.CutPrefix(word, "--")
		name, _, _ = strings.Cut(strings.Trim(name, "[],.;:"), "=")
		short := len(word) == 2 && word[0] == '-'
		switch {
		case isLong && name != "" && cmd.Flags().Lookup(name) == nil && name != "help":
			return fmt.Errorf("%s has no flag --%s", cmd.CommandPath(), name)
		case short && cmd.Flags().ShorthandLookup(word[1:]) == nil && word != "-h":
			return fmt.Errorf("%s has no flag %s", cmd.CommandPath(), word)
		}
	}
	return nil
}
