package desired

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/gitopsd/gitopsd/internal/appspec"
	"github.com/gitopsd/gitopsd/internal/desired/strict"
)

// The folders of a group that are laid over its bundle, and the one with secrets.
const (
	overlayRoot    = "codedeploy" // its content lands at the bundle's root
	overlayConf    = "project-conf.d"
	overlayServers = "server-applications"
	secretsFolder  = "secrets"
)

// placeholder is the file people commit to keep an empty folder; it is never laid over a bundle.
const placeholder = ".gitkeep"

// lfsMark begins a git-lfs pointer.
var lfsMark = []byte("version https://git-lfs.github.com/spec/")

// isOverlay says whether a folder inside a group belongs to overlay.go.
func isOverlay(name string) bool {
	return name == overlayRoot || name == overlayConf || name == overlayServers || name == secretsFolder
}

// overlayEntry is one regular file found in an overlay folder.
type overlayEntry struct {
	source, inside string
	info           fs.FileInfo
}

// overlay reads a group's overlay folders; ok is false after any problem.
func (l *loader) overlay(folder string) (files []OverlayFile, ok bool) {
	before := l.bad
	var entries []overlayEntry
	for _, dir := range []string{overlayRoot, overlayConf, overlayServers} {
		inside := dir
		if dir == overlayRoot {
			inside = ""
		}
		if l.isFolder(path.Join(folder, dir)) {
			l.collect(path.Join(folder, dir), inside, 0, &entries)
		}
	}
	l.refuseSecrets(folder)
	slices.SortFunc(entries, func(a, b overlayEntry) int { return strings.Compare(a.inside, b.inside) })
	l.checkClashes(entries)
	if len(entries) > maxOverlayFiles {
		l.file(folder, "put them into the bundle", "the group has more than %d overlay files", maxOverlayFiles)
		return nil, false
	}
	var total int64
	for _, e := range entries {
		file, fine := l.hashFile(e)
		if !fine {
			continue
		}
		if total += file.Size; total > maxOverlayBytes {
			l.file(folder, "put them into the bundle", "the group's overlay files have more than %d bytes", maxOverlayBytes)
			return nil, false
		}
		files = append(files, file)
		if file.Path == appspecFile {
			l.checkAppspec(file.Source)
		}
	}
	return files, l.bad == before
}

