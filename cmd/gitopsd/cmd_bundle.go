package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/bundle/store"
	"github.com/spf13/cobra"
)

// bundleCommand groups the verbs that make, look at and release bundles; only peers needs an agent.
func bundleCommand() *cobra.Command {
	group := &cobra.Command{Use: "bundle", Short: "Make, check, compare and release bundles, and see where they are"}
	group.AddCommand(bundlePackCommand(), bundleInspectCommand(), bundleVerifyCommand(), bundleDiffCommand(), bundlePinCommand(), bundlePushCommand(), bundlePeersCommand())
	return group
}

func checkBundleOutput(output string) error {
	switch output {
	case "table", "json", "yaml":
		return nil
	}
	return exitError{code: codeUsage, err: fmt.Errorf("cannot print %q: the output is table, json or yaml", output)}
}

// packWorkersMax keeps packing below 128 MiB on any machine: a worker takes some 8 MiB, what the runtime adds included.
const packWorkersMax = 6

// packWorkers leaves nothing idle on a small machine: packing is the only thing this process does.
func packWorkers() int { return min(runtime.GOMAXPROCS(0), packWorkersMax) }

// packed says what was made.
type packed struct {
	File   string        `json:"file"`
	Digest bundle.Digest `json:"digest"`
	Size   int64         `json:"size"`
	Index  bundle.Digest `json:"index"`
	Frames int           `json:"frames"`
	Raw    int64         `json:"rawBytes"`
}

func bundlePackCommand() *cobra.Command {
	var out, previous, format string
	var noCheck bool
	cmd := &cobra.Command{
		Use:   "pack DIR -o FILE.tar.zst",
		Short: "Pack a directory into a bundle that any tar unpacks and whose unchanged parts never move twice",
		Long: "Pack DIR into a bundle that any tar unpacks and whose unchanged parts never move twice. Refused, with 10, is what could never be\n" +
			"deployed: an appspec.yml that is missing or bad, or one that names scripts or sources that DIR has not.",
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if out == "" {
				return exitError{code: codeUsage, err: errors.New("say where to write the bundle: -o FILE.tar.zst")}
			}
			if kind, named := bundle.TypeOfName(out); named && kind != bundle.TypeTarZst {
				return exitError{code: codeUsage, err: fmt.Errorf("cannot pack into %s: what pack writes is a tar.zst, whatever its name; write -o %s", out, shellWord(withoutType(out)+".tar.zst"))}
			}
			if err := checkBundleOutput(format); err != nil {
				return err
			}
			if err := checkPacked(args[0]); err != nil {
				return err
			}
			if err := checkPlace(out); err != nil {
				return fmt.Errorf("cannot write %s: %w", out, err)
			}
			if !noCheck {
				if err := checkBundleFolder(cmd.ErrOrStderr(), args[0], ""); err != nil {
					return err
				}
			}
			made, _, err := packToFile(cmd.Context(), args[0], out, previous)
			if err != nil {
				return err
			}
			if format != "table" {
				return printDocument(cmd.OutOrStdout(), format, made)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\ndigest: %s\nsize: %d\nindex: %s\n", made.File, made.Digest, made.Size, made.Index)
			return err
		},
	}
	outputFile(cmd, &out, "file to write")
	cmd.Flags().StringVar(&previous, "previous", "", "bundle of the release before: its frames are reused where the content is equal, and what is new comes in smaller ones")
	cmd.Flags().StringVar(&format, "format", "table", "what to print: table, json or yaml")
	cmd.Flags().BoolVar(&noCheck, "no-check", false, noCheckUsage)
	return cmd
}

// withoutType takes the ending that names a type of archive off a file's name.
func withoutType(name string) string {
	for _, ending := range []string{".tar.zst", ".tzst", ".tar.gz", ".tgz", ".tar", ".zip"} {
		if len(name) > len(ending) && strings.EqualFold(name[len(name)-len(ending):], ending) {
			return name[:len(name)-len(ending)]
		}
	}
	return name
}

const noCheckUsage = "do not look whether it can be deployed: the overlay of its group brings what is missing"

// outputFile gives a verb that writes a file the flag -o, --output. Its earlier name --out is understood too.
func outputFile(cmd *cobra.Command, file *string, usage string) {
	cmd.Flags().StringVarP(file, "output", "o", "", usage)
	cmd.Flags().StringVar(file, "out", "", usage)
	_ = cmd.Flags().MarkHidden("out") // defined in the line before
}

// checkPacked refuses what is no directory.
func checkPacked(dir string) error {
	if info, err := os.Stat(dir); err != nil {
		return fmt.Errorf("cannot pack: %w", err)
	} else if !info.IsDir() {
		return fmt.Errorf("cannot pack %s: it is no directory", dir)
	}
	return nil
}

