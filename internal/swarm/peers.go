package swarm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"

	"golang.org/x/time/rate"

	"github.com/gitopsd/gitopsd/internal/bundle/store"
	"github.com/gitopsd/gitopsd/internal/swarm/plan"
)

// peer is another host in an exchange.
type peer struct {
	view     view
	heard    bool                              // it told what it has, or could not be reached, at least once
	live     bool                              // it tells its news now
	requests map[*context.CancelCauseFunc]bool // under way to it
	placed   bool                              // the picker counts on it
	lies     int                               // pieces it said it had and had not
	patience plan.Patience
	far      bool       // it is in another site
	share    plan.Share // of what comes from there
	spoke    time.Time  // when it told news last, or began to
	cancel   context.CancelFunc
}

// followMembers listens to the neighbours among the live members, and to no others; peers whose rest is over count again.
func (x *exchange) followMembers(ctx context.Context) {
	now := time.Now()
	x.mu.Lock()
	early := now.Sub(x.followed) < tick/2
	if !early {
		x.followed = now
	}
	x.mu.Unlock()
	if early {
		return
	}
	x.redraw(x.members())
	x.mu.Lock()
	defer x.mu.Unlock()
	for host, p := range x.peers {
		share, far := x.graph.Far[host]
		if share.Away = x.away(host, share); far != p.far || share != p.share {
			p.far, p.share = far, share
			x.place(host, p, nil)
		}
		if _, near := slices.BinarySearch(x.graph.Near, host); !near && !p.far {
			p.cancel()
			p.live = false
			x.place(host, p, nil)
			delete(x.peers, host)
		} else if !p.placed {
			x.place(host, p, nil)
		}
	}
	for _, host := range x.graph.Near {
		x.follow(ctx, host, plan.Share{}, false)
	}
	for host, share := range x.graph.Far {
		x.follow(ctx, host, share, true)
	}
}

// away says which gateways of this site do not exchange the bundle, of those that share the way to a host of another one. A member that does not fetch it, or not yet,
// would keep its share from the whole site. The lock is held.
func (x *exchange) away(far string, share plan.Share) (slots uint16) {
	if share.Of <= 1 || x.index == nil || !x.heardEnough() {
		return 0
	}
	for slot, host := range x.graph.Out[x.s.site(far).Name] {
		if p := x.peers[host]; p != nil && (!p.live || p.view.index != x.index.Digest()) {
			slots |= 1 << slot
		}
	}
	return slots
}

// redraw chooses the neighbours, if members or their sites changed.
func (x *exchange) redraw(members []string) {
	self, all := plan.Host{Name: x.s.o.Host, Site: x.s.site(x.s.o.Host).Name}, make([]plan.Host, len(members))
	for i, host := range members {
		all[i] = plan.Host{Name: host, Site: x.s.site(host).Name}
	}
	x.mu.Lock()
	same := x.graph.Far != nil && x.home == self.Site && slices.Equal(all, x.drawn)
	x.mu.Unlock()
	if same {
		return
	}
	graph := plan.Neighbours(self, all, x.lot)
	x.mu.Lock()
	x.drawn, x.home, x.graph = all, self.Site, graph
	if x.picker != nil {
		x.picker.SetSwarm(x.s.o.Host, len(all))
	}
	x.mu.Unlock()
	x.s.links.drawn(x.digest, graph.Out)
	x.s.uploads.drawn(x.digest, len(all))
}

// follow listens to a host, if nobody does yet. The lock is held.
func (x *exchange) follow(ctx context.Context, host string, share plan.Share, far bool) {
	if x.peers[host] != nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	p := &peer{cancel: cancel, far: far, share: share, requests: map[*context.CancelCauseFunc]bool{}}
	x.peers[host] = p
	x.work.Go(func() { x.listen(ctx, host, p) })
}

// place brings the picker's knowledge of a peer up to date; gained are the pieces it told of, if nothing else changed. The lock is held.
func (x *exchange) place(host string, p *peer, gained []int) {
	if x.picker == nil || x.peers[host] != p {
		return
	}
	usable := p.live && !x.barred(host) && p.view.index == x.index.Digest() && p.patience.Counts(x.since())
	switch {
	case !usable:
		if p.placed {
			x.picker.DropPeer(host)
		}
	case p.placed && gained != nil:
		x.picker.AddPieces(host, gained)
	case p.far:
		x.picker.SetFarPeer(host, p.view.have, p.share)
	default:
		x.picker.SetPeer(host, p.view.have)
	}
	p.placed = usable
}

// listen hears from one peer what it has, for as long as the exchange lasts.
func (x *exchange) listen(ctx context.Context, host string, p *peer) {
	defer p.cancel()
	pause := restMin
	for ctx.Err() == nil {
		heard, err := x.hear(ctx, host, p)
		if heard {
			pause = restMin
		}
		x.mu.Lock()
		p.heard, p.live, p.view = true, false, view{}
		if x.peers[host] == p {
			x.mute(host, p)
		}
		x.mu.Unlock()
		x.changed.notify()
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, errNews) {
			x.suspect(host, proven("what %s tells of bundle %s is wrong: %v", host, x.digest.Short(), err))
		}
		x.s.log.Debug("a peer does not tell what it has", "peer", host, "digest", x.digest.Short(), "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, restMax)
	}
}

