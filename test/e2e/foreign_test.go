package e2e

import (
	"archive/tar"
	"archive/zip"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/status"
)

// archivers make archives of a folder as other tools do.
var archivers = map[string]func(w io.Writer, dir string) error{
	"zip": func(w io.Writer, dir string) error {
		z := zip.NewWriter(w)
		return errors.Join(z.AddFS(os.DirFS(dir)), z.Close())
	},
	"tar": writeTar,
	"tgz": func(w io.Writer, dir string) error {
		z := gzip.NewWriter(w)
		return errors.Join(writeTar(z, dir), z.Close())
	},
}

func writeTar(w io.Writer, dir string) error {
	t := tar.NewWriter(w)
	return errors.Join(t.AddFS(os.DirFS(dir)), t.Close())
}

// TestForeignArchivesArePinnedAndShared: what CodeDeploy deploys is put into the bucket by other means, with the index that `bundle pin` wrote. One copy of it leaves S3,
// and nothing before the index beside it is the one that git pins.
func TestForeignArchivesArePinnedAndShared(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{hosts: 3, voters: 3})
	bucket := filepath.Join(f.dir, "s3", s3Bucket, "website")
	if err := os.MkdirAll(bucket, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"zip", "tgz", "tar"} {
		file := filepath.Join(bucket, kind+"."+kind)
		out, err := os.Create(file)
		if err == nil {
			err = errors.Join(archivers[kind](out, f.build(release{name: kind, size: dealtBytes})), out.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
		pinned := strings.TrimSpace(f.command("bundle", "pin", file))
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		index := file + bundle.IndexSuffix
		if kind == "zip" { // at first another one
			err = os.Rename(index, index+".right")
			if err == nil {
				err = os.WriteFile(index, []byte("gitopsdX and then nothing"), 0o644)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		f.s3.payload.Store(0)
		f.commitRevision("revision:\n  revisionType: S3\n  s3Location: {bucket: "+s3Bucket+", key: website/"+kind+"."+kind+", bundleType: "+kind+"}\n  "+strings.ReplaceAll(pinned, "\n", "\n  ")+"\n", allAtOnce, kind)
		if kind == "zip" {
			f.hosts[0].awaitGroup("that the index cannot be used", func(g status.Group) string {
				if !strings.Contains(g.Why, "cannot use the index of s3://") {
					return g.Why
				}
				return ""
			})
			if left := f.s3.payload.Load(); left > 0 {
				t.Errorf("%d bytes left S3 without the index", left)
			}
			if err := os.Rename(index+".right", index); err != nil {
				t.Fatal(err)
			}
		}
		f.awaitRelease(kind)
		f.awaitSettled()
		if left := f.s3.payload.Load(); left != info.Size() {
			t.Errorf("%s: %d bytes left S3, it has %d", kind, left, info.Size())
		}
	}
	f.assertOnce()
}
