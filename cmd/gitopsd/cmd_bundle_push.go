package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/bundle/origin"
	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v4"
)

func bundlePinCommand() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "pin FILE",
		Short: "Write the piece index of an archive made by other tools, so that peers can check its pieces",
		Args:  usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			archive, err := openRecognized(args[0])
			if err != nil {
				return err
			}
			defer archive.Close()
			x, digest, err := verifyArchive(archive) // a pin vouches for what it names
			if err != nil {
				return exitError{code: codeInvalid, err: fmt.Errorf("cannot pin %s: %w", args[0], err)}
			}
			if out == "" {
				out = args[0] + bundle.IndexSuffix
			}
			if err := os.WriteFile(out, x.Encode(), 0o644); err != nil {
				return fmt.Errorf("cannot write index: %w", err)
			}
			_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "wrote %s: store it beside the archive, as KEY%s\n", out, bundle.IndexSuffix)
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "digest: %s\nsize: %d\nindex: %s\n", digest, archive.size, x.Digest())
			return err
		},
	}
	outputFile(cmd, &out, "file to write (default FILE"+bundle.IndexSuffix+")")
	return cmd
}

// pushFlags say where to push and how to get there.
type pushFlags struct {
	origin   origin.Options
	previous string
	group    string
	force    bool
	noCheck  bool
	output   string
}