// hear follows one stream of news to its end, and says whether there were any. It reads no faster than honest news come.
func (x *exchange) hear(ctx context.Context, host string, p *peer) (heard bool, err error) {
	ctx, w := watch(ctx, newsSilence, fmt.Errorf("no news from %s for %v", host, newsSilence))
	defer w.end()
	resp, err := x.get(ctx, host, "news")
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	news := &newsReader{r: bufio.NewReader(resp.Body)}
	if err := news.begin(); err != nil {
		return false, err
	}
	limit := rate.NewLimiter(newsRate, newsRate)
	x.mu.Lock()
	p.spoke = time.Now()
	x.mu.Unlock()
	defer x.minding(ctx, host, p)()
	for {
		w.again()
		kind, payload, err := news.read()
		if err == nil {
			err = take(ctx, limit, max(len(payload), newsLeast))
		}
		if err != nil {
			return heard, err
		}
		x.mu.Lock()
		p.spoke = time.Now()
		gained, err := news.take(kind, payload)
		if err == nil && ctx.Err() == nil {
			if kind != newsPieces || !p.live {
				gained = nil
			}
			heard, p.live, p.view = true, true, news.view
			p.heard = p.heard || p.view.index == "" || p.view.have != nil // the pieces come in the frame after the index
			x.place(host, p, gained)
		}
		x.mu.Unlock()
		if err != nil {
			return heard, err
		}
		if kind != newsAlive {
			x.changed.notify()
		}
	}
}

// minding lets a peer without news count for nothing until it tells some. After a pause of this host it gives the news time that came meanwhile.
func (x *exchange) minding(ctx context.Context, host string, p *peer) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		graced := false
		for pause := newsQuiet; ; {
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
			x.mu.Lock()
			quiet, muted := time.Since(p.spoke), false
			switch {
			case quiet < newsQuiet:
				graced, pause = false, newsQuiet-quiet
			case !graced:
				graced, pause = true, newsGrace
			default:
				graced, muted, pause = false, true, newsQuiet
				if x.peers[host] == p {
					x.mute(host, p)
				}
			}
			x.mu.Unlock()
			if muted {
				x.changed.notify()
			}
		}
	}()
	return func() { cancel(); <-done }
}

// mute notes that a peer tells no news. What was asked of it can be had from others, or from the origin. The lock is held.
func (x *exchange) mute(host string, p *peer) {
	p.live = false
	x.place(host, p, nil)
	for cancel := range p.requests {
		(*cancel)(errQuiet)
	}
}

// asking bounds a request to a peer: it ends when the peer tells no news. The caller calls end.
func (x *exchange) asking(ctx context.Context, host string) (request context.Context, end func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	x.mu.Lock()
	defer x.mu.Unlock()
	p := x.peers[host]
	if p == nil {
		return ctx, func() { cancel(nil) }
	}
	p.requests[&cancel] = true
	return ctx, func() {
		x.mu.Lock()
		delete(p.requests, &cancel)
		x.mu.Unlock()
		cancel(nil)
	}
}

// statusError is an answer other than 200.
type statusError struct {
	host string
	code int
	text string
}

func (e *statusError) Error() string {
	return fmt.Sprintf("%s answered %d: %s", e.host, e.code, e.text)
}

// get asks a peer; an answer that is not 200 is a *statusError.
func (x *exchange) get(ctx context.Context, host, path string) (*http.Response, error) {
	return x.s.ask(ctx, http.MethodGet, host, x.digest.Hex()+"/"+path, nil)
}

// ask sends a request of the swarm to another host.
func (s *Swarm) ask(ctx context.Context, method, host, path string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+host+"/v1/swarm/"+path, body)
	if err != nil {
		return nil, err
	}
	resp, err := s.o.Client.Do(req)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause
		}
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(resp.Body, saysMax))
		return nil, &statusError{host: host, code: resp.StatusCode, text: plain(string(text), saysMax)}
	}
	return resp, nil
}

// startPeerRequest starts one request to a peer; false when none can be.
func (x *exchange) startPeerRequest(ctx context.Context) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.fatal != nil {
		return false
	}
	now := x.since()
	want, ok := x.picker.Pick(now, func(host string) int {
		p := x.peers[host]
		if p == nil || p.far && !x.heardEnough() { // the own site may have it
			return 0
		}
		return p.patience.Asks(now)
	})
	if !ok {
		return false
	}
	x.pulls.Go(func() { x.fetchFromPeer(ctx, want) })
	return true
}

// errQuiet is the cause of a request's end when its peer told no news for long.
var errQuiet = errors.New("it told no news for too long")

