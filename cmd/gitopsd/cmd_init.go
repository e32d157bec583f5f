package main

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/user"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/gitopsd/gitopsd/internal/agent"
	"github.com/gitopsd/gitopsd/internal/desired"
	"github.com/gitopsd/gitopsd/internal/durable"
	"github.com/gitopsd/gitopsd/internal/transport"
	"github.com/spf13/cobra"
)

// Files of a host's identity in its data directory.
const (
	hostKeyFile   = "host.key"   // OpenSSH private key, ed25519
	storageIDFile = "storage-id" // 16 hexadecimal digits and a line end
)

// initCommand writes a config repository.
func initCommand() *cobra.Command {
	var name string
	var signers []string
	cmd := &cobra.Command{
		Use:   "init DIR",
		Short: "Write a config repository that validates",
		Long: "Write a config repository that validates: fleet.yaml, trust.yaml, a README, schemas for editors and empty folders.\n" +
			"Files that exist already are left alone. Without --signer the key in ~/.ssh/id_ed25519.pub may sign, if there is one.",
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			options := desired.InitOptions{Fleet: name}
			for _, text := range signers {
				signer, err := parseSigner(text)
				if missing := (*fs.PathError)(nil); errors.As(err, &missing) { // the command is well formed
					return err
				}
				if err != nil {
					return exitError{code: codeUsage, err: err}
				}
				options.Signers = append(options.Signers, signer)
			}
			if len(signers) == 0 {
				options.Signers = ownSigner()
			}
			if err := checkFleetName(args[0], name); err != nil {
				return err
			}
			if options.Fleet == "" {
				options.Fleet = nameFrom(args[0], "fleet")
			}
			files, err := desired.InitFiles(options)
			if err != nil {
				return fmt.Errorf("cannot write the config repository: %w", err)
			}
			if err := durable.MkdirAll(args[0], 0o755); err != nil {
				return fmt.Errorf("cannot write the config repository: %w", err)
			}
			if err := writeFiles(cmd.ErrOrStderr(), args[0], files, true); err != nil {
				return fmt.Errorf("cannot write the config repository: %w", err)
			}
			v := validate(os.DirFS(args[0]))
			if err := printValidation(cmd.OutOrStdout(), cmd.ErrOrStderr(), "table", v); err != nil {
				return err
			}
			initSteps(cmd.Context(), cmd.ErrOrStderr(), args[0], signers)
			if !v.OK {
				return exitError{code: codeInvalid}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "name of the fleet; by default that of DIR")
	cmd.Flags().StringArrayVar(&signers, "signer", nil, "NAME=PUBLICKEY or NAME=FILE.pub of somebody who may sign commits; may be repeated")
	return cmd
}

// initSteps says how to come from the files in dir to a repository whose commits are signed, leaving out what is done already. The first of them, which hosts
// pin, is a later step of the README.
func initSteps(ctx context.Context, hints io.Writer, dir string, signers []string) {
	steps := []string{"cd " + shellWord(dir)}
	if _, err := os.Lstat(filepath.Join(dir, ".git")); err != nil {
		steps = append(steps, "git init -b main")
	}
	steps = append(steps, signingSteps(ctx, dir, privateKeyOf(strings.Join(signers[:min(len(signers), 1)], "")))...)
	fmt.Fprintf(hints, "next:\n  %s\nthen follow README.md from its step 2; the first commit, which hosts pin, comes after the inventory\n", strings.Join(steps, "\n  "))
}

// checkFleetName refuses a name for a fleet that has another one already: what exists is never written over.
func checkFleetName(dir, name string) error {
	const file = "fleet.yaml"
	if name == "" || !exists(filepath.Join(dir, file)) {
		return nil
	}
	state, _ := desired.Load(os.DirFS(dir))
	switch state.Fleet.Name {
	case name:
		return nil
	case "":
		return fmt.Errorf("cannot name the fleet %q: there is a %s that cannot be read; mend it, and give the fleet its name there", name, path.Join(dir, file))
	}
	return fmt.Errorf("cannot name the fleet %q: %s calls it %q already; change it there", name, path.Join(dir, file), state.Fleet.Name)
}

var unnameable = regexp.MustCompile(`[^A-Za-z0-9._-]+`)

// nameFrom makes a name of a folder's.
func nameFrom(dir, otherwise string) string {
	full, err := filepath.Abs(dir)
	if err != nil {
		return otherwise
	}
	if name := strings.Trim(unnameable.ReplaceAllString(filepath.Base(full), "-"), "._-"); name != "" {
		return name[:min(len(name), 63)]
	}
	return otherwise
}

// parseSigner reads NAME=PUBLICKEY or NAME=FILE.
func parseSigner(text string) (desired.Signer, error) {
	name, key, ok := strings.Cut(text, "=")
	if !ok || name == "" || key == "" {
		return desired.Signer{}, fmt.Errorf("cannot use --signer %q: write NAME=PUBLICKEY or NAME=FILE.pub", text)
	}
	if !strings.Contains(key, " ") {
		line, err := readKeyFile(key)
		if err != nil {
			return desired.Signer{}, fmt.Errorf("cannot use --signer %s: %w", name, err)
		}
		key = line
	}
	key = strings.TrimSpace(key)
	kind, _, _ := strings.Cut(key, " ")
	if strings.ContainsAny(key, "\r\n") || !strings.HasPrefix(kind, "ssh-") && !strings.HasPrefix(kind, "ecdsa-") && !strings.HasPrefix(kind, "sk-") {
		return desired.Signer{}, fmt.Errorf("cannot use --signer %s: want one public key in OpenSSH's form, such as `ssh-ed25519 AAAA`", name)
	}
	if kind == "ssh-ed25519" {
		if _, err := desired.ParsePublicKey(key); err != nil {
			return desired.Signer{}, fmt.Errorf("cannot use --signer %s: %w", name, err)
		}
	}
	return desired.Signer{Name: name, SSH: key}, nil
}

// maxKeyFile bounds a file with one key, in bytes.
const maxKeyFile = 64 << 10

// readKeyFile reads a public key's file, and says which it is when it is given the private half.
func readKeyFile(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return "", err
	}
	head, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
	if !strings.Contains(head, "PRIVATE KEY-----") {
		return string(text), nil
	}
	public := file + ".pub"
	if exists(public) {
		return "", fmt.Errorf("%s is a private key, which nobody else may have; name its public half, %s", file, public)
	}
	return "", fmt.Errorf("%s is a private key, which nobody else may have; name its public half, which `ssh-keygen -y -f %s > %s` writes", file, shellWord(file), shellWord(public))
}