// packToFile packs dir into file, which appears only when it is whole.
func packToFile(ctx context.Context, dir, file, previous string) (made packed, x *bundle.Index, err error) {
	if inside(dir, file) {
		return made, nil, fmt.Errorf("cannot pack %s into %s: the bundle would contain itself; write it elsewhere", dir, file)
	}
	var o bundle.PackOptions
	if previous != "" {
		before, err := openArchive(previous)
		if err != nil {
			return made, nil, err
		}
		defer before.Close()
		old, err := bundle.ReadIndex(before, before.size)
		if err != nil {
			return made, nil, fmt.Errorf("cannot use %s as previous bundle: %w", previous, err)
		}
		o.Previous = &bundle.Previous{Index: old, Archive: before}
	}
	temp, err := os.CreateTemp(filepath.Dir(file), ".gitopsd-pack-")
	if err != nil {
		return made, nil, fmt.Errorf("cannot write %s: %w", file, withoutFile(err))
	}
	defer func() {
		if err != nil {
			_ = temp.Close()
			_ = os.Remove(temp.Name())
		}
	}()
	x, digest, err := store.Pack(ctx, writtenAs{temp, file}, os.DirFS(dir), o, packWorkers())
	if err != nil {
		return made, nil, refusal(err)
	}
	if err = temp.Chmod(0o644); err == nil {
		err = temp.Sync()
	}
	if err == nil {
		err = temp.Close()
	}
	if err == nil {
		err = os.Rename(temp.Name(), file)
	}
	if err != nil {
		return made, nil, fmt.Errorf("cannot write %s: %w", file, withoutFile(err))
	}
	return packed{File: file, Digest: digest, Size: x.ArchiveSize(), Index: x.Digest(), Frames: x.Len(), Raw: x.RawSize()}, x, nil
}

// writtenAs is a temporary file whose errors speak of the file that it becomes.
type writtenAs struct {
	temp *os.File
	file string
}

func (w writtenAs) Write(p []byte) (int, error) {
	n, err := w.temp.Write(p)
	if err != nil {
		err = &fs.PathError{Op: "write", Path: w.file, Err: withoutFile(err)}
	}
	return n, err
}

// withoutFile is an error of the file system without the operation and the name of the file.
func withoutFile(err error) error {
	var path *fs.PathError
	var link *os.LinkError
	switch {
	case errors.As(err, &path):
		return path.Err
	case errors.As(err, &link):
		return link.Err
	}
	return err
}

// inside reports whether file would lie below dir.
func inside(dir, file string) bool {
	absDir, err1 := filepath.EvalSymlinks(dir)
	absFile, err2 := filepath.EvalSymlinks(filepath.Dir(file))
	if err1 != nil || err2 != nil {
		return false
	}
	absDir, err1 = filepath.Abs(absDir)
	absFile, err2 = filepath.Abs(absFile)
	if err1 != nil || err2 != nil {
		return false
	}
	rel, err := filepath.Rel(absDir, absFile)
	return err == nil && filepath.IsLocal(rel)
}

// archiveFile is a bundle on disk.
type archiveFile struct {
	*os.File
	size  int64
	kind  bundle.Type // by its content, else by its name
	wrong error       // why its content is no archive's
}

func openArchive(name string) (*archiveFile, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("cannot open bundle: %w", err)
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("it is no regular file")
	}
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("cannot open bundle %s: %w", name, err)
	}
	archive := &archiveFile{File: file, size: info.Size()}
	if archive.kind, archive.wrong = bundle.Recognize(file, archive.size); errors.Is(archive.wrong, bundle.ErrCutOff) {
		_ = file.Close()
		return nil, exitError{code: codeInvalid, err: fmt.Errorf("cannot open bundle %s: %w", name, archive.told(archive.wrong))}
	} else if archive.wrong != nil {
		if archive.kind, _ = bundle.TypeOfName(name); archive.kind == "" {
			archive.kind = bundle.TypeTar
		}
	}
	return archive, nil
}

// told is err, or what to do where it says that the archive ends early.
func (a *archiveFile) told(err error) error {
	switch {
	case !errors.Is(err, bundle.ErrCutOff):
		return err
	case a.wrong != nil && !errors.Is(a.wrong, bundle.ErrCutOff): // too short to be any
		return exitError{code: codeInvalid, err: a.wrong}
	}
	return exitError{code: codeInvalid, err: fmt.Errorf("it ends early, after %s, or is damaged; copy it again from where it was made, or make it anew", counted(a.size, "byte"))}
}