func bundlePushCommand() *cobra.Command {
	var f pushFlags
	cmd := &cobra.Command{
		Use:   "push DIR|FILE s3://BUCKET/KEY",
		Short: "Store a bundle and its index, and print or edit the revision to commit",
		Long: "Pack DIR (or take FILE as it is), store it at the location with its piece index beside it, and print the `revision:` to commit.\n" +
			"Refused, with 10, is a bundle that could never be deployed: with an appspec.yml that is missing or bad, or that names scripts or sources\n" +
			"which neither it nor the overlay of --group has.\n" +
			"Credentials come from --credentials-file, else from where every AWS tool looks for them. A location may also be an absolute path.\n" +
			"Its name may not end as that of another type of archive; what is made of DIR is a tar.zst.\n" +
			"Repeated after an interruption, it goes on with the parts that arrived.",
		Args: usageArgs(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkBundleOutput(f.output); err != nil {
				return err
			}
			to, err := origin.Parse(args[1])
			if err != nil {
				return exitError{code: codeUsage, err: err}
			}
			if to.Kind == origin.Https {
				return exitError{code: codeUsage, err: fmt.Errorf("cannot push to %s: hosts can read from there, but nothing can be stored: write s3://BUCKET/KEY or an absolute path; --endpoint names a store other than AWS", to)}
			}
			if f.origin.Endpoint == "" {
				f.origin.Endpoint = os.Getenv("AWS_ENDPOINT_URL")
			}
			if !cmd.Flags().Changed("path-style") { // as an agent's s3.pathStyle
				f.origin.PathStyle = f.origin.Endpoint != ""
			}
			if err := f.checkEndpoint(); err != nil {
				return exitError{code: codeUsage, err: err}
			}
			if err := f.checkGroup(to); err != nil {
				return err
			}
			rev, err := f.push(cmd.Context(), cmd.ErrOrStderr(), args[0], to)
			if err != nil {
				return origin.ForOperator(err)
			}
			if f.group != "" {
				return f.editGroup(cmd, rev)
			}
			if f.output != "table" {
				return printDocument(cmd.OutOrStdout(), f.output, map[string]revisionBlock{"revision": rev})
			}
			_, err = io.WriteString(cmd.OutOrStdout(), rev.yaml())
			return err
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.origin.Endpoint, "endpoint", "", "URL of a store other than AWS (environment: AWS_ENDPOINT_URL)")
	fl.StringVar(&f.origin.Region, "region", "", "region of the bucket")
	fl.BoolVar(&f.origin.PathStyle, "path-style", false, "put the bucket in the path instead of the host name; by default where there is an endpoint")
	fl.StringVar(&f.origin.CredentialsFile, "credentials-file", "", "AWS shared credentials file")
	fl.StringVar(&f.previous, "previous", "", "bundle of the release before, when packing DIR")
	fl.StringVar(&f.group, "group", "", "group.yaml, or its folder, whose revision is to be edited in place")
	fl.BoolVar(&f.force, "force", false, "overwrite another bundle at that location")
	fl.BoolVar(&f.noCheck, "no-check", false, noCheckUsage)
	fl.StringVarP(&f.output, "output", "o", "table", "table, json or yaml")
	return cmd
}

// revisionBlock is the revision of a group.yaml.
type revisionBlock struct {
	RevisionType string             `json:"revisionType"`
	S3Location   *s3Location        `json:"s3Location,omitempty"`
	Directory    *directoryLocation `json:"directoryLocation,omitempty"`
	Digest       bundle.Digest      `json:"digest"`
	Size         int64              `json:"size"`
	Index        bundle.Digest      `json:"index"`
}

type s3Location struct {
	Bucket     string      `json:"bucket"`
	Key        string      `json:"key"`
	BundleType bundle.Type `json:"bundleType"`
}

type directoryLocation struct {
	Path       string      `json:"path"`
	BundleType bundle.Type `json:"bundleType"`
}

// yaml is the block as group.yaml has it.
func (r revisionBlock) yaml() string {
	where := ""
	if r.S3Location != nil {
		where = fmt.Sprintf("  s3Location: {bucket: %s, key: %s, bundleType: %s}\n", yamlScalar(r.S3Location.Bucket), yamlScalar(r.S3Location.Key), r.S3Location.BundleType)
	} else if r.Directory != nil {
		where = fmt.Sprintf("  directoryLocation: {path: %s, bundleType: %s}\n", yamlScalar(r.Directory.Path), r.Directory.BundleType)
	}
	return fmt.Sprintf("revision:\n  revisionType: %s\n%s  digest: %s\n  size: %d\n  index: %s\n", r.RevisionType, where, r.Digest, r.Size, r.Index)
}

// yamlScalar quotes what is not plainly a word or a path.
func yamlScalar(s string) string {
	plain := strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-") == "" && strings.ContainsAny(s, "abcdefghijklmnopqrstuvwxyz") && s[0] >= 'a' && s[0] <= 'z'
	if plain && s != "true" && s != "false" && s != "null" && s != "yes" && s != "no" && s != "on" && s != "off" && s != "y" && s != "n" {
		return s
	}
	return fmt.Sprintf("%q", s)
}

// push packs where needed, stores archive and index, and returns what to commit.
func (f *pushFlags) push(ctx context.Context, hints io.Writer, source string, to origin.Location) (rev revisionBlock, err error) {
	f.origin.Client = origin.NewClient(f.origin.Timeout)
	defer f.origin.Client.CloseIdleConnections()
	info, err := os.Stat(source)
	if err != nil {
		return rev, fmt.Errorf("cannot push: %w", err)
	}
	if info.IsDir() {
		if err := checkTypeNamed(to, bundle.TypeTarZst, "what push makes of a folder"); err != nil {
			return rev, err
		}
	}
	if err := checkFolderOf(to); err != nil {
		return rev, err
	}
	scratch := ""
	if info.IsDir() {
		if !f.noCheck {
			if err := checkBundleFolder(hints, source, f.groupFolder()); err != nil {
				return rev, err
			}
		}
		if scratch, err = os.MkdirTemp("", "gitopsd-push-"); err != nil {
			return rev, fmt.Errorf("cannot push: %w", err)
		}
		defer os.RemoveAll(scratch)
		file := filepath.Join(scratch, "bundle.tar.zst")
		if _, _, err := packToFile(ctx, source, file, f.previous); err != nil {
			return rev, err
		}
		source = file
	}
	archive, err := openRecognized(source)
	if err != nil {
		return rev, err
	}
	defer archive.Close()
	if err := checkTypeNamed(to, archive.kind, source); err != nil {
		return rev, err
	}
	if err := os.RemoveAll(scratch); err != nil { // what is open stays readable: sending takes long, and may be killed
		return rev, fmt.Errorf("cannot push: %w", err)
	}
	if !info.IsDir() && !f.noCheck {
		if err := checkBundleArchive(hints, archive, f.groupFolder()); err != nil {
			return rev, err
		}
	}
	x, digest, err := archive.indexOf()
	if err != nil {
		return rev, exitError{code: codeInvalid, err: fmt.Errorf("cannot push %s: %w", source, err)}
	}
	rev = revisionOf(to, archive.kind)
	rev.Digest, rev.Size, rev.Index = digest, archive.size, x.Digest()
	return rev, f.store(ctx, hints, archive, x, to)
}

// revisionOf is the revision of a bundle at a location, without what tells its bytes.
func revisionOf(to origin.Location, kind bundle.Type) revisionBlock {
	rev := revisionBlock{RevisionType: string(to.Kind)}
	switch to.Kind {
	case origin.S3:
		rev.S3Location = &s3Location{Bucket: to.Bucket, Key: to.Key, BundleType: kind}
	case origin.Directory:
		rev.Directory = &directoryLocation{Path: to.Path, BundleType: kind}
	}
	return rev
}

// checkEndpoint refuses what is no URL of a store before anything is packed.
func (f *pushFlags) checkEndpoint() error {
	given := f.origin.Endpoint
	u, err := url.Parse(given)
	if given == "" || err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != "" && u.User == nil {
		return nil
	}
	if _, host, hasUser := strings.Cut(given, "@"); hasUser {
		given = "...@" + host // what stands before may be a password
	}
	return fmt.Errorf("cannot use the endpoint %q, of --endpoint or AWS_ENDPOINT_URL: write a URL without credentials, such as https://s3.example.com or http://10.0.0.5:9000", given)
}

// checkGroup makes sure, before anything is stored, that the revision can be written into the group.yaml of --group.
func (f *pushFlags) checkGroup(to origin.Location) error {
	if f.group == "" {
		return nil
	}
	file, err := os.OpenFile(f.groupFile(), os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("cannot edit the group of --group, so nothing is stored: %w", err)
	}
	defer file.Close()
	text, err := io.ReadAll(file)
	if err != nil {
		return fmt.Errorf("cannot edit the group of --group, so nothing is stored: %w", err)
	}
	trial := revisionOf(to, bundle.TypeTarZst)
	trial.Digest, trial.Index = bundle.DigestBytes(nil), bundle.DigestBytes(nil)
	if _, err := editRevision(text, trial); err != nil {
		return exitError{code: codeInvalid, err: fmt.Errorf("cannot edit %s, so nothing is stored: %w; without --group the revision to put into it is printed", f.groupFile(), err)}
	}
	return nil
}

// checkTypeNamed refuses to store an archive under a name that ends as another type's do: whoever takes it from there believes the name.
func checkTypeNamed(to origin.Location, kind bundle.Type, what string) error {
	name := to.String()
	if named, ok := bundle.TypeOfName(name); ok && named != kind {
		return exitError{code: codeUsage, err: fmt.Errorf("cannot push to %s: %s is a %s, whatever its name; write %s", to, what, kind, shellWord(withoutType(name)+"."+string(kind)))}
	}
	return nil
}

// checkFolderOf refuses a path that is a folder, or whose folder is not there, before anything is packed. It is not made: a share that is not mounted looks so too.
func checkFolderOf(to origin.Location) error {
	if to.Kind != origin.Directory {
		return nil
	}
	if err := checkPlace(to.Path); err != nil {
		return fmt.Errorf("cannot push to %s: %w", to.Path, err)
	}
	return nil
}

// checkPlace says why no file can be made there: it is a folder, or its folder is none.
func checkPlace(file string) error {
	if info, err := os.Stat(file); err == nil && info.IsDir() {
		return errors.New("it is a folder; name the file to make in it")
	}
	folder := filepath.Dir(file)
	info, err := os.Stat(folder)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("there is no folder %s; mount it, or make it with: mkdir -p %s", folder, shellWord(folder))
	case errors.Is(err, syscall.ENOTDIR), err == nil && !info.IsDir():
		return fmt.Errorf("%s is no folder", folder)
	}
	return err
}