// ownSigner is the user's own key, if there is one.
func ownSigner() []desired.Signer {
	home, err := os.UserHomeDir()
	if err != nil {
		return nil
	}
	name := "you"
	if u, err := user.Current(); err == nil {
		name = nameFrom(u.Username, name)
	}
	signer, err := parseSigner(name + "=" + filepath.Join(home, ".ssh", "id_ed25519.pub"))
	if err != nil {
		return nil
	}
	return []desired.Signer{signer}
}

// writeFiles writes files below dir, never outside it and never over a file that exists: with skip such a file is left alone, without it nothing is written.
func writeFiles(hints io.Writer, dir string, files desired.Files, skip bool) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	names := slices.Sorted(maps.Keys(files))
	for _, name := range names {
		if _, err := root.Lstat(name); err == nil && !skip {
			return fmt.Errorf("%s exists already", path.Join(dir, name))
		}
	}
	for _, name := range names {
		if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
			return err
		}
		f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if errors.Is(err, fs.ErrExist) {
			fmt.Fprintf(hints, "left alone: %s\n", path.Join(dir, name))
			continue
		}
		if err != nil {
			return err
		}
		_, err = f.WriteString(files[name])
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
		fmt.Fprintf(hints, "wrote %s\n", path.Join(dir, name))
	}
	return nil
}

// groupCommand groups the verbs that make deployment groups.
func groupCommand() *cobra.Command {
	group := &cobra.Command{Use: "group", Short: "Make deployment groups"}
	group.AddCommand(groupAddCommand())
	return group
}