// openRecognized opens an archive that is to be released: what no host could unpack is refused.
func openRecognized(name string) (*archiveFile, error) {
	archive, err := openArchive(name)
	if err == nil && archive.wrong != nil {
		_ = archive.Close()
		err = exitError{code: codeInvalid, err: fmt.Errorf("cannot use %s as a bundle: %w", name, archive.wrong)}
	}
	return archive, err
}

// indexOf returns the archive's own index, which its bytes must bear out, or one of fixed pieces, and the archive's digest.
func (a *archiveFile) indexOf() (*bundle.Index, bundle.Digest, error) {
	x, digest, err := bundle.VerifyStored(a, a.size)
	if !errors.Is(err, bundle.ErrNoIndex) {
		return x, digest, err
	}
	pieces, err := bundle.IndexOf(io.NewSectionReader(a, 0, a.size), bundle.PieceSizeFor(a.size))
	if err != nil {
		return nil, "", err
	}
	return pieces, pieces.PayloadDigest(), nil
}

// inspection is what inspect prints.
type inspection struct {
	File          string        `json:"file"`
	Digest        bundle.Digest `json:"digest"`
	Size          int64         `json:"size"`
	Type          bundle.Type   `json:"bundleType"`
	Index         bundle.Digest `json:"index"`
	IndexBytes    int           `json:"indexBytes"`
	Framed        bool          `json:"framed"`
	Pieces        int           `json:"pieces"`
	RawBytes      int64         `json:"rawBytes"`
	RawDigest     bundle.Digest `json:"rawDigest,omitempty"`
	SmallestPiece int           `json:"smallestPiece"`
	LargestPiece  int           `json:"largestPiece"`
	Files         int           `json:"files"`
	Directories   int           `json:"directories"`
	Links         int           `json:"links"`
	FileBytes     int64         `json:"fileBytes"`
	AppSpec       []string      `json:"appspec"`
}

func bundleInspectCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "inspect FILE",
		Short: "Show a bundle's digest, size, pieces and content",
		Args:  usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkBundleOutput(output); err != nil {
				return err
			}
			seen, err := inspect(args[0])
			if err != nil {
				return err
			}
			if output != "table" {
				return printDocument(cmd.OutOrStdout(), output, seen)
			}
			pieces := counted(seen.Pieces, "fixed piece") + " of the raw archive"
			if seen.Framed {
				pieces = counted(seen.Pieces, "zstd frame") + " cut by content"
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s, %s\ndigest: %s\nindex:  %s (%s)\npieces: %s, %d..%s\nholds:  %s with %s, %s, %s; appspec: %v\n",
				seen.File, seen.Type, counted(seen.Size, "byte"), seen.Digest, seen.Index, counted(seen.IndexBytes, "byte"), pieces, seen.SmallestPiece, counted(seen.LargestPiece, "byte"),
				counted(seen.Files, "file"), counted(seen.FileBytes, "byte"), counted(seen.Directories, "directory"), counted(seen.Links, "link"), seen.AppSpec)
			return err
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table, json or yaml")
	return cmd
}

func inspect(name string) (inspection, error) {
	archive, err := openArchive(name)
	if err != nil {
		return inspection{}, err
	}
	defer archive.Close()
	x, digest, err := archive.indexOf()
	if err != nil {
		return inspection{}, fmt.Errorf("cannot inspect %s: %w", name, err)
	}
	seen := inspection{File: name, Digest: digest, Size: archive.size, Type: archive.kind, Index: x.Digest(), IndexBytes: len(x.Encode()), Framed: x.Framed(),
		Pieces: x.Len(), RawBytes: x.RawSize(), RawDigest: x.RawDigest(), SmallestPiece: x.Piece(0).Size, AppSpec: []string{}}
	for i := range x.Len() {
		seen.SmallestPiece, seen.LargestPiece = min(seen.SmallestPiece, x.Piece(i).Size), max(seen.LargestPiece, x.Piece(i).Size)
	}
	err = bundle.Walk(archive, archive.size, archive.kind, bundle.Options{}, func(e *bundle.Entry) error {
		switch e.Type {
		case bundle.File:
			seen.Files++
			seen.FileBytes += e.Size
			if base := filepath.Base(e.Name); base == "appspec.yml" || base == "appspec.yaml" {
				seen.AppSpec = append(seen.AppSpec, e.Name)
			}
		case bundle.Dir:
			seen.Directories++
		default:
			seen.Links++
		}
		return nil
	})
	if err != nil {
		return inspection{}, fmt.Errorf("cannot inspect %s: %w", name, refusal(archive.told(err)))
	}
	return seen, nil
}

