package appspec

import (
	"fmt"
	"sort"
	"strings"
	"unicode/utf8"
)

// Bounds of what one call reports; what is beyond them is left out.
const (
	maxProblems = 50
	maxWarnings = 100
	maxShown    = 200 // characters of a value shown in a message
)

// Options of Parse. The zero value is usable.
type Options struct {
	FileName string // names the file in errors; default "appspec.yml"
}

// Parse reads an appspec.yml as CodeDeploy's agent does on a Linux host. The error is an *Error; warnings, in the order of their places,
// come with it too, as far as the file could be read.
func Parse(src []byte, opts Options) (*Spec, []Warning, error) {
	if opts.FileName == "" {
		opts.FileName = "appspec.yml"
	}
	doc, problem := readDocument(src)
	if problem != nil {
		return nil, nil, &Error{FileName: opts.FileName, Problems: []Problem{*problem}}
	}
	c := checker{doc: doc}
	c.warnDocument()
	spec := c.spec(doc.root)
	sort.SliceStable(c.warnings, func(i, j int) bool {
		a, b := c.warnings[i].Position, c.warnings[j].Position
		return a.Line < b.Line || a.Line == b.Line && a.Column < b.Column
	})
	if len(c.problems) > 0 {
		return nil, c.warnings, &Error{FileName: opts.FileName, Problems: c.problems}
	}
	return spec, c.warnings, nil
}

// checker judges a document section by section. It goes on after a problem, so that a file is mended in one round; the first problem
// is the one at which the agent stops, because sections and their elements are judged in the agent's order.
type checker struct {
	doc      document
	problems []Problem
	warnings []Warning
}

// fail adds a problem.
func (c *checker) fail(at Position, hint, format string, args ...any) {
	if len(c.problems) < maxProblems {
		c.problems = append(c.problems, Problem{Position: at, Message: fmt.Sprintf(format, args...), Hint: hint})
	}
}

// warn adds a warning.
func (c *checker) warn(at Position, code WarningCode, format string, args ...any) {
	if len(c.warnings) < maxWarnings {
		c.warnings = append(c.warnings, Warning{Position: at, Code: code, Message: fmt.Sprintf(format, args...)})
	}
}

// clip shortens text that goes into a message.
func clip(text string) string {
	if utf8.RuneCountInString(text) <= maxShown {
		return text
	}
	return string([]rune(text)[:maxShown]) + "..."
}

// shown is how a message shows a value: what the agent's to_s gives.
func shown(v *value) string { return clip(rubyText(v)) }

// describe names the kind of a value for people.
func describe(v *value) string {
	if v == nil {
		return "nothing"
	}
	return [...]string{"nothing", "true or false", "a number", "a number", "a string", "a symbol", "a list", "a mapping"}[v.kind]
}

// spec judges the whole document.
func (c *checker) spec(root *value) *Spec {
	if !root.isTrue() {
		c.fail(root.place(Position{1, 1}), "", "The deployment failed because the application specification file was empty. Make sure your AppSpec file defines at minimum the 'version' and 'os' properties.")
		return nil
	}
	switch root.kind {
	case kindMap, kindString, kindSymbol: // the agent finds no version in a string
	default:
		c.fail(root.at, "", "an AppSpec file must be a mapping with the keys version, os, files, permissions and hooks, not %s", describe(root))
		return nil
	}
	c.knownKeys(root, "the AppSpec file", topKeys)
	s := &Spec{}
	s.version = c.version(root)
	s.OS = c.os(root)
	s.Hooks = c.hooks(root.get("hooks"))
	s.Files = c.files(root.get("files"), s)
	s.Permissions = c.permissions(root.get("permissions"))
	s.FileExistsBehavior = c.fileExistsBehavior(root)
	return s
}

// version judges the version, which must be the number zero in any of its spellings.
func (c *checker) version(root *value) *value {
	v := indexed(root, "version")
	if !v.isNil() && (v.kind == kindInt && v.integer.Sign() == 0 || v.kind == kindFloat && v.float == 0) {
		return v
	}
	hint := ""
	switch {
	case root.kind != kindMap:
		hint = "the file is one string, not a mapping: put a blank after each colon"
	case v != nil && v.kind == kindString && strings.TrimSpace(v.text) == "0.0":
		hint = "write 0.0 without quotes and blanks"
	case v == nil:
		hint = c.lostKeyHint(root, "version")
	}
	c.fail(v.place(root.at), hint, "The deployment failed because an invalid version value (%s) was entered in the application specification file. Make sure your AppSpec file specifies \"0.0\" as the version, and then try again.", shown(v))
	return v
}

// os judges the operating system.
func (c *checker) os(root *value) OS {
	v := indexed(root, "os")
	if v.isText(string(Linux)) {
		return Linux
	}
	hint := ""
	switch {
	case v.isText(string(Windows)):
		hint = "this bundle is for Windows hosts, gitopsd deploys to Linux hosts only"
	case v == nil:
		hint = c.lostKeyHint(root, "os")
	case v.kind == kindString && strings.EqualFold(rubyStrip(v.text), string(Linux)):
		hint = "write linux in lower case without blanks"
	}
	c.fail(v.place(root.at), hint, "The deployment failed because the application specification file specifies an unsupported operating system (%s). Specify either \"linux\" or \"windows\" in the os section of the AppSpec file, and then try again.", shown(v))
	return ""
}

// lostKeyHint says why a key that must be there is not.
func (c *checker) lostKeyHint(root *value, key string) string {
	if c.doc.hasBOM {
		return "the file begins with a byte order mark, after which CodeDeploy's agent reads nothing but the first key: save it as UTF-8 without one"
	}
	for _, e := range root.entries {
		if text := rubyText(e.key); strings.EqualFold(strings.TrimSpace(text), key) {
			return fmt.Sprintf("line %d has %q, keys are written in lower case", e.key.at.Line, clip(text))
		}
	}
	return ""
}

// fileExistsBehavior judges file_exists_behavior.
func (c *checker) fileExistsBehavior(root *value) FileExistsBehavior {
	v := indexed(root, "file_exists_behavior")
	if v.isNil() {
		return ""
	}
	if v.kind == kindString {
		switch b := FileExistsBehavior(v.text); b {
		case Disallow, Overwrite, Retain:
			return b
		}
	}
	hint := ""
	if v.kind == kindString && strings.ToUpper(v.text) != v.text {
		hint = "write it in upper case"
	}
	c.fail(v.at, hint, "The deployment failed because an invalid file_exists_behavior value (%s) was entered in the application specification file. Make sure your AppSpec file specifies one of DISALLOW,OVERWRITE,RETAIN as the file_exists_behavior, and then try again.", shown(v))
	return ""
}

// indexed is what Ruby's v[key] gives for a mapping, and for a string: key itself, if it occurs in the string.
func indexed(v *value, key string) *value {
	if v != nil && (v.kind == kindString || v.kind == kindSymbol) {
		if strings.Contains(v.text, key) {
			return &value{kind: kindString, text: key, at: v.at}
		}
		return nil
	}
	return v.get(key)
}

// elements are what a section's list holds, in the way Ruby's each sees it. An absent or false section is empty, an empty mapping too;
// with anything else ok is false.
func elements(v *value) (items []*value, ok bool) {
	switch {
	case !v.isTrue():
		return nil, true
	case v.kind == kindList:
		return v.list, true
	case v.kind == kindMap:
		return nil, len(v.entries) == 0
	}
	return nil, false
}
