package origin

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"strings"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// Error is what every origin returns.
type Error struct {
	Op        string // read, read index of, ask for size of, open, store
	Where     string // the location, without secrets
	Transient bool   // trying again later may help without anybody doing anything
	Advice    string // what a person can do; may be empty
	Err       error
}

// Error implements error.
func (e *Error) Error() string {
	text := fmt.Sprintf("cannot %s %s: %v", e.Op, e.Where, e.Err)
	if e.Advice != "" {
		text += " (" + e.Advice + ")"
	}
	return text
}

// Place is the location, without secrets. Package swarm tells by it that the error names what could not be done, and repeats nothing.
func (e *Error) Place() string { return e.Where }

// Unwrap implements errors.Unwrap.
func (e *Error) Unwrap() error { return e.Err }

// Transient reports whether err may go away by itself, so that trying again later makes sense. An error this package did not make is
// transient unless the caller's own context ended.
func Transient(err error) bool {
	var e *Error
	if errors.As(err, &e) {
		return e.Transient
	}
	return err != nil && !errors.Is(err, context.Canceled)
}

// NotFound reports whether err says that there is no such object.
func NotFound(err error) bool {
	if errors.Is(err, fs.ErrNotExist) {
		return true
	}
	switch codeOf(err) {
	case "NoSuchKey", "NotFound", "NoSuchVersion":
		return true
	}
	var s *statusError
	return errors.As(err, &s) && (s.code == http.StatusNotFound || s.code == http.StatusGone)
}

// fail classifies err.
func fail(op string, l Location, err error) error {
	if err == nil {
		return nil
	}
	var known *Error
	if errors.As(err, &known) {
		return err
	}
	e := &Error{Op: op, Where: l.String(), Err: plain(err)}
	if errors.Is(err, context.Canceled) {
		return e
	}
	e.Transient, e.Advice = judge(err)
	return e
}

// judge tells transient from permanent and says what to do. What it does not know is transient: bytes are retried, never given up.
func judge(err error) (transient bool, advice string) {
	var hostname x509.HostnameError
	var authority x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var handshake *tls.CertificateVerificationError
	var credentials *credentialsError
	switch {
	case errors.As(err, &credentials):
		return !credentials.fromFile, "set s3.credentialsFile in gitopsd.yaml to a file that has them, or give the agent what every AWS tool looks for"
	case errors.Is(err, errNoRegion):
		return false, "set s3.region in gitopsd.yaml"
	case errors.Is(err, errShorter):
		return false, "the key was overwritten, or size in group.yaml is wrong"
	case errors.Is(err, fs.ErrNotExist):
		return false, "copy the archive there, or correct the revision"
	case errors.Is(err, fs.ErrPermission):
		return false, "let the agent's user read it"
	case errors.As(err, &hostname), errors.As(err, &authority), errors.As(err, &invalid), errors.As(err, &handshake):
		return false, "the server's certificate is not trusted by this host"
	}
	if code := codeOf(err); code != "" {
		if advice, permanent := s3Advice(code); permanent {
			return false, advice
		}
		if code == "ExpiredToken" || code == "RequestTimeout" {
			return true, ""
		}
	}
	if status := statusOf(err); status != 0 {
		return judgeStatus(status)
	}
	return true, ""
}

// s3Advice knows the codes of S3 that do not go away by themselves.
func s3Advice(code string) (advice string, permanent bool) {
	switch code {
	case "NoSuchKey", "NotFound":
		return "upload it with `gitopsd bundle push`, or correct key in group.yaml", true
	case "NoSuchVersion":
		return "version in group.yaml names no version of this key", true
	case "NoSuchBucket":
		return "correct bucket in group.yaml, or s3.endpoint in gitopsd.yaml", true
	case "AccessDenied", "AllAccessDisabled", "Forbidden":
		return "let this host's credentials do s3:GetObject there", true
	case "InvalidAccessKeyId":
		return "the store does not know this access key; check s3.credentialsFile", true
	case "SignatureDoesNotMatch":
		return "the secret key is wrong; check s3.credentialsFile", true
	case "RequestTimeTooSkewed":
		return "set this host's clock", true
	case "PreconditionFailed":
		return "the key was overwritten since the commit: its eTag is another now", true
	case "InvalidRange":
		return "the stored object is shorter than size in group.yaml says", true
	case "PermanentRedirect", "AuthorizationHeaderMalformed":
		return "the bucket lives in another region; set s3.region", true
	case "InvalidBucketName":
		return "correct bucket in group.yaml", true
	case "InvalidObjectState":
		return "the object is archived; restore it first", true
	case "MethodNotAllowed":
		return "version in group.yaml names a delete marker", true
	case "EntityTooLarge":
		return "the store takes no object of this size", true
	}
	return "", false
}

func judgeStatus(status int) (transient bool, advice string) {
	switch status {
	case http.StatusNotFound, http.StatusGone:
		return false, "put the archive there, or correct the revision"
	case http.StatusUnauthorized, http.StatusForbidden:
		return false, "this host may not read it; check its credentials"
	case http.StatusPreconditionFailed:
		return false, "it was overwritten since the commit: its eTag is another now"
	case http.StatusRequestedRangeNotSatisfiable:
		return false, "the stored object is shorter than size in group.yaml says"
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true, ""
	}
	return status >= 500, ""
}

// codeOf is the error code of an S3 answer, "" for any other error.
func codeOf(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return ""
}

func statusOf(err error) int {
	var s *statusError
	if errors.As(err, &s) {
		return s.code
	}
	var response *smithyhttp.ResponseError
	if errors.As(err, &response) {
		return response.HTTPStatusCode()
	}
	return 0
}

// statusError is an HTTP answer that is none of those expected.
type statusError struct {
	code int
	text string
}

func (s *statusError) Error() string { return "the server answered " + s.text }

// plain takes away what only repeats the location, or may hold a token: the URL of net/http's errors, the SDK's operation and request ids.
func plain(err error) error {
	var api smithy.APIError
	if errors.As(err, &api) {
		return &shortError{text: fmt.Sprintf("the store answered %s: %s", api.ErrorCode(), api.ErrorMessage()), err: err}
	}
	var credentials *credentialsError
	if errors.As(err, &credentials) {
		return credentials
	}
	var u *url.Error
	if errors.As(err, &u) {
		return &shortError{text: u.Err.Error(), err: err}
	}
	return err
}

// shortError prints text, and is err to errors.Is and errors.As.
type shortError struct {
	text string
	err  error
}

func (s *shortError) Error() string { return s.text }
func (s *shortError) Unwrap() error { return s.err }

// Redact drops user, password and query of a URL, and all of what may hold them elsewhere. A path remains as it is.
func Redact(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || u.Opaque != "" || u.Scheme != "" && u.Host == "" && strings.Contains(u.Path, "@") {
		return "a malformed URL"
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	if u.Scheme == "" && u.Host == "" {
		return u.Path
	}
	return u.String()
}
