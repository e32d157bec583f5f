package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gitopsd/gitopsd/internal/appspec"
	"github.com/gitopsd/gitopsd/internal/bundle"
)

// checkBundleArchive refuses an archive that could never be deployed, as checkBundleFolder does a folder. group is the folder whose overlay counts too, or empty.
func checkBundleArchive(hints io.Writer, archive *archiveFile, group string) error {
	scratch, err := os.MkdirTemp("", "gitopsd-outline-")
	if err != nil {
		return fmt.Errorf("cannot look into %s: %w", archive.Name(), err)
	}
	defer os.RemoveAll(scratch)
	if err := outline(archive, scratch, appspecName, appspecAltName); err != nil {
		return fmt.Errorf("cannot look into %s: %w", archive.Name(), refusal(archive.told(err)))
	}
	named := func(text string) string { return strings.ReplaceAll(text, scratch, archive.Name()) }
	var warnings bytes.Buffer
	err = checkBundleFolder(&warnings, scratch, group)
	if _, failed := io.WriteString(hints, named(warnings.String())); failed != nil {
		return failed
	}
	var refused exitError
	if errors.As(err, &refused) {
		return exitError{code: refused.code, err: errors.New(named(refused.err.Error()))}
	}
	return err
}

// outline makes the folders, links and files of an archive below dir. Files are empty, but for those named as one of appspecs, which may be the AppSpec file.
func outline(archive *archiveFile, dir string, appspecs ...string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return bundle.Walk(archive, archive.size, archive.kind, bundle.Options{}, func(e *bundle.Entry) error {
		switch e.Type {
		case bundle.Dir:
			return root.MkdirAll(e.Name, 0o700)
		case bundle.Symlink:
			if err := root.MkdirAll(filepath.Dir(e.Name), 0o700); err != nil {
				return err
			}
			return root.Symlink(e.Link, e.Name)
		}
		return outlineFile(root, e, slices.ContainsFunc(appspecs, func(name string) bool { return filepath.Base(name) == filepath.Base(e.Name) }))
	})
}

// outlineFile makes one file, empty or whole; whether it may be executed is kept. A hard link is a file like any other.
func outlineFile(root *os.Root, e *bundle.Entry, whole bool) error {
	if err := root.MkdirAll(filepath.Dir(e.Name), 0o700); err != nil {
		return err
	}
	f, err := root.OpenFile(e.Name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600|e.Mode.Perm()&0o100)
	if err != nil {
		return err
	}
	if e.Type == bundle.File && whole {
		_, err = io.Copy(f, io.LimitReader(e.Content, appspec.MaxSourceBytes+1))
	}
	return errors.Join(err, f.Close())
}