// errSilent is the cause of a request's end when nothing came for long.
var errSilent = errors.New("it sent nothing for too long")

// fetchFromPeer reads a run of pieces, keeps each that is right, and judges the peer.
func (x *exchange) fetchFromPeer(ctx context.Context, w plan.Want) {
	request, end := x.asking(ctx, w.Host)
	n, err := x.readRun(request, w)
	end()
	var answer *statusError
	x.mu.Lock()
	now := x.since()
	x.picker.Release(w, n, now)
	lied := false
	if p := x.peers[w.Host]; p != nil && ctx.Err() == nil {
		switch {
		case err == nil:
			p.patience.Good()
			p.lies = 0
		case errors.As(err, &answer) && answer.code == http.StatusServiceUnavailable:
			p.patience.TurnedAway(now)
		case errors.As(err, &answer) && answer.code == http.StatusNotFound:
			p.lies++
			lied = p.lies >= liesMax
			p.patience.Strike(1, now)
		case errors.Is(err, errSilent):
			p.patience.Strike(plan.Strikes, now)
		case errors.Is(err, errQuiet): // what it tells counts again when it tells something
		case x.fatal == nil:
			p.patience.Strike(1, now)
		}
		x.place(w.Host, p, []int{})
	}
	x.mu.Unlock()
	if lied {
		x.suspect(w.Host, proven("it said it had pieces of bundle %s and had not: %v", x.digest.Short(), err))
	}
	if err != nil && ctx.Err() == nil {
		x.s.log.Debug("pieces could not be had from a peer", "peer", w.Host, "digest", x.digest.Short(), "error", err)
	}
	x.changed.notify()
}

// readRun asks one peer for a run and returns how many bytes of it were kept.
func (x *exchange) readRun(ctx context.Context, want plan.Want) (kept int64, err error) {
	var size int64
	for i := want.From; i < want.From+want.Count; i++ {
		size += x.sizes[i]
	}
	ctx, stop := context.WithTimeout(ctx, peerRequest+time.Duration(size/peerRate)*time.Second)
	defer stop()
	ctx, w := watch(ctx, plan.PeerIdle, errSilent)
	defer w.end()
	resp, err := x.get(ctx, want.Host, "pieces/"+strconv.Itoa(want.From)+"/"+strconv.Itoa(want.Count))
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	body := &meter{ctx: ctx, r: resp.Body, w: w, limit: x.s.down, note: func(n int) { x.countPeer(want.Host, n) }}
	buf := x.s.buffers.take()
	defer func() { x.s.buffers.give(buf) }()
	for i := want.From; i < want.From+want.Count; i++ {
		data := sized(buf, x.sizes[i])
		buf = data
		if _, err := io.ReadFull(body, data); err != nil {
			return kept, fmt.Errorf("cannot read piece %d from %s: %w", i, want.Host, because(ctx, err))
		}
		if err := x.keep(i, data); err != nil {
			if errors.Is(err, store.ErrMismatch) {
				x.suspect(want.Host, proven("piece %d of bundle %s from %s is wrong: %v", i, x.digest.Short(), want.Host, x.index.Verify(i, data)))
			}
			return kept, err
		}
		kept += int64(len(data))
	}
	return kept, nil
}

// countPeer counts bytes that came from a peer.
func (x *exchange) countPeer(host string, n int) {
	now := time.Now()
	x.mu.Lock()
	defer x.mu.Unlock()
	x.fromPeers += int64(n)
	if p := x.peers[host]; p != nil && p.far {
		x.fromFar += int64(n)
	}
	x.flow.add(n, now.Sub(x.started))
	x.lastMove = now
}

// because prefers the cause of a context's end to the error it led to.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// watchdog ends a context when nothing happens for long.
type watchdog struct {
	timer *time.Timer
	idle  time.Duration
	stop  context.CancelCauseFunc
}

// watch starts a watchdog; why becomes the cause.
func watch(ctx context.Context, idle time.Duration, why error) (context.Context, *watchdog) {
	ctx, cancel := context.WithCancelCause(ctx)
	return ctx, &watchdog{timer: time.AfterFunc(idle, func() { cancel(why) }), idle: idle, stop: cancel}
}

func (w *watchdog) again() { w.timer.Reset(w.idle) }
func (w *watchdog) pause() { w.timer.Stop() }
func (w *watchdog) end()   { w.timer.Stop(); w.stop(nil) }

// meter reads within a rate, under a watchdog that does not count the time this host makes itself wait, and notes what came.
type meter struct {
	ctx   context.Context
	r     io.Reader
	w     *watchdog
	limit *rate.Limiter
	note  func(n int)
}

func (m *meter) Read(p []byte) (int, error) {
	m.w.again()
	n, err := m.r.Read(p[:min(len(p), rateBurst)])
	m.w.pause()
	if n > 0 {
		m.note(n)
		if late := take(m.ctx, m.limit, n); late != nil && err == nil {
			err = late
		}
	}
	return n, err
}
