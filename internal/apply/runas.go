package apply

import (
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"
	"syscall"
)

// identity tells how a script is started as the user it asks for: what to
// execute, with what environment and what ids. Root sets the ids itself, as su
// would; another user can only become itself, or use sudo.
func identity(script *hookScript, path string, env []string) (argv, environ []string, cred *syscall.Credential, err error) {
	argv = []string{path}
	if os.Geteuid() != 0 && script.Sudo {
		argv = []string{sudoPath(), "-n", "--preserve-env=" + strings.Join(names(env), ",")}
		if script.RunAs != "" {
			argv = append(argv, "-u", script.RunAs)
		}
		return append(argv, "--", path), env, nil, nil
	}
	if script.RunAs == "" {
		return argv, env, nil, nil
	}
	u, err := user.Lookup(script.RunAs)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("user %s is not known on this host: %w", script.RunAs, err)
	}
	groups, err := u.GroupIds()
	if err != nil {
		return nil, nil, nil, fmt.Errorf("cannot find the groups of user %s: %w", u.Username, err)
	}
	ids, err := idsOf(u, groups)
	if err != nil {
		return nil, nil, nil, err
	}
	environ = userEnv(env, u)
	if os.Geteuid() != 0 {
		if int(ids.Uid) == os.Geteuid() {
			return argv, environ, nil, nil
		}
		return nil, nil, nil, fmt.Errorf("cannot become user %s: gitopsd does not run as root", script.RunAs)
	}
	return argv, environ, ids, nil
}

func sudoPath() string {
	for _, p := range []string{"/usr/bin/sudo", "/usr/local/bin/sudo", "/bin/sudo"} {
		if exists(p) {
			return p
		}
	}
	return "/usr/bin/sudo"
}

func names(env []string) []string {
	var out []string
	for _, pair := range env {
		if name, _, ok := strings.Cut(pair, "="); ok && !strings.ContainsAny(name, ", ") {
			out = append(out, name)
		}
	}
	return out
}

// idsOf makes a user's ids of text, its supplementary groups among them.
func idsOf(u *user.User, groups []string) (*syscall.Credential, error) {
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("user %s has the id %q: %w", u.Username, u.Uid, err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("user %s has the group %q: %w", u.Username, u.Gid, err)
	}
	cred := &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	for _, g := range groups {
		if id, err := strconv.ParseUint(g, 10, 32); err == nil {
			cred.Groups = append(cred.Groups, uint32(id))
		}
	}
	return cred, nil
}

// userEnv sets what su sets: HOME and SHELL, and the names of a user other than
// root.
func userEnv(env []string, u *user.User) []string {
	set := map[string]string{"HOME": u.HomeDir, "SHELL": shellOf(u.Username)}
	if u.Uid != "0" {
		set["USER"], set["LOGNAME"] = u.Username, u.Username
	}
	var out []string
	for _, pair := range env {
		name, _, _ := strings.Cut(pair, "=")
		if _, ours := set[name]; !ours {
			out = append(out, pair)
		}
	}
	for name, value := range set {
		out = append(out, name+"="+value)
	}
	return out
}

// shellOf reads a user's shell from /etc/passwd.
func shellOf(name string) string {
	data, _ := os.ReadFile("/etc/passwd")
	for line := range strings.Lines(string(data)) {
		fields := strings.Split(strings.TrimSpace(line), ":")
		if len(fields) == 7 && fields[0] == name && fields[6] != "" {
			return fields[6]
		}
	}
	return "/bin/sh"
}
