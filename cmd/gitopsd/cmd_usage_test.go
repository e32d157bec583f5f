package main

import (
	"bytes"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// typed runs the whole command tree; the text is everything printed, with the error at its end.
func typed(t *testing.T, args ...string) (text string, code int) {
	t.Helper()
	root := newRoot()
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&out)
	root.SetArgs(args)
	err := root.ExecuteContext(t.Context())
	var coded exitError
	switch {
	case errors.As(err, &coded):
		code = coded.code
	case err != nil:
		code = codeError
	}
	if err != nil {
		out.WriteString(err.Error())
	}
	return out.String(), code
}

// everyVerb lists every command that does something.
func everyVerb(cmd *cobra.Command) []*cobra.Command {
	if !cmd.HasSubCommands() {
		return []*cobra.Command{cmd}
	}
	var all []*cobra.Command
	for _, sub := range cmd.Commands() {
		all = append(all, everyVerb(sub)...)
	}
	return all
}

func TestTooManyArgumentsAreWrongUsage(t *testing.T) {
	for _, cmd := range everyVerb(newRoot()) {
		if cmd.Name() == "help" {
			continue
		}
		args := append(strings.Fields(cmd.CommandPath())[1:], "a", "b", "c", "d", "e")
		if text, code := typed(t, args...); code != codeUsage || !strings.Contains(text, "usage: gitopsd ") || strings.Count(text, "usage: ") != 1 {
			t.Errorf("%s: exit %d\n%s", strings.Join(args, " "), code, text)
		}
	}
}

func TestTooFewArgumentsAreWrongUsage(t *testing.T) {
	for _, verb := range []string{"why", "logs", "wait", "history", "pause", "appspec validate", "bundle pack", "init"} {
		if text, code := typed(t, strings.Fields(verb)...); code != codeUsage {
			t.Errorf("%s: exit %d\n%s", verb, code, text)
		}
	}
}

func TestUnknownVerbsAreWrongUsage(t *testing.T) {
	for line, want := range map[string]string{
		"bundle psh":              "did you mean push?",
		"bundle psh a --group g":  "did you mean push?",
		"bundle zzzzzz":           "known here: diff, inspect,",
		"staus":                   "did you mean status?",
		"host initt":              "did you mean init?",
		"rollout simulat":         "did you mean simulate?",
		"zzzzzz":                  "`gitopsd help` lists the verbs",
		"status --zzz":            "unknown flag: --zzz: `gitopsd status --help` lists the flags",
		"help statu":              `there is no gitopsd "statu": did you mean status?`,
		"help bundle psh":         `there is no gitopsd bundle "psh": did you mean push?`,
		"group add a --tag a=b":   "unknown flag: --tag: did you mean --tags?",
		"bundle push a --gruop g": "unknown flag: --gruop: did you mean --group?",
		"wait g --timeout 5":      `cannot use --timeout "5": write 5s`,
		"wait g --timeout soon":   "write for example 10s, 5m or 2h",
		"sync x":                  `gitopsd sync takes no argument, and was given "x"; usage: gitopsd sync`,
		"host init web-1":         `gitopsd host init takes no argument, and was given "web-1"`,
	} {
		if text, code := typed(t, strings.Fields(line)...); code != codeUsage || !strings.Contains(text, want) {
			t.Errorf("%s: exit %d, %s; want %s", line, code, text, want)
		}
	}
	for _, line := range []string{"", "bundle", "help", "help status", "help bundle push", "help help", "bundle --help"} {
		if text, code := typed(t, strings.Fields(line)...); code != 0 || !strings.Contains(text, "Usage:") {
			t.Errorf("%q: exit %d\n%s", line, code, text)
		}
	}
}

func TestVersionFlagSaysWhatTheVerbSays(t *testing.T) {
	flag, code := typed(t, "--version")
	verb, _ := typed(t, "version")
	if code != 0 || flag != verb || !strings.HasPrefix(flag, "gitopsd ") || !strings.Contains(flag, " go1.") {
		t.Errorf("exit %d, %q and %q", code, flag, verb)
	}
}