// refusal gives an archive that breaks the rules its exit code.
func refusal(err error) error {
	if errors.Is(err, bundle.ErrRefused) {
		return exitError{code: codeInvalid, err: err}
	}
	return err
}

func bundleVerifyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "verify FILE [DIGEST]",
		Short: "Check every frame of a bundle, the tar inside, and the digest if one is given",
		Long:  "Check every frame of a bundle against its index and the tar inside against the rules for archives; of an archive that is not of our own format,\nthe content alone. DIGEST is written as in group.yaml, or as sha256sum prints it. Ends with 10 if anything is wrong.",
		Args:  usageArgs(cobra.RangeArgs(1, 2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			var expected bundle.Digest
			if len(args) == 2 {
				var err error
				if expected, err = typedDigest(args[1]); err != nil {
					return exitError{code: codeUsage, err: err}
				}
			}
			archive, err := openArchive(args[0])
			if err != nil {
				return err
			}
			defer archive.Close()
			x, digest, err := verifyArchive(archive)
			if err == nil && expected != "" && digest != expected {
				err = fmt.Errorf("its digest is %s, expected %s", digest, expected)
			}
			if err != nil {
				return exitError{code: codeInvalid, err: fmt.Errorf("%s is no good bundle: %w", args[0], err)}
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is good: %s, digest %s, index %s\n", args[0], counted(x.Len(), "piece"), digest, x.Digest())
			return err
		},
	}
}

// typedDigest reads a digest as people have it: as group.yaml pins it, or as sha256sum prints it.
func typedDigest(text string) (bundle.Digest, error) {
	const prefix = "sha256:"
	digest, err := bundle.ParseDigest(prefix + strings.TrimPrefix(text, prefix))
	if err != nil {
		return "", fmt.Errorf("cannot parse digest %.80q: write the 64 hexadecimal digits in lower case that sha256sum prints, with or without %s before them", text, prefix)
	}
	return digest, nil
}

func verifyArchive(archive *archiveFile) (*bundle.Index, bundle.Digest, error) {
	x, digest, err := bundle.VerifyArchive(archive, archive.size, bundle.Options{})
	if errors.Is(err, bundle.ErrNoIndex) {
		if x, digest, err = archive.indexOf(); err == nil {
			err = readAll(archive)
		}
	}
	if err != nil {
		return nil, "", archive.told(err)
	}
	return x, digest, nil
}

// readAll reads every file of an archive to its end, where the checksums are.
func readAll(archive *archiveFile) error {
	return bundle.Walk(archive, archive.size, archive.kind, bundle.Options{}, func(e *bundle.Entry) error {
		if e.Content == nil {
			return nil
		}
		_, err := io.Copy(io.Discard, e.Content)
		return err
	})
}

// difference is what diff prints.
type difference struct {
	MovedBytes   int64 `json:"movedBytes"`
	ReusedBytes  int64 `json:"reusedBytes"`
	MovedPieces  int   `json:"movedPieces"`
	ReusedPieces int   `json:"reusedPieces"`
}

func bundleDiffCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "diff A B",
		Short: "Say how many bytes a host that has bundle A must fetch for bundle B",
		Long: "Say how many bytes a host that has bundle A must fetch for bundle B. Both are verified as by `gitopsd bundle verify`; ends with 10 if\n" +
			"anything is wrong with one of them.",
		Args: usageArgs(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkBundleOutput(output); err != nil {
				return err
			}
			d, err := diffBundles(args[0], args[1])
			if err != nil {
				return err
			}
			if output != "table" {
				return printDocument(cmd.OutOrStdout(), output, d)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "moved:  %s in %s\nreused: %s in %s\n", counted(d.MovedBytes, "byte"), counted(d.MovedPieces, "piece"),
				counted(d.ReusedBytes, "byte"), counted(d.ReusedPieces, "piece"))
			return err
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table, json or yaml")
	return cmd
}

func diffBundles(a, b string) (d difference, err error) {
	indexes := make([]*bundle.Index, 2)
	for i, name := range []string{a, b} {
		archive, err := openArchive(name)
		if err != nil {
			return d, err
		}
		indexes[i], _, err = verifyArchive(archive)
		_ = archive.Close()
		if err != nil {
			return d, exitError{code: codeInvalid, err: fmt.Errorf("cannot compare %s: %w", name, err)}
		}
	}
	for i, j := range bundle.Reuse(indexes[1], indexes[0]) {
		size := int64(indexes[1].Piece(i).Size)
		if j < 0 {
			d.MovedBytes, d.MovedPieces = d.MovedBytes+size, d.MovedPieces+1
		} else {
			d.ReusedBytes, d.ReusedPieces = d.ReusedBytes+size, d.ReusedPieces+1
		}
	}
	return d, nil
}