func groupAddCommand() *cobra.Command {
	var dir string
	var hosts, tags []string
	o := desired.GroupOptions{}
	cmd := &cobra.Command{
		Use:   "add FOLDER --application NAME",
		Short: "Write a group.yaml with a new id",
		Long: "Write FOLDER/group.yaml with a new id, and the folders that are laid over the bundle. FOLDER is relative to the config repository.\n" +
			"The id is printed on standard output, what to do next on standard error.",
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.Application == "" {
				return exitError{code: codeUsage, err: errors.New("cannot add a group: --application is missing")}
			}
			id, err := desired.NewGroupID(rand.Reader)
			if err != nil {
				return err
			}
			o.ID, o.Folder = id, filepath.ToSlash(args[0])
			if o.Name == "" {
				o.Name = strings.ReplaceAll(path.Clean(o.Folder), "/", "-")
			}
			o.Hosts = hostNames(hosts)
			for _, t := range tags {
				o.TagSets = append(o.TagSets, strings.Split(t, ","))
			}
			files, err := desired.GroupFiles(o)
			if err != nil { // of the arguments: nothing was read yet
				return exitError{code: codeUsage, err: fmt.Errorf("cannot add group %s: %w", o.Folder, err)}
			}
			state, _ := desired.Load(os.DirFS(dir))
			problems := desired.TargetProblems(o, state)
			if err := checkNewGroup(dir, o, problems); err != nil {
				return err
			}
			if err := writeFiles(cmd.ErrOrStderr(), dir, files, false); err != nil {
				return fmt.Errorf("cannot add group %s: %w", o.Folder, err)
			}
			if _, err := fmt.Fprintln(cmd.OutOrStdout(), o.ID); err != nil {
				return err
			}
			for _, p := range problems { // warnings
				fmt.Fprintln(cmd.ErrOrStderr(), p)
			}
			groupSteps(cmd.ErrOrStderr(), dir, o)
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "dir", ".", "the config repository")
	cmd.Flags().StringVar(&o.Application, "application", "", "applicationName")
	cmd.Flags().StringVar(&o.Name, "group", "", "deploymentGroupName; by default FOLDER with dashes")
	cmd.Flags().StringVar(&o.Coordinators, "coordinators", "", "name of a file in coordinators/; by default the group's own")
	cmd.Flags().StringSliceVar(&hosts, "hosts", nil, "hosts of the group, instead of --tags")
	cmd.Flags().StringArrayVar(&tags, "tags", nil, "KEY=VALUE,... any of which a host must have; repeated, it must have one of each; by default role=APPLICATION")
	cmd.Flags().StringVar(&o.Bucket, "bucket", "", "S3 bucket of the bundle")
	cmd.Flags().StringVar(&o.Key, "key", "", "S3 key of the bundle")
	cmd.Flags().StringVar(&o.Digest, "digest", "", "sha256:... of the bundle; without it the group is written suspended")
	cmd.Flags().Int64Var(&o.Size, "size", 0, "of the bundle, in bytes")
	cmd.MarkFlagsMutuallyExclusive("hosts", "tags")
	return cmd
}

// checkNewGroup refuses a group that is there already, and one that `gitopsd config validate` would refuse.
func checkNewGroup(dir string, o desired.GroupOptions, problems []desired.Problem) error {
	if file := path.Join(dir, path.Clean(o.Folder), "group.yaml"); exists(file) {
		return fmt.Errorf("cannot add group %s: it exists already, in %s", o.Folder, file)
	}
	var reasons []string
	for _, p := range desired.Bad(problems) {
		p.File, p.Line = "", 0 // there is no file yet
		reasons = append(reasons, strings.TrimPrefix(p.String(), ": "))
	}
	if len(reasons) > 0 {
		return exitError{code: codeInvalid, err: fmt.Errorf("cannot add group %s: %s", o.Folder, strings.Join(reasons, "; "))}
	}
	return nil
}