// answering serves h on a socket and makes it the agent of the verbs that the test types.
func answering(t *testing.T, h http.Handler) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "api.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Close(); <-done })
	t.Setenv("GITOPSD_ADDR", path)
}

// TestWhatCannotBeMeantIsWrongUsage is told before anything is asked, which would hang here, or written.
func TestWhatCannotBeMeantIsWrongUsage(t *testing.T) {
	answering(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { t.Errorf("the agent was asked for %s", r.URL) }))
	dir := t.TempDir()
	t.Chdir(dir)
	for line, want := range map[string]string{
		"wait g --timeout -5s":                                "cannot use --timeout -5s: ",
		"wait g --timeout 0":                                  "or look once with `gitopsd status`",
		"status --addr=":                                      "write the path of the agent's socket",
		"status --addr unix://":                               "write the path of the agent's socket",
		"status --addr tcp://127.0.0.1:1":                     "it is only a path or unix://PATH",
		"pause g --addr https://web-1":                        "it is only a path or unix://PATH",
		"bundle peers zzz":                                    `cannot look for bundle "zzz": write the first digits`,
		"bundle peers sha256:":                                "write the first digits",
		"bundle peers sha512:abcd":                            "write the first digits",
		"host init --data-dir d --name a+b":                   `cannot name the host: "a+b" is not a host name (1 to 63 letters, digits, dots, dashes or underscores, beginning and ending with a letter or digit)`,
		"host init --data-dir d --name a --zone a/b":          `"a/b" is not a name`,
		"coordinators init ../x --voters a":                   `cannot name the coordinator set: "../x" is not a name`,
		"coordinators init x --voters a,a,b":                  "a is named twice",
		"group add ../x --application a":                      "name a folder inside the repository",
		"group add a/b --application a --tags foo":            `"foo" is not KEY=VALUE`,
		"group add a/b --application a --digest foo":          `"foo" is not a digest`,
		"group add a/b --application a --size -1":             "cannot use the size -1",
		"apply . --state-dir s --destination-root relative":   `cannot use --destination-root "relative": it is no absolute path`,
		"apply . --state-dir s --destination-root=":           "it is no absolute path",
		"apply . --state-dir=":                                "is a variable of the shell not set?",
		"apply . --state-dir s --max-revisions 0":             "it is 1 or more",
		"apply . --state-dir s --max-revisions -1":            "it is 1 or more",
		"appspec explain . --destination-root relative":       "it is no absolute path",
		"bundle peers " + strings.Repeat("0", 65):             "or all 64",
		"init c --signer anna=ssh-ed25519":                    "cannot use --signer anna: open ssh-ed25519",
		"coordinators init x --voters a " + dir + "/nothing/": "there is no folder " + dir + "/nothing/",
	} {
		wanted := codeUsage
		if strings.Contains(want, "there is no folder") || strings.Contains(want, "open ") {
			wanted = codeError // nothing is wrong with the words
		}
		if text, code := typed(t, strings.Fields(line)...); code != wanted || !strings.Contains(text, want) || strings.HasSuffix(text, " ") {
			t.Errorf("%s: exit %d, %q; want %d, %s", line, code, text, wanted, want)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("written: %v, %v", left, err)
	}
}

// TestAPathThatIsNotThereIsNoWrongUsage: scripts tell a mistyped command from a file that was not built by the exit code, whatever the verb.
func TestAPathThatIsNotThereIsNoWrongUsage(t *testing.T) {
	dir := t.TempDir()
	nothing := filepath.Join(dir, "nothing")
	for _, line := range []string{"apply", "apply --dry-run", "appspec validate", "appspec explain", "bundle pack -o " + dir + "/x.tar.zst", "bundle inspect", "bundle pin", "bundle verify",
		"bundle diff " + nothing, "bundle push " + dir + "/x.tar.zst", "config validate"} {
		args := strings.Fields(line)
		at := 1 // behind the verb
		if args[0] != "apply" {
			at = 2
		}
		if text, code := typed(t, slices.Insert(args, at, nothing)...); code != codeError || !strings.Contains(text, "no such file or directory") {
			t.Errorf("%s: exit %d, %s", line, code, text)
		}
	}
}

