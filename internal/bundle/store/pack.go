package store

import (
	"context"
	"errors"
	"io"
	"io/fs"

	"github.com/gitopsd/gitopsd/internal/bundle"
)

// Pack is bundle.Pack with the frames encoded by several goroutines; the bytes are the same. workers is bounded to 1..64. It keeps about
// 8 MiB a worker.
func Pack(ctx context.Context, w io.Writer, tree fs.FS, o bundle.PackOptions, workers int) (*bundle.Index, bundle.Digest, error) {
	p, err := bundle.NewPacker(w, tree, o)
	if err != nil {
		return nil, "", err
	}
	workers = min(max(workers, 1), 64)
	line := &assembly{
		todo:  make(chan *job, workers),
		order: make(chan *job, 2*workers),
		free:  make(chan *job, 2*workers),
		stop:  make(chan struct{}),
	}
	for range 2 * workers {
		line.free <- &job{encoded: make(chan struct{}, 1)}
	}
	encoders := make([]*bundle.FrameEncoder, workers)
	for i := range encoders {
		if encoders[i], err = bundle.NewFrameEncoder(); err != nil {
			return nil, "", err
		}
	}
	ended := make(chan error, workers+1)
	for _, encoder := range encoders {
		go func() { line.encode(p, encoder); ended <- nil }()
	}
	go func() { ended <- line.cut(ctx, p) }()

	err = line.write(p)
	close(line.stop)
	for range workers + 1 {
		err = errors.Join(err, <-ended)
	}
	if err != nil {
		return nil, "", err
	}
	return p.Finish()
}

// job is one chunk on its way through the three stages.
type job struct {
	chunk   bundle.Chunk
	encoded chan struct{} // one token once the frame is made
}

// assembly passes jobs from the cutter to the encoders and, in order, to the writer, which frees them for the cutter.
type assembly struct {
	todo  chan *job
	order chan *job
	free  chan *job
	stop  chan struct{} // closed when the writer gave up or is done
}

func (l *assembly) cut(ctx context.Context, p *bundle.Packer) error {
	defer close(l.order)
	defer close(l.todo)
	for {
		var j *job
		select {
		case j = <-l.free:
		case <-l.stop:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := p.Next(&j.chunk); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		select {
		case l.todo <- j:
		case <-l.stop:
			return nil
		}
		select {
		case l.order <- j:
		case <-l.stop:
			return nil
		}
	}
}

func (l *assembly) encode(p *bundle.Packer, encoder *bundle.FrameEncoder) {
	for j := range l.todo {
		p.Encode(encoder, &j.chunk)
		j.encoded <- struct{}{}
	}
}

func (l *assembly) write(p *bundle.Packer) error {
	for j := range l.order {
		<-j.encoded
		if err := p.Write(&j.chunk); err != nil {
			return err
		}
		l.free <- j
	}
	return nil
}
