package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/gitopsd/gitopsd/internal/bundle"
)

// bundleVerb runs one bundle verb and returns what it printed and its exit code.
func bundleVerb(t *testing.T, args ...string) (string, int) {
	t.Helper()
	cmd := bundleCommand()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&bytes.Buffer{})
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(t.Context())
	var coded exitError
	switch {
	case err == nil:
		return out.String(), 0
	case errors.As(err, &coded):
		return err.Error(), coded.code
	}
	return err.Error(), codeError
}

func bundleTree(t *testing.T, small string) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range map[string]string{"appspec.yml": "version: 0.0\nos: linux\n", "z/small": small, "big": strings.Repeat("0123456789abcdef", 1<<16)} {
		file := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(data), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestBundleVerbs(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a.tar.zst"), filepath.Join(dir, "b.tar.zst")
	if out, code := bundleVerb(t, "pack", bundleTree(t, "one"), "-o", a); code != 0 {
		t.Fatal(out)
	}
	if out, code := bundleVerb(t, "pack", bundleTree(t, "two"), "-o", b, "--previous", a); code != 0 {
		t.Fatal(out)
	}
	out, code := bundleVerb(t, "inspect", a, "-o", "json")
	var seen inspection
	if err := json.Unmarshal([]byte(out), &seen); code != 0 || err != nil {
		t.Fatalf("%s (%v)", out, err)
	}
	data, err := os.ReadFile(a)
	if err != nil || seen.Digest != bundle.DigestBytes(data) || seen.Files != 3 || !seen.Framed || len(seen.AppSpec) != 1 || seen.Type != bundle.TypeTarZst {
		t.Errorf("%+v (%v)", seen, err)
	}
	var d difference
	out, _ = bundleVerb(t, "diff", a, b, "-o", "json")
	if err := json.Unmarshal([]byte(out), &d); err != nil || d.MovedBytes == 0 || d.ReusedBytes == 0 || d.MovedBytes > 4096 {
		t.Errorf("diff says %s (%v)", out, err)
	}
	if out, code := bundleVerb(t, "verify", a, string(seen.Digest)); code != 0 || !strings.Contains(out, "is good") {
		t.Errorf("verify: %d %s", code, out)
	}
	if out, code := bundleVerb(t, "verify", b, string(seen.Digest)); code != codeInvalid {
		t.Errorf("verify with another's digest: %d %s", code, out)
	}
	data[len(data)/3] ^= 1
	if err := os.WriteFile(a, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, code := bundleVerb(t, "verify", a); code != codeInvalid {
		t.Errorf("verify of a damaged bundle: %d %s", code, out)
	}
}

func TestBundleVerbsCountInWords(t *testing.T) {
	tiny := filepath.Join(t.TempDir(), "tiny.tar.zst")
	if out, code := bundleVerb(t, "pack", writeTree(t, map[string]string{"appspec.yml": "version: 0.0\nos: linux\n"}), "-o", tiny); code != 0 {
		t.Fatal(out)
	}
	for line, want := range map[string]string{"verify": "is good: 1 piece, ", "inspect": "pieces: 1 zstd frame cut by content", "diff " + tiny: "moved:  0 bytes in 0 pieces"} {
		if out, code := bundleVerb(t, append(strings.Fields(line), tiny)...); code != 0 || !strings.Contains(out, want) {
			t.Errorf("%s: exit %d, %s; want %s", line, code, out, want)
		}
	}
}

func TestBundleVerbsRefuse(t *testing.T) {
	dir := bundleTree(t, "x")
	cases := map[string]struct {
		args []string
		code int
	}{
		"-o FILE":        {[]string{"pack", dir}, codeUsage},
		"would contain":  {[]string{"pack", dir, "-o", filepath.Join(dir, "self.tar.zst")}, codeError},
		"no such file":   {[]string{"inspect", filepath.Join(dir, "nothing")}, codeError},
		"no tar archive": {[]string{"inspect", filepath.Join(dir, "big")}, codeError},
		"pack writes is a tar.zst, whatever its name; write -o releases/x.tar.zst": {[]string{"pack", dir, "-o", "releases/x.zip"}, codeUsage},
		"write -o releases/y.tar.zst":   {[]string{"pack", dir, "-o", "releases/y.TAR.GZ"}, codeUsage},
		"it is no zip, tar, tgz or tar": {[]string{"pin", filepath.Join(dir, "big")}, codeInvalid},
		"s3://BUCKET/KEY":               {[]string{"push", dir, "s3://bucket"}, codeUsage},
		"the output is":                 {[]string{"inspect", dir, "-o", "xml"}, codeUsage},
		"usage: bundle inspect":         {[]string{"inspect"}, codeUsage},
		"hosts can read from there, but nothing can be stored: write s3://BUCKET/KEY or an absolute path": {[]string{"push", dir, "https://127.0.0.1:1/x"}, codeUsage},
		`location "relative/x": write s3://BUCKET/KEY or an absolute path`:                                {[]string{"push", dir, "relative/x"}, codeUsage},
		`location "gs://b/k": write s3://BUCKET/KEY or an absolute path`:                                  {[]string{"push", dir, "gs://b/k"}, codeUsage},
		": it is a folder; name the file to make in it":                                                   {[]string{"push", dir, t.TempDir()}, codeError},
		`the scheme "S3" of the location`:                                                                 {[]string{"push", dir, "S3://bucket/key"}, codeUsage},
	}
	for want, c := range cases {
		if out, code := bundleVerb(t, c.args...); code != c.code || !strings.Contains(out, want) {
			t.Errorf("%v: exit %d, %q; want %d, %q", c.args, code, out, c.code, want)
		}
	}
}

// TestBundlePushStoresNothingUnderAnotherTypesName, of a folder and of a file, whatever the kind of location.
func TestBundlePushStoresNothingUnderAnotherTypesName(t *testing.T) {
	dir, to := bundleTree(t, "x"), t.TempDir()
	file := filepath.Join(t.TempDir(), "web.tar.zst")
	if out, code := bundleVerb(t, "pack", dir, "-o", file); code != 0 {
		t.Fatal(out)
	}
	archive := tarOf(t, dir)
	for _, c := range []struct{ source, to, want string }{
		{dir, to + "/site.zip", "what push makes of a folder is a tar.zst, whatever its name; write " + to + "/site.tar.zst"},
		{dir, to + "/site.TGZ", "write " + to + "/site.tar.zst"},
		{dir, "s3://b/web/1.10.tar", "write s3://b/web/1.10.tar.zst"},
		{file, to + "/site.zip", file + " is a tar.zst, whatever its name; write " + to + "/site.tar.zst"},
		{archive, "s3://b/site.tar.zst", archive + " is a tar, whatever its name; write s3://b/site.tar"},
	} {
		if out, code := bundleVerb(t, "push", c.source, c.to, "--endpoint", "http://127.0.0.1:1"); code != codeUsage || !strings.Contains(out, c.want) {
			t.Errorf("%s to %s: exit %d, %s; want %s", c.source, c.to, code, out, c.want)
		}
	}
	if left, err := os.ReadDir(to); err != nil || len(left) > 0 {
		t.Errorf("stored: %v, %v", left, err)
	}
	for source, name := range map[string]string{dir: "a.tzst", file: "b", archive: "c.tar"} {
		if out, code := bundleVerb(t, "push", source, filepath.Join(to, name)); code != 0 {
			t.Errorf("%s: exit %d, %s", name, code, out)
		}
	}
}

func TestBundlePushToADirectoryEditsTheGroup(t *testing.T) {
	releases := t.TempDir()
	to := filepath.Join(releases, "web-1.tar.zst")
	out, code := bundleVerb(t, "push", bundleTree(t, "x"), to)
	if code != 0 || !strings.Contains(out, "revisionType: Directory") || !strings.Contains(out, "index: sha256:") {
		t.Fatalf("%d %s", code, out)
	}
	if again, code := bundleVerb(t, "push", bundleTree(t, "x"), to); code != 0 || again != out {
		t.Errorf("the same again: %d %s", code, again)
	}
	if out, code := bundleVerb(t, "push", bundleTree(t, "other"), to); code != codeRefused {
		t.Errorf("another bundle on the same key: %d %s", code, out)
	}
	group := filepath.Join(t.TempDir(), "group.yaml")
	if err := os.WriteFile(group, []byte("id: A\n"+out+"waves: [] # all\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	next := filepath.Join(releases, "web-2.tar.zst")
	if out, code := bundleVerb(t, "push", bundleTree(t, "next"), next, "--group", filepath.Dir(group)); code != 0 || !strings.Contains(out, "git commit") {
		t.Fatalf("%d %s", code, out)
	}
	text, err := os.ReadFile(group)
	if err != nil || !strings.Contains(string(text), next) || strings.Contains(string(text), to) || !strings.Contains(string(text), "waves: [] # all") {
		t.Errorf("%s (%v)", text, err)
	}
}

// TestBundlePushChecksEverythingBeforeItStores anything: what it would edit, what it would store, and where.
func TestBundlePushChecksEverythingBeforeItStores(t *testing.T) {
	releases, folder := t.TempDir(), t.TempDir()
	plain, noRevision, odd := filepath.Join(folder, "plain"), filepath.Join(folder, "none.yaml"), filepath.Join(folder, "odd.yaml")
	for file, text := range map[string]string{
		plain: "#!/bin/sh\necho no archive\n", noRevision: "id: A\n", odd: "revision:\n  revisionType: Directory\n  directoryLocation: {path: /x}\n  digest: >-\n    folded\n",
		filepath.Join(folder, "web.zip"): strings.Repeat("x", 100),
	} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	tree, to := bundleTree(t, "x"), filepath.Join(releases, "web.tar.zst")
	for _, c := range []struct {
		args []string
		want string
		code int
	}{
		{[]string{tree, to, "--group", filepath.Join(folder, "nothing")}, "nothing is stored: open " + filepath.Join(folder, "nothing"), codeError},
		{[]string{tree, to, "--group", releases}, filepath.Join(releases, "group.yaml"), codeError},
		{[]string{tree, to, "--group", noRevision}, "it has no revision yet; without --group", codeInvalid},
		{[]string{tree, to, "--group", odd}, "cannot be edited safely", codeInvalid},
		{[]string{plain, to}, "cannot use " + plain + " as a bundle: it is no zip, tar, tgz or tar.zst archive", codeInvalid},
		{[]string{filepath.Join(folder, "web.zip"), to}, "it is no zip, tar, tgz or tar.zst archive", codeInvalid},
		{[]string{tree, "s3://b/k", "--endpoint", "s3.example.com:9000"}, `cannot use the endpoint "s3.example.com:9000"`, codeUsage},
		{[]string{tree, "s3://b/k", "--endpoint", "http://:bad:"}, "such as https://s3.example.com or http://10.0.0.5:9000", codeUsage},
		{[]string{tree, "s3://b/k", "--endpoint", "https://anna:secret@s3"}, `"...@s3"`, codeUsage},
	} {
		out, code := bundleVerb(t, append([]string{"push"}, c.args...)...)
		if code != c.code || !strings.Contains(out, c.want) || strings.Contains(out, "secret") {
			t.Errorf("%v: exit %d, %s; want %d, %s", c.args, code, out, c.code, c.want)
		}
	}
	if left, err := os.ReadDir(releases); err != nil || len(left) > 0 {
		t.Errorf("stored: %v, %v", left, err)
	}
}

// TestBundlePushNamesItsFlags and no key of gitopsd.yaml, which it does not read.
func TestBundlePushNamesItsFlags(t *testing.T) {
	for name, value := range map[string]string{"AWS_REGION": "", "AWS_DEFAULT_REGION": "", "AWS_CONFIG_FILE": "/dev/null", "AWS_ENDPOINT_URL": "", "AWS_PROFILE": ""} {
		t.Setenv(name, value)
	}
	tree := bundleTree(t, "x")
	for want, args := range map[string][]string{
		"--region":           nil,
		"--credentials-file": {"--endpoint", "http://127.0.0.1:1", "--credentials-file", filepath.Join(t.TempDir(), "none")},
	} {
		if out, code := bundleVerb(t, append([]string{"push", tree, "s3://b/k"}, args...)...); code != codeError || !strings.Contains(out, want) || strings.Contains(out, "gitopsd.yaml") {
			t.Errorf("exit %d, %s; want %s", code, out, want)
		}
	}
}

// TestBundleTypeIsToldByContent where the name lies.
func TestBundleTypeIsToldByContent(t *testing.T) {
	packed := filepath.Join(t.TempDir(), "a.tar.zst")
	if out, code := bundleVerb(t, "pack", bundleTree(t, "x"), "-o", packed); code != 0 {
		t.Fatal(out)
	}
	named := filepath.Join(t.TempDir(), "a.zip")
	if err := os.Rename(packed, named); err != nil {
		t.Fatal(err)
	}
	if out, code := bundleVerb(t, "push", named, filepath.Join(t.TempDir(), "a")); code != 0 || !strings.Contains(out, "bundleType: tar.zst") {
		t.Errorf("exit %d, %s", code, out)
	}
}

// A push that ended between index and archive is repeated, and says nothing of its progress to what is no terminal.
func TestBundlePushCanBeRepeated(t *testing.T) {
	if _, err := exec.LookPath("tar"); err != nil {
		t.Skipf("tar is not installed: %v", err)
	}
	file, to := filepath.Join(t.TempDir(), "old.tgz"), filepath.Join(t.TempDir(), "web.tgz")
	if out, err := exec.Command("tar", "-czf", file, "-C", bundleTree(t, "x"), ".").CombinedOutput(); err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	first, code := bundleVerb(t, "push", file, to)
	if code != 0 {
		t.Fatal(code, first)
	}
	if err := os.Remove(to); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(to + bundle.IndexSuffix); err != nil {
		t.Fatal(err)
	}
	if again, code := bundleVerb(t, "push", file, to); code != 0 || again != first {
		t.Errorf("%d %s, want %s", code, again, first)
	}
	if again, code := bundleVerb(t, "push", file, to); code != 0 || again != first {
		t.Errorf("once more: %d %s", code, again)
	}
	if sent, _ := sentOn(io.Discard, 1<<30); sent != nil {
		t.Error("progress is told to what is no terminal")
	}
}

// TestBundlePushLeavesNothingOfItsOwn: what it packed is gone from the disk before it is sent, which takes long and may be killed.
func TestBundlePushLeavesNothingOfItsOwn(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "SECRET")
	scratch, tree := t.TempDir(), bundleTree(t, "x")
	t.Setenv("TMPDIR", scratch)
	var left []os.DirEntry
	sent := 0
	store := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPut {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		sent++
		seen, err := os.ReadDir(scratch)
		if err != nil {
			t.Error(err)
		}
		left = append(left, seen...)
	}))
	defer store.Close()
	if out, code := bundleVerb(t, "push", tree, "s3://b/k", "--endpoint", store.URL, "--region", "r"); code != 0 || sent != 2 || len(left) > 0 {
		t.Errorf("%d %s: %d requests, %v left", code, out, sent, left)
	}
}

func TestBundlePinWritesAnIndexOfAForeignArchive(t *testing.T) {
	if _, err := exec.LookPath("tar"); err != nil {
		t.Skipf("tar is not installed: %v", err)
	}
	file := filepath.Join(t.TempDir(), "old.tgz")
	if out, err := exec.Command("tar", "-czf", file, "-C", bundleTree(t, "x"), ".").CombinedOutput(); err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	out, code := bundleVerb(t, "pin", file)
	encoded, err := os.ReadFile(file + bundle.IndexSuffix)
	if code != 0 || err != nil {
		t.Fatalf("%d %s (%v)", code, out, err)
	}
	x, err := bundle.DecodeIndex(encoded)
	if err != nil || x.Framed() || !strings.Contains(out, "index: "+string(x.Digest())) || !strings.Contains(out, "digest: "+string(x.PayloadDigest())) {
		t.Errorf("%s (%v)", out, err)
	}
}

// A pin vouches for an archive: one that is damaged or cut off gets none.
func TestBundlePinRefusesWhatIsDamaged(t *testing.T) {
	if _, err := exec.LookPath("tar"); err != nil {
		t.Skipf("tar is not installed: %v", err)
	}
	dir, tree := t.TempDir(), bundleTree(t, "x")
	ours, foreign := filepath.Join(dir, "ours.tar.zst"), filepath.Join(dir, "foreign.tgz")
	if out, code := bundleVerb(t, "pack", tree, "-o", ours); code != 0 {
		t.Fatal(out)
	}
	if out, err := exec.Command("tar", "-czf", foreign, "-C", tree, ".").CombinedOutput(); err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	flip := func(data []byte) []byte { data[len(data)/3] ^= 1; return data }
	cut := func(data []byte) []byte { return data[:len(data)/2] }
	for name, c := range map[string]struct {
		from   string
		damage func([]byte) []byte
	}{"flipped.tar.zst": {ours, flip}, "cut.tar.zst": {ours, cut}, "flipped.tgz": {foreign, flip}, "cut.tgz": {foreign, cut}} {
		data, err := os.ReadFile(c.from)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, c.damage(data), 0o644); err != nil {
			t.Fatal(err)
		}
		out, code := bundleVerb(t, "pin", file)
		if _, err := os.Lstat(file + bundle.IndexSuffix); code != codeInvalid || err == nil || !strings.Contains(out, file) {
			t.Errorf("%s: %d %s (%v)", name, code, out, err)
		}
	}
}

