package agent

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sync/errgroup"

	"github.com/gitopsd/gitopsd/internal/apply"
	"github.com/gitopsd/gitopsd/internal/bundle/store"
	"github.com/gitopsd/gitopsd/internal/configrepo"
	"github.com/gitopsd/gitopsd/internal/consensus"
	"github.com/gitopsd/gitopsd/internal/desired"
	"github.com/gitopsd/gitopsd/internal/durable"
	"github.com/gitopsd/gitopsd/internal/gossip"
	"github.com/gitopsd/gitopsd/internal/rollout"
	"github.com/gitopsd/gitopsd/internal/status"
	"github.com/gitopsd/gitopsd/internal/swarm"
	"github.com/gitopsd/gitopsd/internal/transport"
)

// Files below the data directory.
const (
	keyFile       = "host.key"
	storageFile   = "storage-id"
	lockFile      = "agent.lock"
	effectiveFile = "effective-commit"
	gitDir        = "git"
	raftDir       = "raft"
	bundlesDir    = "bundles"
	applyDir      = "apply"
)

// factTip is the gossiped commit a host has accepted; factGit says that it can reach git.
const (
	factTip = "tip"
	factGit = "git"
)

// Options of an agent.
type Options struct {
	Config Config
	// Reload reads the configuration again on SIGHUP; nil when that is not possible.
	Reload func() (Config, error)
	// Program is the argv prefix of this binary, for the hook supervisor and the fetch child.
	Program string
	Version string
	// LogLevel is set when a reload changes the level; nil keeps it.
	LogLevel *slog.LevelVar
	Log      *slog.Logger
}

// Agent is one host's daemon. Make it with New, then Run it once.
type Agent struct {
	opt     Options
	cfg     atomic.Pointer[Config]
	log     *slog.Logger
	unlock  func()
	storage string
	key     ed25519.PublicKey
	warned  string // the last warning of warnStranger; owned by the source's loop

	inventory *inventory
	transport *transport.Transport
	gossip    *gossip.Gossip
	consensus *consensus.Consensus
	repo      atomic.Pointer[configrepo.Repo]
	store     *store.Store
	swarm     *swarm.Swarm
	needed    needs // who needs which bundle
	applier   *apply.Applier

	source  *source
	sets    *sets
	leader  *leader
	member  *member
	early   *early
	changed signal // anything an operator may see
	alive   signal // somebody's liveness changed
	rotten  wake   // the bundle store has suspects

	done chan struct{} // closed when Run has ended

	lost     *lost
	clonesMu sync.Mutex
	clones   map[string]clone // by host
}

// clone is the last sign that two machines run as one host.
type clone struct {
	detail string
	at     time.Time
}

// clonesKept is how long such a sign is shown; while the two run, it is seen again every minute.
const clonesKept = 10 * time.Minute

// New builds every station from the configuration and the data directory, and starts nothing. The data directory is locked until Run returns or Close is called.
func New(o Options) (*Agent, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	a := &Agent{opt: o, log: o.Log.With("host", o.Config.Host), clones: map[string]clone{}, rotten: newWake(), done: make(chan struct{})}
	a.cfg.Store(&o.Config)
	identity, err := a.identity() // before anything is written: without a key the directory is left as it is
	if err != nil {
		return nil, err
	}
	unlock, err := durable.Lock(a.dir(lockFile))
	if err != nil {
		return nil, lockError(o.Config.DataDir, err)
	}
	a.unlock = unlock
	if err := a.build(identity); err != nil {
		a.Close()
		return nil, err
	}
	return a, nil
}

// Close releases what New took, if Run was never called.
func (a *Agent) Close() {
	if a.transport != nil {
		_ = a.transport.Close()
	}
	if a.consensus != nil {
		_ = a.consensus.Close()
	}
	if a.store != nil {
		_ = a.store.Close()
	}
	if a.unlock != nil {
		a.unlock()
	}
}

// config is the configuration in force.
func (a *Agent) config() *Config { return a.cfg.Load() }

// dir is a path below the data directory.
func (a *Agent) dir(name string) string { return filepath.Join(a.config().DataDir, name) }

// build makes the stations in the order of the road.
func (a *Agent) build(identity transport.Identity) error {
	repo, err := a.openRepo(a.config())
	if err != nil {
		return err
	}
	a.repo.Store(repo)
	if err := a.buildNetwork(identity); err != nil {
		return err
	}
	if err := a.buildBytes(); err != nil {
		return err
	}
	a.buildLoops()
	return nil
}