// store uploads the index and then the archive; the same bundle that is already there is not sent again.
func (f *pushFlags) store(ctx context.Context, hints io.Writer, archive *archiveFile, x *bundle.Index, to origin.Location) error {
	there, err := f.alreadyThere(ctx, archive, x, to)
	if err != nil {
		return err
	}
	if there {
		_, _ = fmt.Fprintf(hints, "%s is there already\n", to)
		return nil
	}
	beside := to // first: whoever sees the archive can have its index, and a push that is interrupted can be repeated
	beside.Key, beside.Path = to.Key+bundle.IndexSuffix, to.Path+bundle.IndexSuffix
	index := x.Encode()
	if err := origin.Put(ctx, beside, f.origin, bytes.NewReader(index), int64(len(index)), nil); err != nil {
		return err
	}
	sent, end := sentOn(hints, archive.size)
	err = origin.Put(ctx, to, f.origin, archive, archive.size, sent)
	end()
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintf(hints, "stored %s, %s in %s\n", to, counted(archive.size, "byte"), counted(x.Len(), "piece"))
	return nil
}

// sentOn shows how far an upload of size bytes is, on a terminal; end finishes the line.
func sentOn(out io.Writer, size int64) (sent func(int64), end func()) {
	if !isTerminal(out) {
		return nil, func() {}
	}
	shown := false
	return func(n int64) {
			shown = true
			_, _ = fmt.Fprintf(out, "\rsent %d of %d MiB", n>>20, size>>20)
		}, func() {
			if shown {
				_, _ = fmt.Fprintln(out)
			}
		}
}

