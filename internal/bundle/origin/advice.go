package origin

import (
	"errors"
	"io/fs"
	"net"
)

// ForOperator is err with the advice for a person at a command line, who gives flags: the advice that agents log speaks of gitopsd.yaml.
func ForOperator(err error) error {
	var known *Error
	if !errors.As(err, &known) {
		return err
	}
	advice := operatorAdvice(known.Err)
	if advice == "" {
		return err
	}
	told := *known
	told.Advice = advice
	return &told
}

// operatorAdvice names the flags of `gitopsd bundle push`; empty where the advice is the same for everybody.
func operatorAdvice(err error) string {
	var credentials *credentialsError
	var dial *net.OpError
	switch {
	case errors.As(err, &credentials):
		return "give --credentials-file FILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
	case errors.Is(err, errNoRegion):
		return "give --region, or AWS_REGION"
	case errors.Is(err, fs.ErrPermission):
		return "choose a place where this user may write"
	case errors.As(err, &dial) && dial.Op == "dial":
		return "is --endpoint, or AWS_ENDPOINT_URL, right, and is the store up?"
	}
	switch codeOf(err) {
	case "NoSuchBucket", "NotFound": // some stores answer so to a PUT
		return "correct BUCKET in s3://BUCKET/KEY; of a store other than AWS give --endpoint"
	case "InvalidBucketName":
		return "correct BUCKET in s3://BUCKET/KEY"
	case "AccessDenied", "AllAccessDisabled", "Forbidden":
		return "these credentials may not do that, which needs s3:GetObject and s3:PutObject there; give others with --credentials-file"
	case "InvalidAccessKeyId":
		return "the store does not know this access key; check --credentials-file or AWS_ACCESS_KEY_ID, and --endpoint"
	case "SignatureDoesNotMatch":
		return "the secret key is wrong; check --credentials-file or AWS_SECRET_ACCESS_KEY"
	case "PermanentRedirect", "MovedPermanently", "AuthorizationHeaderMalformed":
		return "the bucket lives in another region; give --region"
	case "BadRequest": // all that the answer to a HEAD tells
		return "check --region, --endpoint and --path-style"
	}
	return ""
}
