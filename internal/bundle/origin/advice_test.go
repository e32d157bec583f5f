package origin

import (
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestOperatorsAreToldOfFlags for whatever a store answers: bundle push reads no gitopsd.yaml.
func TestOperatorsAreToldOfFlags(t *testing.T) {
	code, status := "", 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		fmt.Fprintf(w, "<Error><Code>%s</Code><Message>no</Message></Error>", code)
	}))
	t.Cleanup(server.Close)
	for name, value := range map[string]string{"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "", "AWS_DEFAULT_REGION": "", "AWS_CONFIG_FILE": "/dev/null",
		"AWS_SHARED_CREDENTIALS_FILE": "/dev/null", "AWS_EC2_METADATA_DISABLED": "true", "AWS_ENDPOINT_URL": "", "AWS_PROFILE": ""} {
		t.Setenv(name, value)
	}
	at := Location{Kind: S3, Bucket: "releases", Key: "web/1.tar.zst"}
	o := Options{Endpoint: server.URL, PathStyle: true, Client: server.Client()}
	put := func(o Options) error {
		return ForOperator(Put(t.Context(), at, o, strings.NewReader("x"), 1, nil))
	}
	told := func(err error, want string) {
		t.Helper()
		if err == nil || strings.Contains(err.Error(), "gitopsd.yaml") || strings.Contains(err.Error(), "bundle push") || strings.Contains(err.Error(), "s3.") || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %s", err, want)
		}
	}
	for _, c := range []struct {
		code, want string
		status     int
	}{
		{"NoSuchBucket", "correct BUCKET", 404}, {"NotFound", "correct BUCKET", 404}, {"InvalidBucketName", "correct BUCKET", 400}, {"AccessDenied", "--credentials-file", 403},
		{"InvalidAccessKeyId", "AWS_ACCESS_KEY_ID", 403}, {"SignatureDoesNotMatch", "--credentials-file", 403}, {"PermanentRedirect", "--region", 301},
		{"AuthorizationHeaderMalformed", "--region", 400}, {"RequestTimeTooSkewed", "clock", 403},
	} {
		code, status = c.code, c.status
		told(put(o), c.want)
	}
	from, err := Open(at, o)
	if err != nil {
		t.Fatal(err)
	}
	for answer, want := range map[int]string{301: "--region", 400: "--region", 403: "--credentials-file"} {
		status = answer
		_, err := from.Size(t.Context()) // HEAD: there is no code in the answer
		told(ForOperator(err), want)
	}
	missing := o
	missing.CredentialsFile = filepath.Join(t.TempDir(), "none")
	told(put(missing), "give --credentials-file")
	missing.Endpoint, missing.CredentialsFile = "", ""
	told(put(missing), "no region is known (give --region, or AWS_REGION)")
	_, err = Open(at, missing)
	told(ForOperator(err), "no region is known (give --region, or AWS_REGION)")
	if err == nil || !strings.Contains(err.Error(), "set s3.region in gitopsd.yaml") {
		t.Errorf("an agent is told: %v", err)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	told(put(o), "there are no credentials: ")
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	server.Close()
	told(put(o), "is --endpoint")
}

// TestStoringNamesNoTemporaryFile, and advises who stores, not who reads.
func TestStoringNamesNoTemporaryFile(t *testing.T) {
	at := Location{Kind: Directory, Path: filepath.Join(t.TempDir(), "none", "b.zip")}
	err := Put(t.Context(), at, Options{}, strings.NewReader("x"), 1, nil)
	if err == nil || !strings.HasPrefix(err.Error(), "cannot store "+at.Path+": no such file or directory") {
		t.Error(err)
	}
	for _, err := range []error{&fs.PathError{Op: "write", Path: "/x/.gitopsd-put-7", Err: syscall.EACCES}, &os.LinkError{Op: "rename", Old: "/x/.gitopsd-put-7", New: "/x/b.zip", Err: syscall.EACCES}} {
		err = ForOperator(fail("store", at, withoutTemporary(err)))
		if want := "cannot store " + at.Path + ": permission denied (choose a place where this user may write)"; err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if err := withoutTemporary(&fs.PathError{Op: "read", Path: "/y/source", Err: syscall.EIO}); !strings.Contains(err.Error(), "/y/source") {
		t.Error(err)
	}
}

// TestCredentialsFilesThatAreMalformedAreNamed: one with a quote alone made the SDK panic, which ended the agent.
func TestCredentialsFilesThatAreMalformedAreNamed(t *testing.T) {
	t.Setenv("AWS_PROFILE", "")
	file := filepath.Join(t.TempDir(), "credentials")
	for text, want := range map[string]string{
		"":                                    `: it has no profile "default"`,
		"[other]\naws_access_key_id = A\n":    `: it has no profile "default"`,
		"[default]\naws_access_key_id = \"\n": ": it is malformed; below [default] stand lines such as aws_access_key_id = KEY",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := fileCredentials(file).Retrieve(t.Context()); err == nil || err.Error() != "cannot read credentials file "+file+want {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
	if _, err := fileCredentials(filepath.Dir(file)).Retrieve(t.Context()); err == nil || !strings.Contains(err.Error(), "cannot read credentials file "+filepath.Dir(file)+": ") {
		t.Errorf("a folder: %v", err)
	}
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file)
	if err := os.WriteFile(file, []byte("[default]\naws_access_key_id = \"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Location{Kind: S3, Bucket: "b", Key: "k"}, Options{Region: "r"}); err == nil || !strings.Contains(err.Error(), "cannot load AWS configuration: a file of it is malformed") {
		t.Errorf("the usual place: %v", err)
	}
}

// TestMissingCredentialsAreNoMissingObject although both may be a file that does not exist.
func TestMissingCredentialsAreNoMissingObject(t *testing.T) {
	o := Options{Endpoint: "http://127.0.0.1:1", CredentialsFile: filepath.Join(t.TempDir(), "none")}
	from, err := Open(Location{Kind: S3, Bucket: "releases", Key: "web/1.tar.zst"}, o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := from.Size(t.Context()); err == nil || NotFound(err) || !strings.Contains(err.Error(), "(set s3.credentialsFile in gitopsd.yaml") {
		t.Errorf("%v", err)
	}
}