// identity reads the host's key and storage id, which `gitopsd host init` made.
func (a *Agent) identity() (transport.Identity, error) {
	key, err := transport.LoadKey(a.dir(keyFile))
	if errors.Is(err, fs.ErrNotExist) {
		return transport.Identity{}, fmt.Errorf("cannot start: %s does not exist; run `gitopsd host init --name %s --data-dir %s` and commit what it prints", a.dir(keyFile), a.config().Host, a.config().DataDir)
	}
	if errors.Is(err, fs.ErrPermission) {
		return transport.Identity{}, deniedError(a.config().DataDir, err)
	}
	if err != nil {
		return transport.Identity{}, err
	}
	text, err := os.ReadFile(a.dir(storageFile))
	if err != nil {
		return transport.Identity{}, fmt.Errorf("cannot read the storage id: %w", err)
	}
	a.storage, a.key = strings.TrimSpace(string(text)), key.Public().(ed25519.PublicKey)
	return transport.Identity{Host: a.config().Host, Key: key, Instance: transport.NewInstance()}, nil
}

// openRepo prepares the config repository's mirror.
func (a *Agent) openRepo(c *Config) (*configrepo.Repo, error) {
	r := c.Repository
	repo, err := configrepo.New(configrepo.Options{
		Dir: filepath.Join(c.DataDir, gitDir), URLs: r.URLs, Branch: r.Branch, Introduction: r.Introduction, AllowedSigners: r.AllowedSigners,
		AllowLocalPath: r.AllowLocalPath, Credentials: configrepo.Credentials(r.Credentials),
		Child: []string{a.opt.Program, "fetch-child"}, Log: a.log.With("station", "configrepo"),
	})
	if err != nil {
		return nil, repoError(r.AllowedSigners, err)
	}
	return repo, nil
}

// streams adapts transport's streams to consensus, which declares its own.
type streams struct{ *transport.Transport }

type peerStream struct{ transport.Stream }

func (s peerStream) Peer() consensus.Peer { return consensus.Peer{Host: s.Stream.Peer().Host} }

func (s streams) DialStream(ctx context.Context, host, protocol string) (consensus.Stream, error) {
	stream, err := s.Transport.DialStream(ctx, host, protocol)
	if err != nil {
		return nil, err
	}
	return peerStream{stream}, nil
}

func (s streams) HandleStream(protocol string, handler func(context.Context, consensus.Stream)) {
	s.Transport.HandleStream(protocol, func(ctx context.Context, stream transport.Stream) { handler(ctx, peerStream{stream}) })
}

// buildNetwork makes transport, gossip and consensus.
func (a *Agent) buildNetwork(identity transport.Identity) error {
	c := a.config()
	join := map[string]string{}
	for _, j := range c.Join {
		join[j.Name] = j.Address
	}
	a.inventory = newInventory(join)
	var err error
	a.transport, err = transport.New(transport.Options{Identity: identity, Listen: c.Listen, Advertise: c.Advertise, Directory: a.inventory, Near: a.nearby,
		Log: a.log.With("station", "transport"), Events: a.transportEvent})
	if err != nil {
		return err
	}
	if _, err := a.transport.Bind(); err != nil {
		return listenError(err)
	}
	gossipTiming, raftTiming := timings(c)
	a.gossip, err = gossip.New(gossip.Options{Host: c.Host, Instance: identity.Instance, Version: clip(a.opt.Version, 64), Advertise: c.Advertise, Streams: a.transport,
		Seeds: a.seeds, Allowed: func(host string) bool { return a.inventory.known(host) }, Learn: a.transport.SetAddress,
		OnClone: func(instance string) {
			a.noteClone(c.Host, "another machine runs as "+c.Host+" (instance "+instance+")")
		},
		Log: a.log.With("station", "gossip"), Timing: gossipTiming})
	if err != nil {
		return err
	}
	a.consensus, err = consensus.New(consensus.Options{Host: c.Host, Storage: a.storage, Dir: a.dir(raftDir), BirthDir: c.DataDir, Streams: streams{a.transport}, Fenced: rollout.LeaderOnly,
		Log: a.log.With("station", "consensus"), Timing: raftTiming})
	return err
}

// timings picks the pace of gossip and raft.
func timings(c *Config) (gossip.Timing, consensus.Timing) {
	if c.Timing == "fast" {
		return gossip.Fast(), consensus.FastTiming()
	}
	return gossip.LAN(), consensus.DefaultTiming()
}

// clip bounds a text in bytes.
func clip(s string, most int) string { return s[:min(len(s), most)] }

