package origin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/logging"

	"github.com/gitopsd/gitopsd/internal/bundle"
)

// credentialsFor is how long credentials read from a file are believed before the file is read again, so that rotating them needs no restart.
const credentialsFor = 5 * time.Minute

const defaultRegion = "us-east-1"

// s3Origin is an archive in S3 or a store that speaks its protocol.
type s3Origin struct {
	location Location
	client   *s3.Client
}

func openS3(l Location, o Options) (Origin, error) {
	client, err := newS3(l, o)
	if err != nil {
		return nil, err
	}
	return &s3Origin{location: l, client: client}, nil
}

func newS3(l Location, o Options) (*s3.Client, error) {
	if l.Bucket == "" || l.Key == "" {
		return nil, errors.New("bucket and key are needed")
	}
	if o.Endpoint != "" && !strings.HasPrefix(o.Endpoint, "http://") && !strings.HasPrefix(o.Endpoint, "https://") {
		return nil, fmt.Errorf("endpoint %q is no URL; write https://HOST", Redact(o.Endpoint))
	}
	load := []func(*config.LoadOptions) error{
		config.WithLogger(logging.Nop{}),
		config.WithRetryer(func() aws.Retryer { return aws.NopRetryer{} }),
		// Stores other than AWS often lack the newer checksums; every byte is checked against git anyway.
		config.WithRequestChecksumCalculation(aws.RequestChecksumCalculationWhenRequired),
		config.WithResponseChecksumValidation(aws.ResponseChecksumValidationWhenRequired),
	}
	if o.Region != "" {
		load = append(load, config.WithRegion(o.Region))
	}
	if o.CredentialsFile != "" {
		load = append(load, config.WithCredentialsProvider(aws.NewCredentialsCache(fileCredentials(o.CredentialsFile))))
	}
	// Nothing is asked of the network here: credentials are fetched with the first request, under its context.
	var cfg aws.Config
	err := withoutPanic("a file of it is malformed", func() (err error) {
		cfg, err = config.LoadDefaultConfig(context.Background(), load...)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot load AWS configuration: %w", err)
	}
	if cfg.Region == "" {
		if o.Endpoint == "" && cfg.BaseEndpoint == nil {
			return nil, errNoRegion
		}
		cfg.Region = defaultRegion
	}
	client := s3.NewFromConfig(cfg, func(so *s3.Options) {
		so.HTTPClient = o.Client // not by config: with AWS_CA_BUNDLE set, that accepts no client but the SDK's own
		so.UsePathStyle = o.PathStyle
		so.Credentials = namedCredentials{cfg.Credentials, o.CredentialsFile != ""}
		if o.Endpoint != "" {
			so.BaseEndpoint = aws.String(o.Endpoint)
		}
	})
	return client, checkEndpoint(aws.ToString(client.Options().BaseEndpoint))
}

// checkEndpoint refuses what the SDK would repeat in its errors, credentials included: an endpoint may come from its environment too.
func checkEndpoint(endpoint string) error {
	if u, err := url.Parse(endpoint); endpoint != "" && (err != nil || u.Host == "" || u.RawQuery != "") {
		return fmt.Errorf("endpoint %q is no URL of a store; write https://HOST", Redact(endpoint))
	}
	return nil
}

var errNoRegion = errors.New("no region is known")

// namedCredentials marks the errors of a provider as such: a file or a server that has no credentials must not be taken for one without the object.
type namedCredentials struct {
	from     aws.CredentialsProvider
	fromFile bool // nobody but a person mends it
}

// Retrieve implements aws.CredentialsProvider.
func (n namedCredentials) Retrieve(ctx context.Context) (aws.Credentials, error) {
	found, err := n.from.Retrieve(ctx)
	if err != nil && ctx.Err() == nil {
		err = &credentialsError{err: err, fromFile: n.fromFile}
	}
	return found, err
}

// credentialsError says why there are no credentials. It is not, to errors.Is, what it was made of.
type credentialsError struct {
	err      error
	fromFile bool
}

func (c *credentialsError) Error() string {
	return "there are no credentials: " + strings.TrimPrefix(c.err.Error(), "failed to refresh cached credentials, ")
}

// fileCredentials reads one shared credentials file, and nothing else, each time it is asked. The profile is AWS_PROFILE or default.
type fileCredentials string

// Retrieve implements aws.CredentialsProvider.
func (f fileCredentials) Retrieve(ctx context.Context) (aws.Credentials, error) {
	profile := os.Getenv("AWS_PROFILE")
	if profile == "" {
		profile = "default"
	}
	var shared config.SharedConfig
	err := withoutPanic("it is malformed; below ["+profile+"] stand lines such as aws_access_key_id = KEY", func() (err error) {
		shared, err = config.LoadSharedConfigProfile(ctx, profile, func(o *config.LoadSharedConfigOptions) {
			o.CredentialsFiles, o.ConfigFiles = []string{string(f)}, []string{}
		})
		return err
	})
	var none config.SharedConfigProfileNotExistError
	if errors.As(err, &none) {
		err = fmt.Errorf("it has no profile %q", profile)
	}
	if err != nil {
		if _, statErr := os.Stat(string(f)); statErr != nil {
			return aws.Credentials{}, fmt.Errorf("cannot read credentials file: %w", statErr)
		}
		return aws.Credentials{}, fmt.Errorf("cannot read credentials file %s: %w", string(f), err)
	}
	found := shared.Credentials
	if found.AccessKeyID == "" || found.SecretAccessKey == "" {
		return aws.Credentials{}, fmt.Errorf("cannot read credentials file %s: profile %q has no aws_access_key_id and aws_secret_access_key", string(f), profile)
	}
	found.CanExpire, found.Expires = true, time.Now().Add(credentialsFor)
	return found, nil
}

// withoutPanic runs read; the SDK's parser panics on some files, of which malformed speaks.
func withoutPanic(malformed string, read func() error) (err error) {
	defer func() {
		if recover() != nil {
			err = errors.New(malformed)
		}
	}()
	return read()
}

// matching is an eTag as If-Match wants it: quoted, though CodeDeploy's API and people write it bare.
func matching(etag string) *string {
	if etag != "" && !strings.HasSuffix(etag, `"`) {
		etag = `"` + etag + `"`
	}
	return optional(etag)
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func (s *s3Origin) Size(ctx context.Context) (int64, error) {
	head, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.location.Bucket, Key: &s.location.Key, VersionId: optional(s.location.Version), IfMatch: matching(s.location.ETag)})
	if err != nil {
		return 0, fail("ask for size of", s.location, err)
	}
	if head.ContentLength == nil {
		return 0, permanent("ask for size of", s.location, errors.New("the store does not tell it"))
	}
	return *head.ContentLength, nil
}