// TestNoVerbBelievesAnIndexAlone: diff said what moves, inspect what lies in it, and push stored what no host would take.
func TestNoVerbBelievesAnIndexAlone(t *testing.T) {
	dir, tree := t.TempDir(), bundleTree(t, "x")
	good, bad, foreign := filepath.Join(dir, "good.tar.zst"), filepath.Join(dir, "bad.tar.zst"), filepath.Join(dir, "cut.tar")
	if out, code := bundleVerb(t, "pack", tree, "-o", good); code != 0 {
		t.Fatal(out)
	}
	data, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	x, err := bundle.ReadIndex(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	data[x.Piece(x.Len()-1).Offset+8] ^= 1
	var raw bytes.Buffer
	files := tar.NewWriter(&raw)
	if err := errors.Join(os.WriteFile(bad, data, 0o644), files.AddFS(os.DirFS(tree)), os.WriteFile(foreign, raw.Bytes()[:raw.Len()/2], 0o644)); err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(dir, "stored")
	for _, c := range []struct {
		line string
		code int
	}{
		{"diff GOOD BAD", codeInvalid}, {"diff BAD GOOD", codeInvalid}, {"inspect BAD", codeError}, {"push --no-check BAD " + to, codeInvalid}, {"verify BAD", codeInvalid},
		{"diff GOOD CUT", codeInvalid},
	} {
		line := strings.NewReplacer("GOOD", good, "BAD", bad, "CUT", foreign).Replace(c.line)
		out, code := bundleVerb(t, strings.Fields(line)...)
		if code != c.code || !strings.Contains(out, dir) || strings.Contains(out, good) {
			t.Errorf("%s: exit %d, %s; want %d", c.line, code, out, c.code)
		}
	}
	if _, err := os.Lstat(to); err == nil {
		t.Error("push stored a bundle that is damaged")
	}
}

// TestBundlePackNamesTheFileOfItsFlag in its errors, and not the temporary one beside it.
func TestBundlePackNamesTheFileOfItsFlag(t *testing.T) {
	tree, dir := bundleTree(t, "x"), t.TempDir()
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	none, below, taken := filepath.Join(dir, "it's none", "b.tar.zst"), filepath.Join(plain, "b.tar.zst"), filepath.Join(dir, "folder")
	if err := os.Mkdir(taken, 0o755); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		none:  "there is no folder " + filepath.Dir(none) + "; mount it, or make it with: mkdir -p " + shellWord(filepath.Dir(none)),
		below: plain + " is no folder",
		taken: "it is a folder; name the file to make in it",
	} {
		out, code := bundleVerb(t, "pack", tree, "-o", file)
		if code != codeError || out != "cannot write "+file+": "+want {
			t.Errorf("exit %d, %s; want %s", code, out, want)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 2 {
		t.Errorf("left: %v, %v", left, err)
	}
	if out, code := bundleVerb(t, "pack", tree, "-o", filepath.Join(dir, "a b.zip")); code != codeUsage || !strings.Contains(out, "write -o '"+dir+"/a b.tar.zst'") {
		t.Errorf("exit %d, %s", code, out)
	}
}

// TestBundlePackNamesItsFileWhereTheDiskIsFull: what the system says is of the temporary file.
func TestBundlePackNamesItsFileWhereTheDiskIsFull(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skipf("no device is always full: %v", err)
	}
	defer full.Close()
	if _, err := (writtenAs{full, "b.tar.zst"}).Write([]byte("x")); !errors.Is(err, syscall.ENOSPC) || err.Error() != "write b.tar.zst: no space left on device" {
		t.Error(err)
	}
}

// TestBundlePackNamesItsFileWhereItMayNotWrite: what the system says is of the temporary file.
func TestBundlePackNamesItsFileWhereItMayNotWrite(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may write everywhere")
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "b.tar.zst")
	if out, code := bundleVerb(t, "pack", bundleTree(t, "x"), "-o", file); code != codeError || out != "cannot write "+file+": permission denied" {
		t.Errorf("exit %d, %s", code, out)
	}
}