// seeds lists the hosts gossip should know.
func (a *Agent) seeds() []gossip.Seed {
	var all []gossip.Seed
	for name, addr := range a.inventory.addresses(a.config().Host) {
		all = append(all, gossip.Seed{Name: name, Addr: addr})
	}
	return all
}

// transportEvent keeps what a person should hear of.
func (a *Agent) transportEvent(e transport.Event) {
	if e.Kind == transport.EventClone {
		a.noteClone(e.Host, e.Detail)
	}
}

// noteClone remembers that two machines run as one host.
func (a *Agent) noteClone(host, detail string) {
	a.clonesMu.Lock()
	a.clones[host] = clone{detail, time.Now()}
	a.clonesMu.Unlock()
	a.log.Error("two machines run as one host", "name", host, "detail", detail)
	a.changed.Notify()
}

// hostNotices reports hosts that were seen twice, and peers that sent wrong bytes.
func (a *Agent) hostNotices() []status.Notice {
	all := append(a.strangerNotice(), a.member.notices()...)
	all = append(all, a.lost.notices()...)
	for host, why := range a.swarm.Suspects() {
		all = append(all, status.Notice{Kind: "CorruptPeer", Host: host, Message: why})
	}
	for host, why := range a.swarm.Doubted() {
		all = append(all, status.Notice{Kind: "WrongDigest", Host: host, Message: why})
	}
	a.clonesMu.Lock()
	defer a.clonesMu.Unlock()
	for host, seen := range a.clones {
		if time.Since(seen.at) > clonesKept {
			delete(a.clones, host)
			continue
		}
		all = append(all, status.Notice{Kind: "ClonedHost", Host: host, Since: status.Stamp(seen.at), Message: seen.detail + "; give one of them a key of its own with `gitopsd host init`"})
	}
	return all
}

// buildBytes makes the store, the swarm and the applier.
func (a *Agent) buildBytes() error {
	c := a.config()
	var err error
	if a.store, err = store.Open(store.Options{Dir: a.dir(bundlesDir), Limit: c.Limits.Disk, Suspect: a.rotten.Wake, Log: a.log.With("station", "store")}); err != nil {
		return err
	}
	a.swarm, err = swarm.New(swarm.Options{Host: c.Host, Store: a.store, Listener: a.transport.Listener(transport.BundleALPN), Client: a.transport.HTTPClient(transport.BundleALPN),
		Upload: c.Limits.Upload, Download: c.Limits.Download, Log: a.log.With("station", "swarm"), Site: a.site, Needs: a.needs})
	if err != nil {
		return err
	}
	a.applier, err = apply.New(apply.Options{StateDir: a.dir(applyDir), DestinationRoot: c.DestinationRoot, Supervisor: []string{a.opt.Program, "supervise"},
		Retention: func() apply.Retention { return a.config().Retention.bounds() }, Log: a.log.With("station", "apply")})
	return err
}

// buildLoops makes the loops that carry what one station says to the next.
func (a *Agent) buildLoops() {
	c := a.config()
	repo := func() *configrepo.Repo { return a.repo.Load() }
	history := a.transport.HTTPClient(transport.HistoryALPN)
	a.source = &source{self: c.Host, repo: repo, cfg: a.config, peers: a.gitHosts, log: a.log.With("station", "source"), effectiveFile: a.dir(effectiveFile),
		pull: func(ctx context.Context, host, have string) (io.ReadCloser, string, error) {
			return pullHistory(ctx, history, host, have)
		},
		publish: a.publishTip, reach: a.publishReach, tell: a.publishRefusal, hints: newHints(), demands: make(chan chan error, 1), swaps: make(chan func())}
	a.gossip.Notify(factTip, a.source.offer)
	a.gossip.Notify(factFetch, func(string, []byte) { a.changed.Notify() })
	verify := &verifier{repo: repo, world: a.source.current}
	bytes := &bundles{store: a.store, swarm: a.swarm, config: a.config, verifier: verify, applier: a.applier,
		members: a.bundleHosts, dealer: a.dealer, limit: func() int64 { return a.config().Limits.Disk }, changed: newWake(), rotten: a.rotten, world: a.source.current, log: a.log.With("station", "bundles")}
	deploy := &deployer{self: c.Host, root: c.DestinationRoot, fence: func() FenceConfig { return a.config().Fence }, releases: func() int { return a.config().Retention.Releases }, applier: a.applier, verifier: verify,
		bundles: bytes, world: a.source.current, log: a.log.With("station", "deploy")}
	probes := &checks{self: c.Host, log: a.log.With("station", "health"), news: make(chan string, 64)}
	move := a.source.changed.Changed
	a.sets = &sets{self: c.Host, storage: a.storage, consensus: a.consensus, world: a.source.current, worldMove: move, intro: c.Repository.Introduction, ran: a.source.raise, alive: a.lives,
		log: a.log.With("station", "sets")}
	a.leader = &leader{self: c.Host, world: a.source.current, worldMove: move, repo: repo, alive: a.lives, aliveMove: a.alive.Changed, log: a.log.With("station", "leader")}
	a.lost = &lost{self: c.Host, dir: c.DataDir, log: a.log.With("station", "data"), changed: a.changed.Notify}
	a.member = &member{self: c.Host, dir: c.DataDir, sets: a.sets, verifier: verify, bundles: bytes, applier: a.applier, deploy: deploy, checks: probes,
		world: a.source.current, move: move, log: a.log.With("station", "member"), events: make(chan rollout.MemberEvent, memberEventsMax), start: time.Now(),
		pending: map[string][]rollout.Assignment{}, news: newWake(), again: newWake(), gates: map[string]chan error{}, installed: map[string]bool{},
		targets: map[string]map[string][]string{}, ended: make(chan struct{})}
	a.early = &early{self: c.Host, bundles: bytes, world: a.source.current, move: move, met: a.met, meeting: a.alive.Changed, log: a.log.With("station", "early")}
	a.sets.lead, a.sets.synced, a.sets.leads = a.leader.Run, a.member.synced, a.member.leads
}

