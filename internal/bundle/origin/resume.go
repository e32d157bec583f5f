package origin

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// resumeUploads is how many unfinished uploads of a key are looked at, the newest first.
const resumeUploads = 4

// resume looks for an unfinished upload of the same bytes and takes over the parts that are there. A part counts if size and MD5, which
// S3 returns as its ETag, are those of the body; a store that returns another ETag, or does not let us list, costs no more than sending all.
// Nothing is kept on this side, so that a push goes on from another machine too.
func (u *upload) resume(ctx context.Context) error {
	listed, err := u.client.ListMultipartUploads(ctx, &s3.ListMultipartUploadsInput{Bucket: &u.location.Bucket, Prefix: &u.location.Key})
	if err != nil {
		return ctx.Err()
	}
	mine := slices.DeleteFunc(listed.Uploads, func(m types.MultipartUpload) bool { return aws.ToString(m.Key) != u.location.Key })
	slices.SortStableFunc(mine, func(a, b types.MultipartUpload) int { return initiated(b).Compare(initiated(a)) })
	for _, candidate := range mine[:min(len(mine), resumeUploads)] {
		parts, sent, err := u.partsOf(ctx, candidate.UploadId)
		if err != nil {
			return err
		}
		if sent > u.sent {
			u.id, u.parts, u.sent = candidate.UploadId, parts, sent
		}
	}
	return nil
}

func initiated(m types.MultipartUpload) time.Time { return aws.ToTime(m.Initiated) }

// partsOf lists what of the body an upload has. One that has another part is another archive's, and nothing of it counts.
func (u *upload) partsOf(ctx context.Context, id *string) (parts []types.CompletedPart, sent int64, err error) {
	parts = make([]types.CompletedPart, len(u.parts))
	pages := s3.NewListPartsPaginator(u.client, &s3.ListPartsInput{Bucket: &u.location.Bucket, Key: &u.location.Key, UploadId: id})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, 0, ctx.Err()
		}
		for _, p := range page.Parts {
			number := aws.ToInt32(p.PartNumber)
			if number < 1 || int(number) > len(parts) {
				return nil, 0, nil
			}
			off, length := u.span(number)
			same, err := u.isPart(p, off, length)
			if err != nil || !same {
				return nil, 0, err
			}
			if parts[number-1].ETag == nil {
				sent += length
			}
			parts[number-1] = types.CompletedPart{ETag: p.ETag, PartNumber: aws.Int32(number)}
		}
	}
	return parts, sent, ctx.Err()
}

func (u *upload) isPart(p types.Part, off, length int64) (bool, error) {
	if aws.ToInt64(p.Size) != length {
		return false, nil
	}
	h := md5.New()
	if _, err := io.Copy(h, io.NewSectionReader(u.body, off, length)); err != nil {
		return false, err
	}
	return strings.Trim(aws.ToString(p.ETag), `"`) == hex.EncodeToString(h.Sum(nil)), nil
}