// TestBundleVerbsSayThatAFileEndsEarly, and what to do; all that they said was "unexpected EOF".
func TestBundleVerbsSayThatAFileEndsEarly(t *testing.T) {
	dir, tree := t.TempDir(), bundleTree(t, "x")
	good := filepath.Join(dir, "good.tar.zst")
	if out, code := bundleVerb(t, "pack", tree, "-o", good); code != 0 {
		t.Fatal(out)
	}
	framed, err := os.ReadFile(good)
	var asTar, asTgz, asZip bytes.Buffer
	files, zipped, archived := tar.NewWriter(&asTar), gzip.NewWriter(&asTgz), zip.NewWriter(&asZip)
	err = errors.Join(err, files.AddFS(os.DirFS(tree)), files.Close(), archived.AddFS(os.DirFS(tree)), archived.Close())
	_, writeErr := zipped.Write(asTar.Bytes())
	if err := errors.Join(err, writeErr, zipped.Close()); err != nil {
		t.Fatal(err)
	}
	cut := filepath.Join(dir, "cut.tar")
	for kind, data := range map[string][]byte{"tar.zst": framed, "tar": asTar.Bytes(), "tgz": asTgz.Bytes(), "zip": asZip.Bytes()} {
		if err := os.WriteFile(cut, data[:len(data)/2], 0o644); err != nil {
			t.Fatal(err)
		}
		for _, line := range []string{"verify CUT", "inspect CUT", "pin CUT", "diff GOOD CUT", "push CUT " + filepath.Join(dir, "stored")} {
			out, code := bundleVerb(t, strings.Fields(strings.NewReplacer("GOOD", good, "CUT", cut).Replace(line))...)
			want := fmt.Sprintf("it ends early, after %d bytes, or is damaged; copy it again from where it was made, or make it anew", len(data)/2)
			if code != codeInvalid || !strings.Contains(out, cut) || !strings.HasSuffix(out, ": "+want) || strings.Contains(out, "EOF") {
				t.Errorf("%s of a %s: exit %d, %s", line, kind, code, out)
			}
		}
	}
}

