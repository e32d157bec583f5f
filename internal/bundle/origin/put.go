package origin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// Sizes of an upload in bytes, and how hard it tries.
const (
	singlePutBytes = 16 << 20 // up to this, one request
	minPartBytes   = 8 << 20
	maxParts       = 9000 // S3 allows 10,000
	putWorkers     = 3
	putAttempts    = 4
	abortTimeout   = 10 * time.Second
)

// Put stores an archive of size bytes at a location, in parts where it is large, and makes nothing visible before all of it is there.
// A part is tried four times. What an interrupted Put of the same bytes left at an S3 location is not sent again. progress, if not nil, is told the bytes sent so far, never from two goroutines at once.
func Put(ctx context.Context, l Location, o Options, body io.ReaderAt, size int64, progress func(sent int64)) error {
	if progress == nil {
		progress = func(int64) {}
	}
	own := o.Client == nil
	o, err := o.withClient()
	if err != nil {
		return permanent("store", l, err)
	}
	if own {
		defer o.Client.CloseIdleConnections()
	}
	switch l.Kind {
	case S3:
		err = putS3(ctx, l, o, body, size, progress)
	case Directory:
		err = putDirectory(ctx, l, body, size, progress)
	default:
		err = permanent("store", l, fmt.Errorf("nothing can be stored at a location of kind %q", l.Kind))
	}
	return fail("store", l, err)
}

func putS3(ctx context.Context, l Location, o Options, body io.ReaderAt, size int64, progress func(int64)) error {
	client, err := newS3(l, o)
	if err != nil {
		return permanent("store", l, err)
	}
	if size <= singlePutBytes {
		err := again(ctx, func() error {
			_, err := client.PutObject(ctx, &s3.PutObjectInput{Bucket: &l.Bucket, Key: &l.Key, Body: io.NewSectionReader(body, 0, size), ContentLength: &size})
			return err
		})
		if err == nil {
			progress(size)
		}
		return err
	}
	return putParts(ctx, client, l, body, size, progress)
}

// upload is one multipart upload under way.
type upload struct {
	client   *s3.Client
	location Location
	id       *string
	body     io.ReaderAt
	size     int64
	partSize int64

	mu    sync.Mutex
	next  int32 // first part nobody took yet, from 1
	sent  int64
	parts []types.CompletedPart
}

func putParts(ctx context.Context, client *s3.Client, l Location, body io.ReaderAt, size int64, progress func(int64)) error {
	u := &upload{client: client, location: l, body: body, size: size, partSize: minPartBytes, next: 1}
	for size/u.partSize >= maxParts {
		u.partSize *= 2
	}
	u.parts = make([]types.CompletedPart, (size+u.partSize-1)/u.partSize)
	if err := u.resume(ctx); err != nil {
		return err
	}
	if u.id == nil {
		created, err := client.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{Bucket: &l.Bucket, Key: &l.Key})
		if err != nil {
			return err
		}
		u.id = created.UploadId
	}
	if u.sent > 0 {
		progress(u.sent)
	}
	err := u.workAll(ctx, progress)
	if err == nil {
		err = again(ctx, func() error {
			_, err := client.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{Bucket: &l.Bucket, Key: &l.Key, UploadId: u.id, MultipartUpload: &types.CompletedMultipartUpload{Parts: u.parts}})
			return err
		})
	}
	if err == nil {
		return nil
	}
	if transient, _ := judge(err); transient || ctx.Err() != nil {
		return &Error{Op: "store", Where: l.String(), Err: plain(err), Transient: ctx.Err() == nil, Advice: "what arrived is kept: the same command goes on from there"}
	}
	u.abort(ctx)
	return err
}

// workAll sends the missing parts, a few at a time.
func (u *upload) workAll(ctx context.Context, progress func(int64)) (err error) {
	workCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	failures := make(chan error, putWorkers)
	for range putWorkers {
		go func() {
			err := u.work(workCtx, progress)
			if err != nil {
				cancel()
			}
			failures <- err
		}()
	}
	for range putWorkers {
		if workErr := <-failures; workErr != nil && (err == nil || errors.Is(err, context.Canceled)) {
			err = workErr
		}
	}
	return err
}

// abort frees what the store keeps of an upload that failed; if it cannot, the bucket's own rules for abandoned uploads must.
func (u *upload) abort(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTimeout)
	defer cancel()
	_, _ = u.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &u.location.Bucket, Key: &u.location.Key, UploadId: u.id})
}

// take hands out the next missing part's number, 0 when none is left.
func (u *upload) take() int32 {
	u.mu.Lock()
	defer u.mu.Unlock()
	for int(u.next) <= len(u.parts) {
		if u.next++; u.parts[u.next-2].ETag == nil {
			return u.next - 1
		}
	}
	return 0
}

// span is where a part lies in the body.
func (u *upload) span(number int32) (off, length int64) {
	off = int64(number-1) * u.partSize
	return off, min(u.partSize, u.size-off)
}

func (u *upload) work(ctx context.Context, progress func(int64)) error {
	for number := u.take(); number != 0; number = u.take() {
		off, length := u.span(number)
		var etag *string
		err := again(ctx, func() error {
			part, err := u.client.UploadPart(ctx, &s3.UploadPartInput{
				Bucket: &u.location.Bucket, Key: &u.location.Key, UploadId: u.id, PartNumber: aws.Int32(number),
				Body: io.NewSectionReader(u.body, off, length), ContentLength: &length,
			})
			if err == nil {
				etag = part.ETag
			}
			return err
		})
		if err != nil {
			return err
		}
		u.mu.Lock()
		u.parts[number-1] = types.CompletedPart{ETag: etag, PartNumber: aws.Int32(number)}
		u.sent += length
		progress(u.sent)
		u.mu.Unlock()
	}
	return nil
}

// again tries up to putAttempts times while the error may go away, with growing pauses.
func again(ctx context.Context, try func() error) error {
	pause := 200 * time.Millisecond
	for attempt := 1; ; attempt++ {
		err := try()
		if err == nil || attempt == putAttempts || ctx.Err() != nil {
			return err
		}
		if transient, _ := judge(err); !transient {
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
		pause *= 3
	}
}
