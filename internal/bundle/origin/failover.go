package origin

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"time"
)

// restAfter is how long an endpoint that failed is asked last.
const restAfter = time.Minute

// failover is one archive at several endpoints that hold the same objects. Each call asks them in order until one answers; one that
// failed in a way that may pass is asked last for a while, so that a dead endpoint costs its timeout once a minute and not with each read.
type failover struct {
	location  Location
	endpoints []string // without secrets, for messages
	each      []Origin
	now       func() time.Time

	mu    sync.Mutex
	until []time.Time // when an endpoint's rest ends
}

// openEndpoints opens an S3 archive at the endpoint, and at the fallbacks if there are any.
func openEndpoints(l Location, o Options) (Origin, error) {
	if len(o.Fallbacks) == 0 {
		return openS3(l, o)
	}
	f := &failover{location: l, now: time.Now, until: make([]time.Time, 1+len(o.Fallbacks))}
	for _, endpoint := range append([]string{o.Endpoint}, o.Fallbacks...) {
		at := o
		at.Endpoint, at.Fallbacks = endpoint, nil
		from, err := openS3(l, at)
		if err != nil {
			return nil, err
		}
		name := "AWS"
		if endpoint != "" {
			name = Redact(endpoint)
		}
		f.each, f.endpoints = append(f.each, from), append(f.endpoints, name)
	}
	return f, nil
}

// order lists the endpoints as they are to be asked.
func (f *failover) order() []int {
	f.mu.Lock()
	defer f.mu.Unlock()
	var ready, resting []int
	for i, until := range f.until {
		if f.now().Before(until) {
			resting = append(resting, i)
		} else {
			ready = append(ready, i)
		}
	}
	return append(ready, resting...)
}

// note takes down how endpoint i did.
func (f *failover) note(i int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case err == nil:
		f.until[i] = time.Time{}
	case Transient(err):
		f.until[i] = f.now().Add(restAfter)
	}
}

// try asks one endpoint after the other until one answers. If all fail, the error names what each said.
func (f *failover) try(ctx context.Context, op string, ask func(i int, from Origin) error) error {
	all := &Error{Op: op, Where: f.location.String()}
	var texts []string
	var failed []error
	for _, i := range f.order() {
		err := ask(i, f.each[i])
		if err == nil || ctx.Err() != nil {
			return err
		}
		f.note(i, err)
		text := err.Error()
		var known *Error
		if errors.As(err, &known) {
			if text = known.Err.Error(); all.Advice == "" {
				all.Advice = known.Advice
			}
		}
		all.Transient = all.Transient || Transient(err)
		texts, failed = append(texts, f.endpoints[i]+": "+text), append(failed, err)
	}
	all.Err = &shortError{text: strings.Join(texts, "; "), err: errors.Join(failed...)}
	return all
}

func (f *failover) Size(ctx context.Context) (size int64, err error) {
	err = f.try(ctx, "ask for size of", func(_ int, from Origin) error {
		size, err = from.Size(ctx)
		return err
	})
	return size, err
}

func (f *failover) ReadRange(ctx context.Context, off, n int64) (body io.ReadCloser, err error) {
	err = f.try(ctx, "read", func(i int, from Origin) error {
		got, err := from.ReadRange(ctx, off, n)
		if err == nil {
			body = &notedBody{ReadCloser: got, note: func(err error) { f.note(i, err) }}
		}
		return err
	})
	return body, err
}

func (f *failover) ReadIndex(ctx context.Context) (data []byte, err error) {
	err = f.try(ctx, "read index of", func(_ int, from Origin) error {
		data, err = from.ReadIndex(ctx)
		return err
	})
	return data, err
}

// notedBody tells when a body broke off, so that the next read asks another endpoint.
type notedBody struct {
	io.ReadCloser
	note func(error)
}

func (b *notedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		if err == io.EOF {
			b.note(nil)
		} else {
			b.note(err)
		}
	}
	return n, err
}