// groupSteps says what was made and what is to be done before it deploys.
func groupSteps(hints io.Writer, dir string, o desired.GroupOptions) {
	folder := path.Clean(o.Folder)
	fmt.Fprintf(hints, "made deployment group %s of application %s; its id for life is %s\n", o.Name, o.Application, o.ID)
	var steps []string
	if set := cmp.Or(o.Coordinators, o.Name); !exists(filepath.Join(dir, "coordinators", set+".yaml")) {
		steps = append(steps, fmt.Sprintf("gitopsd coordinators init %s --voters HOST,HOST,HOST %s", shellWord(set), shellWord(dir)))
	}
	if o.Digest == "" {
		steps = append(steps, "gitopsd bundle push BUNDLE s3://BUCKET/KEY --group "+shellWord(path.Join(dir, folder)),
			"take the line `suspend: true` out of "+path.Join(dir, folder, "group.yaml")+"; it is there because the group has no bundle yet")
	}
	steps = append(steps, "gitopsd config validate "+shellWord(dir)+", then commit and push")
	fmt.Fprintf(hints, "next:\n  %s\n", strings.Join(steps, "\n  "))
}

// exists says whether there is something at path.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// coordinatorsCommand groups the verbs that make coordinator sets.
func coordinatorsCommand() *cobra.Command {
	coordinators := &cobra.Command{Use: "coordinators", Short: "Make coordinator sets"}
	coordinators.AddCommand(coordinatorsInitCommand())
	return coordinators
}