// alreadyThere compares size and index with what the location holds. Another bundle there is one that hosts may be fetching just now.
func (f *pushFlags) alreadyThere(ctx context.Context, archive *archiveFile, x *bundle.Index, to origin.Location) (bool, error) {
	from, err := origin.Open(to, f.origin)
	if err != nil {
		return false, err
	}
	size, err := from.Size(ctx)
	if origin.NotFound(err) || f.force {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	index, err := from.ReadIndex(ctx)
	if err == nil && size == archive.size && bytes.Equal(index, x.Encode()) {
		return true, nil
	}
	if err != nil && !origin.NotFound(err) {
		return false, err
	}
	return false, exitError{code: codeRefused, err: fmt.Errorf("cannot push to %s: another bundle is stored there, which hosts may be fetching; choose a new key, or --force", to)}
}

// groupFile is the group.yaml to edit.
func (f *pushFlags) groupFile() string {
	if info, err := os.Stat(f.group); err == nil && info.IsDir() {
		return filepath.Join(f.group, "group.yaml")
	}
	return f.group
}

// groupFolder is the folder of the group to edit, empty for none.
func (f *pushFlags) groupFolder() string {
	if f.group == "" {
		return ""
	}
	return filepath.Dir(f.groupFile())
}

// editGroup writes the revision into group.yaml and says what to do next.
func (f *pushFlags) editGroup(cmd *cobra.Command, rev revisionBlock) error {
	file := f.groupFile()
	info, err := os.Stat(file)
	if err != nil {
		return fmt.Errorf("cannot edit group: %w", err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("cannot edit group: %w", err)
	}
	edited, err := editRevision(text, rev)
	if err != nil {
		return errors.Join(fmt.Errorf("cannot edit %s: %w; put this into it instead:\n%s", file, err, rev.yaml()))
	}
	if bytes.Equal(edited, text) {
		if _, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is up to date\n", file); err == nil {
			sayIfSuspended(cmd.OutOrStdout(), file, text)
		}
		return err
	}
	if err := os.WriteFile(file, edited, info.Mode().Perm()); err != nil {
		return fmt.Errorf("cannot edit group: %w", err)
	}
	if _, err := fmt.Fprintf(cmd.OutOrStdout(), "edited %s\n", file); err != nil {
		return err
	}
	sayIfSuspended(cmd.OutOrStdout(), file, edited)
	git, name := gitFor(file)
	name = shellWord(name)
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "deploy it with: %[1]s add %[2]s && %[1]s commit -S -m 'release %[3]s' -- %[2]s && %[1]s push\n", git, name, rev.Digest.Short())
	return err
}

// sayIfSuspended says what keeps a group from deploying anything, and where it stands.
func sayIfSuspended(out io.Writer, file string, text []byte) {
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil || len(document.Content) != 1 {
		return // editRevision has judged it
	}
	if suspend := lookup(document.Content[0], "suspend"); suspend != nil && suspend.Value == "true" {
		fmt.Fprintf(out, "the group is suspended: nothing deploys before `suspend: true` is gone from %s:%d\n", file, suspend.Line)
	}
}