// TestBundleVerifyTakesWhatSha256sumPrints, and judges a digest before it reads the archive.
func TestBundleVerifyTakesWhatSha256sumPrints(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a.tar.zst")
	if out, code := bundleVerb(t, "pack", bundleTree(t, "x"), "-o", file); code != 0 {
		t.Fatal(out)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	digest := bundle.DigestBytes(data)
	if out, code := bundleVerb(t, "verify", file, digest.Hex()); code != 0 || !strings.Contains(out, "digest "+string(digest)) {
		t.Errorf("exit %d, %s", code, out)
	}
	if out, code := bundleVerb(t, "verify", file, strings.Repeat("0", 64)); code != codeInvalid || !strings.Contains(out, "expected sha256:"+strings.Repeat("0", 64)) {
		t.Errorf("another: exit %d, %s", code, out)
	}
	for _, wrong := range []string{"0123", "SHA256:" + digest.Hex(), "sha256:" + strings.ToUpper(digest.Hex()), digest.Hex() + "0", "sha256:sha256:" + digest.Hex()} {
		for _, name := range []string{file, file + ".none"} {
			if out, code := bundleVerb(t, "verify", name, wrong); code != codeUsage || !strings.Contains(out, fmt.Sprintf("cannot parse digest %.80q: write the 64 hexadecimal digits", wrong)) || !strings.Contains(out, "with or without sha256: before them") {
				t.Errorf("%q of %s: exit %d, %s", wrong, name, code, out)
			}
		}
	}
}

// What no host would unpack is found when it is packed.
func TestBundlePackRefusesALinkThatClimbsOut(t *testing.T) {
	tree, file := bundleTree(t, "x"), filepath.Join(t.TempDir(), "b.tar.zst")
	if err := os.Symlink("../../x", filepath.Join(tree, "up")); err != nil {
		t.Fatal(err)
	}
	out, code := bundleVerb(t, "pack", tree, "-o", file)
	if _, err := os.Lstat(file); code != codeInvalid || err == nil || !strings.Contains(out, `"up" points to "../../x"`) {
		t.Errorf("%d %s (%v)", code, out, err)
	}
}

func TestEditRevision(t *testing.T) {
	digest, index := bundle.DigestBytes([]byte("d")), bundle.DigestBytes([]byte("i"))
	rev := revisionBlock{RevisionType: "S3", S3Location: &s3Location{Bucket: "releases", Key: "web/2.tar.zst", BundleType: bundle.TypeTarZst}, Digest: digest, Size: 42, Index: index}
	edits := map[string][2]string{
		"block with comments": {
			"# ours\nid: A\nrevision:   # what runs\n  revisionType: S3\n  s3Location:\n    bucket: releases # theirs\n    key: \"web/1.zip\"\n    bundleType: 'zip'\n    version: abc\n  digest: sha256:old # of the archive\n  size: 1\n  index: sha256:old\nattempt: 1\n",
			"# ours\nid: A\nrevision:   # what runs\n  revisionType: S3\n  s3Location:\n    bucket: releases # theirs\n    key: web/2.tar.zst\n    bundleType: tar.zst\n    version: \"\"\n  digest: " + string(digest) + " # of the archive\n  size: 42\n  index: " + string(index) + "\nattempt: 1\n",
		},
		"flow, keys missing": {
			"revision: {revisionType: S3, s3Location: {bucket: b, key: k}, digest: x}\n",
			"revision: {index: " + string(index) + ", size: 42, revisionType: S3, s3Location: {bundleType: tar.zst, bucket: releases, key: web/2.tar.zst}, digest: " + string(digest) + "}\n",
		},
		"characters of several bytes before": {
			"revision: {revisionType: S3, s3Location: {bucket: releases, key: \"wéb/ü\", bundleType: tar.zst}, digest: x, size: 42, index: " + string(index) + "} # ñ\n",
			"revision: {revisionType: S3, s3Location: {bucket: releases, key: web/2.tar.zst, bundleType: tar.zst}, digest: " + string(digest) + ", size: 42, index: " + string(index) + "} # ñ\n",
		},
	}
	for name, c := range edits {
		got, err := editRevision([]byte(c[0]), rev)
		if err != nil || string(got) != c[1] {
			t.Errorf("%s: %v\n%s\nwant\n%s", name, err, got, c[1])
		}
	}
	for want, text := range map[string]string{
		"cannot be edited": "revision:\n  revisionType: Https\n  httpsLocation: {\n    url: \"https://a/b\", # theirs\n    bundleType: zip}\n",
		"no revision":      "id: A\n",
		"remove the one":   "revision: {revisionType: S3, s3Location: {bucket: releases}, directoryLocation: {path: /x}}\n",
		"safely":           "revision:\n  revisionType: S3\n  s3Location: {bucket: releases, key: k, bundleType: tar.zst}\n  digest: >-\n    folded\n",
	} {
		if got, err := editRevision([]byte(text), rev); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q becomes %q, %v; want %q", text, got, err, want)
		}
	}
}