func coordinatorsInitCommand() *cobra.Command {
	var voters []string
	cmd := &cobra.Command{
		Use:   "init NAME --voters HOST,HOST,HOST [DIR]",
		Short: "Write coordinators/NAME.yaml of hosts in the inventory",
		Args:  usageArgs(cobra.RangeArgs(1, 2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if n := len(voters); !slices.Contains([]int{1, 3, 5, 7}, n) {
				return exitError{code: codeUsage, err: fmt.Errorf("cannot make coordinator set %s: --voters names %s; write 1, 3, 5 or 7, such as --voters web-1,web-2,web-3", args[0], counted(n, "host"))}
			}
			if err := desired.CheckSet(args[0], hostNames(voters)); err != nil {
				return exitError{code: codeUsage, err: err}
			}
			dir := "."
			if len(args) == 2 {
				dir = args[1]
			}
			if err := checkRepositoryFolder(dir); err != nil {
				return fmt.Errorf("cannot write coordinator set %s: %w", args[0], err)
			}
			state, problems := desired.Load(os.DirFS(dir))
			for _, v := range voters {
				for _, p := range desired.Bad(problems) {
					if p.File == "hosts/"+v+".yaml" {
						fmt.Fprintln(cmd.ErrOrStderr(), p)
					}
				}
			}
			files, err := desired.CoordinatorsFile(args[0], hostNames(voters), state.Hosts)
			if err != nil {
				return err
			}
			if err := writeFiles(cmd.ErrOrStderr(), dir, files, false); err != nil {
				return fmt.Errorf("cannot write coordinator set %s: %w", args[0], err)
			}
			return nil
		},
	}
	cmd.Flags().StringSliceVar(&voters, "voters", nil, "1, 3, 5 or 7 hosts with an address")
	return cmd
}

// hostNames turns words into names of hosts.
func hostNames(words []string) []desired.HostName {
	names := make([]desired.HostName, 0, len(words))
	for _, word := range words {
		names = append(names, desired.HostName(word))
	}
	return names
}

// checkRepositoryFolder says that the folder of the config repository is missing, which would look as if everything in it were.
func checkRepositoryFolder(dir string) error {
	info, err := os.Stat(dir)
	if err == nil && !info.IsDir() {
		return fmt.Errorf("%s is no folder; name that of the config repository", dir)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("there is no folder %s; name that of the config repository, which `gitopsd init` makes", dir)
	}
	return err
}

// hostCommand groups the verbs for this host's identity.
func hostCommand() *cobra.Command {
	host := &cobra.Command{Use: "host", Short: "Make this host's identity"}
	host.AddCommand(hostInitCommand())
	return host
}

func hostInitCommand() *cobra.Command {
	var dataDir, name string
	var tags map[string]string
	h := desired.Host{}
	cmd := &cobra.Command{
		Use:   "init --name NAME",
		Short: "Make this host's key and storage id, and print the hosts/NAME.yaml to commit",
		Long: "Make this host's key and storage id in the data directory and print the hosts/NAME.yaml to commit. What exists already is kept, so the verb may be repeated.\n" +
			"Refused, with 10, is the data directory of another host, once its agent has worked with it.",
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			h.Name, h.Tags = desired.HostName(name), tags
			if name == "" {
				return exitError{code: codeUsage, err: errors.New("cannot make the host's identity: --name is missing; it is never guessed from the hostname")}
			}
			if h.Address != "" {
				if err := desired.CheckAddress(h.Address, false); err != nil {
					return exitError{code: codeUsage, err: fmt.Errorf("cannot use --address: %w", err)}
				}
			}
			if err := checkHostOptions(h); err != nil {
				return exitError{code: codeUsage, err: err}
			}
			if owner := agent.OwnerOf(dataDir); owner != "" && owner != name {
				return exitError{code: codeInvalid, err: fmt.Errorf("cannot make the identity of host %s: %s belongs to host %s, whose agent ran with it; two hosts never share a data directory, nor a copy of one: name an empty one with --data-dir", name, dataDir, owner)}
			}
			key, storage, err := hostIdentity(dataDir, rand.Reader)
			if errors.Is(err, fs.ErrPermission) {
				return fmt.Errorf("cannot make the identity of host %s: %w; run this as root, or choose a folder of yours with --data-dir", name, err)
			}
			if err != nil {
				return fmt.Errorf("cannot make the identity of host %s: %w", name, err)
			}
			h.Keys, h.Storage = []ed25519.PublicKey{key}, storage
			files, err := desired.HostFile(h)
			if err != nil {
				return err
			}
			for file, content := range files {
				fmt.Fprintf(cmd.ErrOrStderr(), "commit this as %s:\n", file)
				if _, err := io.WriteString(cmd.OutOrStdout(), content); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&dataDir, "data-dir", "/var/lib/gitopsd", "the agent's dataDir")
	cmd.Flags().StringVar(&name, "name", "", "the host's name in the inventory")
	cmd.Flags().StringVar(&h.Address, "address", "", "HOST:PORT others dial; required for coordinators")
	cmd.Flags().StringVar(&h.Zone, "zone", "", "what fails together, such as a rack")
	cmd.Flags().StringVar(&h.Site, "site", "", "datacenter")
	cmd.Flags().StringToStringVar(&tags, "tag", nil, "KEY=VALUE,... that groups select by")
	return cmd
}

// checkHostOptions refuses what no file of the inventory may hold, before anything is written. The identity, which is not there yet, is invented.
func checkHostOptions(h desired.Host) error {
	key, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	h.Keys, h.Storage = []ed25519.PublicKey{key}, "0123456789abcdef"
	_, err = desired.HostFile(h)
	return err
}

// hostIdentity reads the key and the storage id in dataDir, and makes what is missing.
func hostIdentity(dataDir string, random io.Reader) (ed25519.PublicKey, string, error) {
	if err := durable.MkdirAll(dataDir, 0o711); err != nil {
		return nil, "", err
	}
	storage, err := storageID(filepath.Join(dataDir, storageIDFile), random)
	if err != nil {
		return nil, "", err
	}
	file := filepath.Join(dataDir, hostKeyFile)
	key, err := transport.LoadKey(file)
	if errors.Is(err, fs.ErrNotExist) {
		key, err = transport.GenerateKey(file)
	}
	if err != nil {
		return nil, "", err
	}
	return key.Public().(ed25519.PublicKey), storage, nil
}

var storageIDForm = regexp.MustCompile(`^[0-9a-f]{16}\n?$`)

// storageID reads the storage id in file, or makes one there.
func storageID(file string, random io.Reader) (string, error) {
	text, err := os.ReadFile(file)
	switch {
	case err == nil && !storageIDForm.Match(text):
		return "", fmt.Errorf("%s does not hold 16 hexadecimal digits; restore it, or begin with an empty data directory", file)
	case err == nil:
		return strings.TrimSpace(string(text)), nil
	case !errors.Is(err, fs.ErrNotExist):
		return "", err
	}
	var raw [8]byte
	if _, err := io.ReadFull(random, raw[:]); err != nil {
		return "", err
	}
	id := hex.EncodeToString(raw[:])
	return id, durable.WriteFile(file, []byte(id+"\n"), 0o644)
}