// TestAnEmptyArgumentIsWrongUsage: a shell's variable that is not set named the working directory to apply, and others said "stat : no such file".
func TestAnEmptyArgumentIsWrongUsage(t *testing.T) {
	for _, line := range []string{"apply", "appspec validate", "appspec explain", "bundle pack -o x.tar.zst", "bundle inspect", "bundle pin", "bundle verify", "bundle diff x",
		"bundle push x", "config validate", "group add --application a --coordinators c --tags a=b", "init", "status", "bundle peers"} {
		if text, code := typed(t, append(strings.Fields(line), "")...); code != codeUsage || !strings.Contains(text, "is empty: is a variable of the shell not set? usage: gitopsd ") {
			t.Errorf("%s: exit %d, %s", line, code, text)
		}
	}
}

func TestWaitWantsACommitId(t *testing.T) {
	answering(t, http.NotFoundHandler())
	for _, commit := range []string{"HEAD", "0123", "0123456789012345678901234567890123456789a", "main"} {
		text, code := typed(t, "wait", "shop", "--commit", commit)
		if code != codeUsage || !strings.Contains(text, commit) || strings.Contains(text, "refused") || strings.Count(text, "commit id") != 1 {
			t.Errorf("%s: exit %d, %s", commit, code, text)
		}
	}
}

func TestLocalSocketIsHintedAtOnce(t *testing.T) {
	text, code := typed(t, "status", "--addr", filepath.Join(t.TempDir(), "none.sock"))
	if code != codeUnreachable || strings.Count(text, "none.sock") != 1 || !strings.Contains(text, "is `gitopsd agent` running") {
		t.Errorf("exit %d, %s", code, text)
	}
}

func TestDemoTakesOneToTwentyFiveHosts(t *testing.T) {
	for _, hosts := range []string{"0", "-1", "26"} {
		if text, code := typed(t, "demo", "--hosts", hosts); code != codeUsage || !strings.Contains(text, "choose 1 to 25") {
			t.Errorf("%s: exit %d, %s", hosts, code, text)
		}
	}
}

func TestHostInitSaysWhoMayMakeTheDataDirectory(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may write everywhere")
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	text, code := typed(t, "host", "init", "--name", "web-1", "--data-dir", filepath.Join(dir, "data"))
	if code != codeError || !strings.Contains(text, "permission denied; run this as root, or choose a folder of yours with --data-dir") {
		t.Errorf("exit %d, %s", code, text)
	}
}

func TestCountedWritesPlurals(t *testing.T) {
	for want, got := range map[string]string{"1 error": counted(1, "error"), "0 warnings": counted(0, "warning"), "2 pieces": counted(int64(2), "piece"), "1 directory": counted(1, "directory"),
		"3 directories": counted(3, "directory")} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// TestCompletion prints a script for each shell that the reference names.
func TestCompletion(t *testing.T) {
	for shell, want := range map[string]string{"bash": "__start_gitopsd", "zsh": "#compdef gitopsd", "fish": "complete -c gitopsd", "powershell": "Register-ArgumentCompleter"} {
		if text, code := typed(t, "completion", shell); code != 0 || !strings.Contains(text, want) {
			t.Errorf("%s: exit %d\n%.300s", shell, code, text)
		}
	}
	if text, code := typed(t, "completion", "bsh"); code != codeUsage || !strings.Contains(text, "did you mean bash?") {
		t.Errorf("exit %d, %s", code, text)
	}
	if text, code := typed(t, "__complete", "sta"); code != 0 || !strings.Contains(text, "status") {
		t.Errorf("exit %d, %s", code, text)
	}
}