// publishTip tells the fleet what this host has accepted.
func (a *Agent) publishTip(tip string) {
	if w := a.source.current(); w != nil && a.inventory.set(w.State.Hosts) {
		a.transport.Sweep()
	}
	a.warnStranger()
	if err := a.gossip.Publish(factTip, []byte(tip)); err != nil {
		a.log.Debug("the accepted commit could not be announced", "error", err)
	}
}

// publishReach tells the fleet whether this host can reach git, so that two that can poll for all.
func (a *Agent) publishReach(git bool) {
	var value []byte
	if git {
		value = []byte("1")
	}
	if err := a.gossip.Publish(factGit, value); err != nil {
		a.log.Debug("reaching git could not be announced", "error", err)
	}
}

// publishRefusal tells the fleet why git's newest tip is refused here, so that operators hear of it on every host.
func (a *Agent) publishRefusal(r *configrepo.Refusal) {
	if err := a.gossip.Publish(factRefused, tellRefusal(r)); err != nil {
		a.log.Debug("a refusal could not be told", "error", err)
	}
}

// gitHosts lists the live hosts that can reach git, this one included if it can.
func (a *Agent) gitHosts() []string {
	var hosts []string
	for host := range a.gossip.Facts(factGit) {
		hosts = append(hosts, host)
	}
	if len(hosts) == 0 {
		for _, m := range a.gossip.Members() {
			hosts = append(hosts, m.Name)
		}
	}
	return hosts
}

// life is what gossip believes of hosts, at one moment.
type life func(host string) (alive bool, since time.Time)

// lives says what gossip believes of every host now and since when; a host never heard of has been silent since the agent started.
func (a *Agent) lives() life {
	members := map[string]gossip.Member{}
	for _, m := range a.gossip.Members() {
		members[m.Name] = m
	}
	return func(host string) (bool, time.Time) {
		if m, ok := members[host]; ok {
			return m.State == gossip.Alive || m.State == gossip.Suspect, m.Since
		}
		return host == a.config().Host, a.member.start
	}
}

// met says whether gossip has told of another host that lives.
func (a *Agent) met() bool {
	return slices.ContainsFunc(a.gossip.Members(), func(m gossip.Member) bool { return m.Name != a.config().Host && m.Live() })
}

// bundleHosts lists who shares the bundle of g with this host now.
func (a *Agent) bundleHosts(g desired.Group, early bool) []string {
	w := a.source.current()
	if w == nil {
		return nil
	}
	return sharers(w.State.Groups, g, a.config().Host, a.gossip.Members(), early)
}

// sharers lists the live members of every group that has the bundle of g, self included. Early, and while gossip has told of nobody yet, all others count as live: a host
// that joins knows the commit before it knows the members, and alone it would read from the origin what they have.
func sharers(groups []desired.Group, g desired.Group, self string, heard []gossip.Member, early bool) []string {
	alone := !slices.ContainsFunc(heard, func(m gossip.Member) bool { return m.Name != self })
	live := map[string]bool{self: true}
	for _, m := range heard {
		live[m.Name] = m.Live()
	}
	wanted := map[string]bool{}
	for _, other := range groups {
		if other.ID != g.ID && other.Revision.Digest != g.Revision.Digest {
			continue
		}
		for _, m := range other.Members {
			if host := string(m); live[host] || early && alone {
				wanted[host] = true
			}
		}
	}
	return slices.Collect(maps.Keys(wanted))
}