func (s *s3Origin) ReadRange(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	if err := checkRange(off, n); err != nil {
		return nil, fail("read", s.location, err)
	}
	got, err := s.client.GetObject(ctx, &s3.GetObjectInput{
		Bucket: &s.location.Bucket, Key: &s.location.Key, VersionId: optional(s.location.Version), IfMatch: matching(s.location.ETag),
		Range: aws.String(fmt.Sprintf("bytes=%d-%d", off, off+n-1)),
	})
	if err != nil {
		return nil, fail("read", s.location, err)
	}
	status, header := 200, aws.ToString(got.ContentRange)
	if header != "" {
		status = 206
	}
	if err := checkContentRange(header, status, aws.ToInt64(got.ContentLength), off, n); err != nil {
		_ = got.Body.Close()
		return nil, permanent("read", s.location, err)
	}
	return &exactBody{body: got.Body, left: n, fail: func(err error) error { return fail("read", s.location, err) }}, nil
}

func (s *s3Origin) ReadIndex(ctx context.Context) ([]byte, error) {
	beside := s.location.index()
	got, err := s.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &beside.Bucket, Key: &beside.Key})
	if err == nil {
		data, err := readWhole(got.Body, bundle.MaxIndexBytes)
		return data, fail("read index of", s.location, err)
	}
	err = fail("read index of", s.location, err)
	if !NotFound(err) {
		return nil, err
	}
	if data, tailErr := tailIndex(ctx, s); tailErr != nil || data != nil {
		return data, tailErr
	}
	return nil, err
}
