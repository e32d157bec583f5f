package swarm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/gitopsd/gitopsd/internal/bundle/store"
	"github.com/gitopsd/gitopsd/internal/swarm/plan"
)

// peer is another host in an exchange.
type peer struct {
	have    plan.Bits
	heard   bool // it answered, or could not be reached, at least once
	busy    int
	bytes   int64
	resume  time.Time // not asked before: it was busy or out of reach
	strikes int
	cancel  context.CancelFunc
}

// away says whether the peer is left alone for now.
func (p *peer) away() bool { return time.Now().Before(p.resume) }

// rest leaves the peer alone for a while that doubles.
func (p *peer) rest() {
	p.strikes++
	p.resume = time.Now().Add(min(50*time.Millisecond<<min(p.strikes, 7), 5*time.Second))
}

// sortPeers makes the order of a map's peers irrelevant.
func sortPeers(peers []plan.Peer) {
	slices.SortFunc(peers, func(a, b plan.Peer) int {
		if a.Host < b.Host {
			return -1
		}
		return 1
	})
}

// followMembers listens to every live member, and to none that left.
func (x *exchange) followMembers(ctx context.Context) {
	members := map[string]bool{}
	for _, host := range x.job.Members() {
		if host != x.s.o.Host {
			members[host] = true
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for host, p := range x.peers {
		if !members[host] {
			p.cancel()
			delete(x.peers, host)
		}
	}
	for host := range members {
		if x.peers[host] != nil {
			continue
		}
		ctx, cancel := context.WithCancel(ctx)
		p := &peer{cancel: cancel}
		x.peers[host] = p
		x.work.Go(func() { x.listen(ctx, host, p) })
	}
}

// listen hears from one peer what it has, for as long as the exchange lasts.
func (x *exchange) listen(ctx context.Context, host string, p *peer) {
	defer p.cancel()
	version := ""
	for ctx.Err() == nil {
		have, next, err := x.askHave(ctx, host, version)
		x.mu.Lock()
		p.heard = true
		if err == nil {
			p.have = have
		}
		x.mu.Unlock()
		x.changed.notify()
		if err == nil {
			version = next
			continue
		}
		x.mu.Lock()
		p.rest()
		pause := time.Until(p.resume)
		x.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// askHave asks a peer what it has beyond a version, waiting for news.
func (x *exchange) askHave(ctx context.Context, host, version string) (plan.Bits, string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*pollWait)
	defer cancel()
	resp, err := x.get(ctx, host, "have?since="+version)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	have, err := io.ReadAll(io.LimitReader(resp.Body, haveBytesMax))
	if err != nil {
		return nil, "", err
	}
	return have, resp.Header.Get(versionHeader), nil
}

// get asks a peer; an answer that is not 200 is an error.
func (x *exchange) get(ctx context.Context, host, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+"/v1/swarm/"+x.digest.Hex()+"/"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := x.s.o.Client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 256))
		return nil, fmt.Errorf("%s answered %s: %.200s", host, resp.Status, text)
	}
	return resp, nil
}

// fetchFromPeer reads a run of pieces and keeps each that is right.
func (x *exchange) fetchFromPeer(ctx context.Context, w plan.Want) {
	err := x.readRun(ctx, w)
	x.mu.Lock()
	x.busy--
	for i := w.From; i < w.From+w.Count; i++ {
		delete(x.flying, i)
	}
	if p := x.peers[w.Host]; p != nil {
		p.busy--
		if err != nil {
			p.rest()
		} else {
			p.strikes = 0
		}
	}
	x.mu.Unlock()
	x.changed.notify()
}

// readRun asks one peer for a run.
func (x *exchange) readRun(ctx context.Context, w plan.Want) error {
	ctx, cancel := context.WithTimeout(ctx, peerTimeout)
	defer cancel()
	resp, err := x.get(ctx, w.Host, "pieces/"+strconv.Itoa(w.From)+"/"+strconv.Itoa(w.Count))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	for i := w.From; i < w.From+w.Count; i++ {
		data := make([]byte, x.sizes[i])
		if err := take(ctx, x.s.down, len(data)); err != nil {
			return err
		}
		if _, err := io.ReadFull(resp.Body, data); err != nil {
			return err
		}
		if err := x.keep(i, data); err != nil {
			if errors.Is(err, store.ErrMismatch) {
				x.suspect(w.Host, fmt.Sprintf("piece %d of bundle %s from %s does not match its sha256: %v", i, x.digest.Short(), w.Host, err))
			}
			return err
		}
		x.mu.Lock()
		x.fromPeers += int64(len(data))
		if p := x.peers[w.Host]; p != nil {
			p.bytes += int64(len(data))
		}
		x.mu.Unlock()
	}
	return nil
}