// dealer is who deals the pieces of a bundle: the leader of the group's set.
func (a *Agent) dealer(set string) string {
	if run := a.sets.list()[set]; run != nil {
		return run.set.Status().Leader
	}
	return ""
}

// Run is the daemon: it returns nil after ctx ended and everything was stopped, in reverse order of starting.
func (a *Agent) Run(ctx context.Context) error {
	defer close(a.done)
	defer a.unlock()
	socket, err := listenSocket(a.config().Socket)
	if err != nil {
		a.Close()
		return err
	}
	a.seedInventory()
	err = a.runLoops(ctx, socket)
	err = errors.Join(err, a.consensus.Close(), a.store.Close())
	os.Remove(a.config().Socket)
	a.log.Info("stopped")
	return err
}

// seedInventory takes the hosts of the commit in effect before anything dials or is dialled.
func (a *Agent) seedInventory() {
	if w, err := a.source.effective(); err == nil && w != nil { // source.Run says what is wrong
		a.inventory.set(w.State.Hosts)
	}
}

// runLoops runs every loop. The network stays up until the loops above it have ended, so that they can say goodbye.
func (a *Agent) runLoops(ctx context.Context, socket net.Listener) error {
	below, stopBelow := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBelow()
	loops, ctx := errgroup.WithContext(ctx)
	network, below := errgroup.WithContext(below)
	loops.Go(func() error { // a host whose network is gone must not go on as if it were alone
		select {
		case <-ctx.Done():
			return nil
		case <-below.Done():
			return errNetwork
		}
	})
	network.Go(func() error { return a.transport.Run(below) })
	network.Go(func() error { return a.swarm.Run(below) })
	history := historyServer(func() *configrepo.Repo { return a.repo.Load() }, a.log)
	network.Go(func() error { return serve(below, a.transport.Listener(transport.HistoryALPN), history, a.log) })

	api := a.handlers()
	loops.Go(func() error { return serve(ctx, a.transport.Listener(transport.APIALPN), api.hosts, a.log) })
	loops.Go(func() error { return serve(ctx, status.LimitConnections(socket), api.operators, a.log) })
	loops.Go(func() error { return a.gossip.Run(ctx) })
	loops.Go(func() error { return a.announce(ctx) })
	loops.Go(func() error { return a.announceFetches(ctx) })
	loops.Go(func() error { return a.lost.Run(ctx) })
	loops.Go(func() error { return a.source.Run(ctx) })
	loops.Go(func() error { return a.sets.Run(ctx) })
	loops.Go(func() error { defer a.member.checks.wait(); return a.member.Run(ctx) })
	loops.Go(func() error { return a.early.Run(ctx) })
	loops.Go(func() error { return a.watch(ctx) })
	a.log.Info("started", "version", a.opt.Version, "listen", a.transport.Addr().String(), "socket", a.config().Socket)
	a.notify(daemon.SdNotifyReady)
	err := loops.Wait()
	a.notify(daemon.SdNotifyStopping)
	stopBelow()
	return errors.Join(err, network.Wait())
}

// errNetwork ends the loops above a network that ended of itself; its own error says why.
var errNetwork = errors.New("the network of this host stopped")

// announce passes gossip's changes on.
func (a *Agent) announce(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.gossip.Changed():
			a.alive.Notify()
			a.changed.Notify()
		}
	}
}

// watch passes every change on to whoever follows the status, and feeds systemd's watchdog.
func (a *Agent) watch(ctx context.Context) error {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil || interval <= 0 {
		interval = time.Hour
	}
	feed := time.NewTicker(interval / 3)
	defer feed.Stop()
	for {
		sets, world := a.sets.changed.Changed(), a.source.changed.Changed()
		a.changed.Notify() // after the next change can no longer be missed
		select {
		case <-ctx.Done():
			return nil
		case <-sets:
		case <-world:
		case <-feed.C:
			a.notify(daemon.SdNotifyWatchdog)
		}
	}
}

// notify speaks systemd's protocol; without systemd it does nothing.
func (a *Agent) notify(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		a.log.Debug("systemd could not be told", "state", state, "error", err)
	}
}
