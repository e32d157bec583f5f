package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/gossip"
	"github.com/gitopsd/gitopsd/internal/status"
	"github.com/gitopsd/gitopsd/test/liar"
)

// lieFile is what this program reads where it is a host that lies.
type lieFile struct {
	Name  string
	Fleet map[string]liar.Host
	Index string // file
}

// garbage measures a swarm whose last host says that it has the whole bundle, and sends garbage.
func garbage(ctx context.Context, b *bed, o options, m measurement) (outcome, error) {
	f, err := newFleet(ctx, b, o, b.spec.hosts)
	if err != nil {
		return outcome{}, err
	}
	one, err := f.pushRandom(ctx, m.mib)
	if err != nil {
		return outcome{}, err
	}
	if err := f.startLiar(f.stored("bench.tar.zst") + bundle.IndexSuffix); err != nil {
		return outcome{}, err
	}
	if err := f.startAgents(ctx, b.spec.hosts-1); err != nil {
		return outcome{}, err
	}
	out, err := f.deploy(ctx, m, one)
	if err != nil {
		return outcome{}, err
	}
	return out, f.judgeLiar(ctx, &out)
}

// startLiar runs this program in the place of the last host's agent.
func (f *fleet) startLiar(index string) error {
	name := f.last()
	file := lieFile{Name: name, Fleet: map[string]liar.Host{}, Index: index}
	for i := range f.bed.spec.hosts {
		file.Fleet[hostName(i)] = liar.Host{DataDir: f.path(hostName(i), "data"), Address: hostIP(i) + ":7475"}
	}
	text, err := json.Marshal(file)
	if err != nil {
		return err
	}
	if err := write(f.path("lie.json"), string(text)); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	_, err = f.bed.start(name, name+".log", nil, self, "-lie", f.path("lie.json"))
	return err
}

// lie is a host that lies until ctx ends. It prints a line for each wrong piece.
func lie(ctx context.Context, path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var file lieFile
	if err := json.Unmarshal(text, &file); err != nil {
		return err
	}
	encoded, err := os.ReadFile(file.Index)
	if err != nil {
		return err
	}
	index, err := bundle.DecodeIndex(encoded)
	if err != nil {
		return err
	}
	l, err := liar.New(liar.Options{Name: file.Name, Fleet: file.Fleet, Index: index, Timing: gossip.LAN(), Lied: func(to string) { fmt.Println(liedTo + to) }})
	if err != nil {
		return err
	}
	return l.Run(ctx)
}

// liedTo begins a line of the liar's log.
const liedTo = "lied to "

// judgeLiar says whether everybody who got garbage names who sent it.
func (f *fleet) judgeLiar(ctx context.Context, out *outcome) error {
	lies, victims, err := f.lies()
	if err != nil {
		return err
	}
	var silent []string
	for _, host := range victims {
		report, err := status.NewClient(f.path(host, "api.sock")).Report(ctx, "")
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(report.Notices, func(n status.Notice) bool { return n.Kind == "CorruptPeer" && n.Host == f.last() }) {
			silent = append(silent, host)
		}
	}
	out.note = fmt.Sprintf("it lied to %d hosts", len(victims))
	switch {
	case lies == 0:
		out.missed = "nobody asked the liar, so nothing is shown"
	case len(silent) > 0:
		out.missed = strings.Join(silent, ", ") + " got garbage and do not name who sent it"
	}
	return nil
}

// lies counts the wrong pieces that were sent, and lists who got them.
func (f *fleet) lies() (pieces int, to []string, err error) {
	file, err := os.Open(f.log(f.bed.spec.hosts - 1))
	if err != nil {
		return 0, nil, err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if host, ok := strings.CutPrefix(lines.Text(), liedTo); ok {
			pieces, to = pieces+1, append(to, host)
		}
	}
	slices.Sort(to)
	return pieces, slices.Compact(to), lines.Err()
}