// TestEditRevisionSwitchesTheKindOfLocation there and back, whatever the style, and keeps comments.
func TestEditRevisionSwitchesTheKindOfLocation(t *testing.T) {
	digest, index := bundle.DigestBytes([]byte("d")), bundle.DigestBytes([]byte("i"))
	tail := "  digest: " + string(digest) + " # of the archive\n  size: 42\n  index: " + string(index) + "\nattempt: 1 # again\n"
	s3 := revisionBlock{RevisionType: "S3", S3Location: &s3Location{Bucket: "releases", Key: "web/2.tar.zst", BundleType: bundle.TypeTarZst}, Digest: digest, Size: 42, Index: index}
	dir := revisionBlock{RevisionType: "Directory", Directory: &directoryLocation{Path: "/srv/web 2.tar.zst", BundleType: bundle.TypeTarZst}, Digest: digest, Size: 42, Index: index}
	cases := map[string]struct {
		rev        revisionBlock
		text, want string
	}{
		"flow": {dir,
			"revision:\n  revisionType: S3 # kind\n  s3Location: {bucket: \"releases\", key: \"web/1 {x}.zip\", bundleType: tar.zst, version: v} # where\n" + tail,
			"revision:\n  revisionType: Directory # kind\n  directoryLocation: {path: \"/srv/web 2.tar.zst\", bundleType: tar.zst} # where\n" + tail},
		"flow back": {s3,
			"revision:\n  revisionType: Directory # kind\n  directoryLocation: {path: \"/srv/web 2.tar.zst\", bundleType: tar.zst} # where\n" + tail,
			"revision:\n  revisionType: S3 # kind\n  s3Location: {bucket: releases, key: web/2.tar.zst, bundleType: tar.zst} # where\n" + tail},
		"block": {dir,
			"revision:\n  revisionType: S3\n  s3Location: # where\n    # ours\n    bucket: releases # theirs\n    key: web/1.zip # the file\n    bundleType: zip\n    version: v\n    eTag: \"\"\n" + tail,
			"revision:\n  revisionType: Directory\n  directoryLocation: # where\n    # ours\n    # theirs\n    path: \"/srv/web 2.tar.zst\" # the file\n    bundleType: tar.zst\n" + tail},
		"block back": {s3,
			"revision:\n  revisionType: Directory\n  directoryLocation: # where\n    path: \"/srv/web 2.tar.zst\" # the file\n    bundleType: tar.zst\n" + tail,
			"revision:\n  revisionType: S3\n  s3Location: # where\n    bucket: releases\n    key: web/2.tar.zst # the file\n    bundleType: tar.zst\n" + tail},
		"everything in braces": {s3,
			"revision: {revisionType: Https, httpsLocation: {url: 'https://a/b'}, digest: x}\n",
			"revision: {index: " + string(index) + ", size: 42, revisionType: S3, s3Location: {bucket: releases, key: web/2.tar.zst, bundleType: tar.zst}, digest: " + string(digest) + "}\n"},
		"no location yet": {dir,
			"revision:\n  revisionType: Directory\n" + tail,
			"revision:\n  directoryLocation: {path: \"/srv/web 2.tar.zst\", bundleType: tar.zst}\n  revisionType: Directory\n" + tail},
	}
	for name, c := range cases {
		got, err := editRevision([]byte(c.text), c.rev)
		if err != nil || string(got) != c.want {
			t.Errorf("%s: %v\n%s\nwant\n%s", name, err, got, c.want)
		}
	}
}