// collect lists the regular files below dir, which becomes inside in the bundle.
func (l *loader) collect(dir, inside string, depth int, into *[]overlayEntry) {
	entries, err := fs.ReadDir(l.tree, dir)
	if err != nil {
		l.file(dir, "", "cannot read the folder: %v", err)
		return
	}
	if depth > maxDepth {
		l.file(dir, "", "folders are nested deeper than %d", maxDepth)
		return
	}
	if l.entries += len(entries); l.entries > maxEntries || len(*into) > maxOverlayFiles {
		l.file(dir, "", "too many files")
		return
	}
	for _, e := range entries {
		source, at := path.Join(dir, e.Name()), path.Join(inside, e.Name())
		info, err := e.Info()
		switch {
		case err != nil:
			l.file(source, "", "cannot read the file: %v", err)
		case e.IsDir():
			l.collect(source, at, depth+1, into)
		case !e.Type().IsRegular():
			l.file(source, "commit the files themselves", "links and submodules are not allowed inside a deployment group: they would name what the commit does not hold")
		case e.Name() == placeholder:
		case strings.ContainsFunc(at, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\uFFFD' }):
			l.file(source, "rename it", "the file's name holds control characters")
		default:
			*into = append(*into, overlayEntry{source, at, info})
		}
	}
}

// isFolder says whether there is a folder of this name. A file in its place is reported; a link has been by walk.
func (l *loader) isFolder(name string) bool {
	info, err := fs.Lstat(l.tree, name)
	if err == nil && info.Mode().IsRegular() {
		l.file(name, "make it a folder", "this is a file, and %s of a group is a folder", path.Base(name))
	}
	return err == nil && info.IsDir()
}

// checkClashes refuses two files, or a file and a folder, at one place of the bundle; entries are sorted.
func (l *loader) checkClashes(entries []overlayEntry) {
	at := map[string]string{}
	for _, e := range entries {
		if other, taken := at[e.inside]; taken {
			l.file(e.source, "keep one", "%s in the bundle is also %s", e.inside, other)
		}
		at[e.inside] = e.source
	}
	for _, e := range entries {
		for dir := path.Dir(e.inside); dir != "."; dir = path.Dir(dir) {
			if other, taken := at[dir]; taken {
				l.file(e.source, "rename one", "%s in the bundle is a folder here and a file in %s", dir, other)
			}
		}
	}
}

// hashFile reads one overlay file through.
func (l *loader) hashFile(e overlayEntry) (OverlayFile, bool) {
	f, err := l.tree.Open(e.source)
	if err != nil {
		l.file(e.source, "", "cannot read the file: %v", err)
		return OverlayFile{}, false
	}
	defer f.Close()
	sum, head := sha256.New(), make([]byte, len(lfsMark))
	n, err := io.ReadFull(f, head)
	if err == nil || err == io.EOF || err == io.ErrUnexpectedEOF {
		_, _ = sum.Write(head[:n]) // a hash never refuses a write
		var rest int64
		rest, err = io.Copy(sum, io.LimitReader(f, maxOverlayFile+1-int64(n)))
		n += int(rest)
	}
	switch {
	case err != nil:
		l.file(e.source, "", "cannot read the file: %v", err)
		return OverlayFile{}, false
	case n > maxOverlayFile:
		l.file(e.source, "put it into the bundle", "the file is larger than the %d bytes allowed", maxOverlayFile)
		return OverlayFile{}, false
	case bytes.Equal(head, lfsMark):
		l.file(e.source, "commit the file itself, or put it into the bundle", "this is a git-lfs pointer, not the file it points to")
		return OverlayFile{}, false
	}
	mode := fs.FileMode(0o644)
	if e.info.Mode()&0o111 != 0 {
		mode = 0o755
	}
	tree, source := l.tree, e.source
	return OverlayFile{Path: e.inside, Mode: mode, Size: int64(n), SHA256: hex.EncodeToString(sum.Sum(nil)), Source: source,
		Open: func() (fs.File, error) { return tree.Open(source) }}, true
}

// appspecFile is what CodeDeploy's agent reads at the bundle's root.
const appspecFile = "appspec.yml"

// checkAppspec judges an appspec.yml that will replace the bundle's, with the verdicts of CodeDeploy's agent.
func (l *loader) checkAppspec(source string) {
	src, ok := l.read(source, strict.MaxBytes)
	if !ok {
		return
	}
	_, warnings, err := appspec.Parse(src, appspec.Options{FileName: source})
	var refused *appspec.Error
	if errors.As(err, &refused) {
		for _, p := range refused.Problems {
			l.report(Problem{File: source, Line: p.Line, Column: p.Column, Message: p.Message, Suggestion: p.Hint})
		}
	} else if err != nil {
		l.file(source, "", "%v", err)
	}
	for _, w := range warnings {
		l.report(Problem{File: source, Line: w.Line, Column: w.Column, Message: w.Message, Warning: true})
	}
}

// refuseSecrets refuses what would otherwise silently not arrive.
func (l *loader) refuseSecrets(folder string) {
	dir := path.Join(folder, secretsFolder)
	if !l.isFolder(dir) {
		return
	}
	entries, err := fs.ReadDir(l.tree, dir)
	if err != nil {
		l.file(dir, "", "cannot read the folder: %v", err)
		return
	}
	for _, e := range entries {
		if e.Name() != placeholder {
			l.file(path.Join(dir, e.Name()), "remove it and hand secrets to the hosts another way", "secrets/ is not supported yet")
			return
		}
	}
}
