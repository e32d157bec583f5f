package demo

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// socketPathMax is how long a unix socket's path may be; the agent refuses longer ones.
const socketPathMax = 100

// place is the demo's folder.
type place struct {
	dir     string
	sockets string // where the agents' sockets are: dir, or a folder with a shorter path
	made    bool   // dir was made by this run under a name of its own choosing
}

// newPlace makes the folder. An empty dir means a fresh one; one that exists must be empty.
func newPlace(dir string, hosts int) (place, error) {
	p := place{dir: dir}
	if dir == "" {
		fresh, err := os.MkdirTemp("", "gitopsd-demo-")
		if err != nil {
			return place{}, fmt.Errorf("cannot make a folder for the demo: %w; name one with --dir", err)
		}
		p.dir, p.made = fresh, true
	}
	full, err := filepath.Abs(p.dir)
	if err == nil {
		full, err = mustBeEmpty(full)
	}
	if err == nil {
		p.dir, err = full, os.Chmod(full, 0o755)
	}
	if err != nil {
		return p, err
	}
	p.sockets = p.dir
	if len(p.socket(hostName(hosts-1))) > socketPathMax {
		if p.sockets, err = shortFolder(len(p.socket(hostName(hosts-1))) - len(p.sockets)); err != nil {
			return p, err
		}
	}
	return p, nil
}

// mustBeEmpty makes dir where it is missing, refuses it where it holds anything, and returns it without symbolic links.
func mustBeEmpty(dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("cannot make the demo's folder: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", fmt.Errorf("cannot use the demo's folder: %w", err)
	}
	if len(entries) > 0 {
		return "", fmt.Errorf("cannot use %s: it is not empty; remove what an earlier demo left there, or name another folder with --dir", dir)
	}
	if strings.ContainsAny(dir, "%\n") {
		return "", fmt.Errorf("cannot use %q: a percent sign or a line end in its path would be read as something else by git", dir)
	}
	return filepath.EvalSymlinks(dir)
}

// shortFolder makes a folder in which names of so many bytes still are a socket's path.
func shortFolder(left int) (string, error) {
	for _, base := range []string{os.Getenv("XDG_RUNTIME_DIR"), os.TempDir(), "/tmp", "/var/tmp"} {
		if base == "" || len(base)+len("/gitopsd-demo-0123456789")+left > socketPathMax {
			continue
		}
		if dir, err := os.MkdirTemp(base, "gitopsd-demo-"); err == nil {
			return dir, nil
		}
	}
	return "", errors.New("cannot place the agents' sockets: no folder with a path short enough can be written; name one with --dir")
}

// remove deletes what belongs to no user: everything when whole, otherwise only the folder of sockets elsewhere.
func (p place) remove(whole bool) error {
	var err error
	if p.sockets != "" && p.sockets != p.dir {
		err = os.RemoveAll(p.sockets)
	}
	if whole {
		err = errors.Join(err, removeTree(p.dir))
	}
	return err
}

// removeTree deletes a folder although some of its folders may not be written, as those that releases are unpacked to.
func removeTree(dir string) error {
	err := os.RemoveAll(dir)
	if err == nil {
		return nil
	}
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			_ = os.Chmod(path, 0o700)
		}
		return nil
	})
	return os.RemoveAll(dir)
}

func hostName(i int) string { return "web-" + strconv.Itoa(i+1) }

func (p place) join(parts ...string) string {
	return filepath.Join(append([]string{p.dir}, parts...)...)
}

// relative is a path as seen from the demo's folder.
func (p place) relative(path string) string {
	return strings.TrimPrefix(path, p.dir+string(filepath.Separator))
}

func (p place) binary() string              { return p.join("bin", "gitopsd") }
func (p place) bare() string                { return p.join("config.git") }
func (p place) work() string                { return p.join("config") }
func (p place) app() string                 { return p.join("app") }
func (p place) lock() string                { return p.join("demo.lock") }
func (p place) signer() string              { return p.join("signer") }
func (p place) allowed() string             { return p.join("allowed_signers") }
func (p place) credentials() string         { return p.join("s3-credentials") }
func (p place) data(host string) string     { return p.join(host, "data") }
func (p place) root(host string) string     { return p.join(host, "root") }
func (p place) config(host string) string   { return p.join(host, "gitopsd.yaml") }
func (p place) agentLog(host string) string { return p.join(host, "agent.log") }
func (p place) socket(host string) string   { return filepath.Join(p.sockets, host+".sock") }
func (p place) groupFile() string {
	return filepath.Join(p.work(), filepath.FromSlash(groupFolder), "group.yaml")
}
func (p place) gitHook(name string) string   { return filepath.Join(p.bare(), "hooks", name) }
func (p place) storageID(host string) string { return filepath.Join(p.data(host), "storage-id") }
func (p place) hostKey(host string) string   { return filepath.Join(p.data(host), "host.key") }

// copyBinary puts this program into the demo's folder, because `go run` deletes its own, and hooks and git find it there.
func copyBinary(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return fmt.Errorf("cannot copy this program: %w", err)
	}
	in, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("cannot copy this program: %w", err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return fmt.Errorf("cannot copy this program: %w", err)
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("cannot copy this program: %w", err)
	}
	return nil
}

// newStorageID makes what `gitopsd host init` makes with a data directory.
func newStorageID() (string, error) {
	var raw [8]byte
	if _, err := rand.Read(raw[:]); err != nil {
		return "", fmt.Errorf("cannot make a storage id: %w", err)
	}
	return hex.EncodeToString(raw[:]), nil
}

// quoted makes one word of a shell out of text.
func quoted(text string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-:=+,@"
	if text != "" && strings.Trim(text, plain) == "" {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

// command joins words to a line that a shell takes apart again.
func command(words ...string) string {
	line := make([]string, len(words))
	for i, w := range words {
		line[i] = quoted(w)
	}
	return strings.Join(line, " ")
}
