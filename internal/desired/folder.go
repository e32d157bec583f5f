package desired

import (
	"bytes"
	"crypto/sha256"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/desired/strict"
)

// lfsPointerMax bounds the size of a git-lfs pointer, in bytes.
const lfsPointerMax = 1 << 10

// folderRevision completes a revision of type Repository: the folder's deterministic tar gives digest and size. It has nothing to say about a
// revision whose own keys are wrong.
func (l *loader) folderRevision(doc *strict.Doc, r *Revision, overlay []OverlayFile) bool {
	if r.Repository == nil {
		return true
	}
	const at = "revision.repositoryLocation.path"
	before, pinned := len(Bad(l.problems)), *r
	folder := r.Repository.Path
	if message, _ := folderRule().Test(folder); message != "" {
		return false // the table has said so
	}
	if info, err := fs.Lstat(l.tree, folder); err != nil || !info.IsDir() {
		return !l.report(doc.Problem(at, "commit it", "%s: the repository has no folder %.200q", at, folder))
	}
	var files []overlayEntry
	l.collect(folder, "", 0, &files)
	var total int64
	for _, f := range files {
		if total += f.info.Size(); f.info.Size() > maxOverlayFile || total > maxOverlayBytes || len(files) > maxOverlayFiles {
			return !l.report(doc.Problem(at, "store it elsewhere with `gitopsd bundle push`", "%s: a folder may have %d files, %d bytes each and %d together", at, maxOverlayFiles, maxOverlayFile, maxOverlayBytes))
		}
		l.refusePointer(f)
	}
	l.folderAppspec(doc, at, folder, overlay)
	if len(Bad(l.problems)) > before {
		return false
	}
	inside, err := fs.Sub(l.tree, folder)
	if err == nil {
		r.Repository.Tree = plainTree{inside}
		err = r.sumFolder()
	}
	if err != nil {
		return !l.report(doc.Problem(at, "", "%s: %v", at, err))
	}
	if given := pinned.Digest; given != "" && given != r.Digest {
		return !l.report(doc.Problem("revision.digest", "remove it, the commit pins the folder", "revision.digest: the tar of %.200q is %s", folder, r.Digest))
	}
	if given := pinned.Size; given != 0 && given != r.Size {
		return !l.report(doc.Problem("revision.size", "remove it, the commit pins the folder", "revision.size: the tar of %.200q has %d bytes", folder, r.Size))
	}
	return true
}

// sumFolder works out digest and size.
func (r *Revision) sumFolder() error {
	tar, err := bundle.Tar(r.Repository.Tree)
	if err != nil {
		return err
	}
	defer tar.Close()
	h := sha256.New()
	if r.Size, err = io.Copy(h, tar); err != nil {
		return err
	}
	var sum [sha256.Size]byte
	h.Sum(sum[:0])
	r.Digest = bundle.DigestOf(sum)
	return nil
}

// refusePointer reports a git-lfs pointer: the file itself is not in the commit.
func (l *loader) refusePointer(f overlayEntry) {
	if f.info.Size() > lfsPointerMax {
		return
	}
	if data, ok := l.read(f.source, lfsPointerMax); ok && bytes.HasPrefix(data, lfsMark) {
		l.file(f.source, "commit the file itself", "this is a git-lfs pointer, not the file it points to")
	}
}

// folderAppspec judges the folder's appspec.yml unless the group lays another over it.
func (l *loader) folderAppspec(doc *strict.Doc, at, folder string, overlay []OverlayFile) {
	for _, o := range overlay {
		if o.Path == appspecFile {
			return
		}
	}
	for _, name := range []string{appspecFile, "appspec.yaml"} {
		if file := path.Join(folder, name); l.exists(file) {
			l.checkAppspec(file)
			return
		}
	}
	l.report(doc.Problem(at, "add one, or commit one in the group's codedeploy/", "%s: there is no appspec.yml in %s", at, folder))
}

// folderRule is a folder of the repository in its shortest form.
func folderRule() strict.Rule {
	return strict.All(strict.Text(1024), strict.Rule{Test: func(s string) (string, string) {
		if s == "." || !fs.ValidPath(s) || s == ".git" || strings.HasPrefix(s, ".git/") {
			return "not a folder of the repository", "write it as git does, for example shop/production/website/bundle"
		}
		return "", ""
	}})
}

// plainTree shows a folder with the modes git knows, 0644 and 0755, so that every host and a checkout give the same bytes.
type plainTree struct{ fs.FS }

// ReadDir implements fs.ReadDirFS.
func (t plainTree) ReadDir(name string) ([]fs.DirEntry, error) {
	entries, err := fs.ReadDir(t.FS, name)
	for i, e := range entries {
		entries[i] = plainEntry{e}
	}
	return entries, err
}

type plainEntry struct{ fs.DirEntry }

// Info implements fs.DirEntry.
func (e plainEntry) Info() (fs.FileInfo, error) {
	info, err := e.DirEntry.Info()
	return plainInfo{info}, err
}

type plainInfo struct{ fs.FileInfo }

// Mode implements fs.FileInfo.
func (i plainInfo) Mode() fs.FileMode {
	mode := i.FileInfo.Mode()
	if mode.IsDir() || mode&0o111 != 0 {
		return mode.Type() | 0o755
	}
	return mode.Type() | 0o644
}
