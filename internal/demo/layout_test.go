package demo

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestQuotedSurvivesAShell(t *testing.T) {
	shell, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("there is no sh to ask:", err)
	}
	rapid.Check(t, func(t *rapid.T) {
		words := rapid.SliceOfN(rapid.StringMatching(`[a-z'"$\\ *!;&|\n]{0,8}`), 1, 20).Draw(t, "words")
		out, err := exec.Command(shell, "-c", command(append([]string{"printf", `%s\000`}, words...)...)).Output()
		if err != nil {
			t.Fatal(err)
		}
		if want := strings.Join(words, "\x00") + "\x00"; string(out) != want {
			t.Fatalf("the shell read %q, want %q", out, want)
		}
	})
}

func TestPlaceWantsAnEmptyFolder(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "mine"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := newPlace(dir, 1); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("error %v, want one that says that the folder is not empty", err)
	}
	if _, err := newPlace(filepath.Join(t.TempDir(), "100%"), 1); err == nil || !strings.Contains(err.Error(), "percent") {
		t.Errorf("error %v, want one about the percent sign", err)
	}
}

func TestSocketsAreElsewhereWhenThePathIsLong(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", "/nonexistent")
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 30))
	p, err := newPlace(dir, 25)
	if err != nil {
		t.Fatal(err)
	}
	if got := p.socket("web-25"); len(got) > socketPathMax {
		t.Errorf("%s has %d bytes", got, len(got))
	}
	if err := p.remove(false); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(p.sockets); !os.IsNotExist(err) {
		t.Errorf("the folder of sockets is left: %v", err)
	}
	if _, err := os.Stat(dir); err != nil {
		t.Errorf("the user's folder is gone: %v", err)
	}
}

func TestRemoveDeletesFoldersThatMayNotBeWritten(t *testing.T) {
	p, err := newPlace("", 1)
	if err != nil {
		t.Fatal(err)
	}
	if !p.made {
		t.Error("a fresh folder is not known as one")
	}
	if err := writeFile(p.join("a", "b"), nil, 0o400); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(p.join("a"), 0o500); err != nil {
		t.Fatal(err)
	}
	if err := p.remove(true); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(p.dir); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", p.dir, err)
	}
}

func TestPortRange(t *testing.T) {
	for _, c := range []struct {
		kernel    string
		low, high int
	}{
		{"32768\t60999\n", 10240, 32767},
		{"20000 65535", 10240, 19999},
		{"1024 65535", 10240, 32767},
		{"", 10240, 32767},
	} {
		if low, high := portRange(c.kernel); low != c.low || high != c.high {
			t.Errorf("portRange(%q) is %d..%d, want %d..%d", c.kernel, low, high, c.low, c.high)
		}
	}
}

func TestReservedPortsDiffer(t *testing.T) {
	held, err := reservePorts(50)
	if err != nil {
		t.Fatal(err)
	}
	defer held.release()
	seen := map[int]bool{}
	for i := range 50 {
		seen[held.port(i)] = true
	}
	if len(seen) != 50 {
		t.Errorf("%d ports of 50 differ", len(seen))
	}
}

func TestReceiveHookGoesOnToTheNextAgent(t *testing.T) {
	shell, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("there is no sh to run hooks:", err)
	}
	for _, c := range []struct{ name, first, second, want string }{
		{"the first answers", "echo done; exit 0", "exit 1", "done\n"},
		{"the first refuses", "echo no; exit 11", "echo done; exit 0", "no\n"},
		{"the first is gone", "exit 9", "echo done; exit 0", "done\n"},
		{"all are gone", "exit 9", "exit 9", "no agent answers: they will see this commit when they run\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			binary := filepath.Join(t.TempDir(), "git opsd")
			text := fmt.Sprintf("#!%s\ncase \"$3\" in *1) %s;; *2) %s;; esac\n", shell, c.first, c.second)
			if err := os.WriteFile(binary, []byte(text), 0o755); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command(shell, "-c", receiveHook(binary, []string{"/s 1", "/s 2"})).CombinedOutput()
			if err != nil || string(out) != c.want {
				t.Errorf("wrote %q (%v), want %q", out, err, c.want)
			}
		})
	}
}
