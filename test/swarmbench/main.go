// Command swarmbench measures how long a bundle takes to reach every host of a group, over links of a known rate: gitopsd with real agents, every host fetching
// from S3 for itself, and BitTorrent (aria2 with opentracker), in one sitting and one table. Then gitopsd with links and hosts that fail, with a peer that serves garbage,
// with the next release of a tree, of which little should move, and with a host that joins late. Each host is a network namespace with a link of its own, shaped in both
// directions; nothing is made outside those namespaces, and nothing is left behind. It needs root and iproute2; aria2c and opentracker where they are to be compared, and
// the Go module proxy for the real tree. The exit status is 1 where a requirement is not met.
//
//	go run ./test/swarmbench -gitopsd FILE -versitygw FILE [-runs 3] [-only REGEXP]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

// wire is how many bytes of a full Ethernet frame carry payload: an MTU of 1500 without TCP's options and headers, of 1514 bytes on the wire.
const wire = 1448.0 / 1514.0

// silence is less than any piece, in bytes. ARP and handshakes are counted, if not quite as what they are.
const silence = 1 << 10

// measurement is one line of the table.
type measurement struct {
	name   string
	bed    bedSpec
	mib    int
	once   bool    // a figure that hardly varies is taken once
	most   float64 // required: seconds over the floor; 0 for none
	egress float64 // required: payload that left the origin over the size, or over what the change is worth; 0 for none
	silent bool    // required: nothing of the bundle leaves the origin
	also   string  // required: in words; a run says itself where it missed that
	run    func(ctx context.Context, b *bed, o options, m measurement) (outcome, error)
	fault  fault
}

// outcome is one run.
type outcome struct {
	all    time.Duration // until the last of the hosts that count has the verified bundle
	moved  int64         // bytes of payload that left the origin
	worth  int64         // bytes that moved is measured against; 0 for the size of the measurement
	size   int64         // bytes of the bundle; 0 for the size of the measurement
	delta  bool          // the floor is that of what moved, not of the bundle
	missed string        // what else is required and was not met
	load   string        // how busy the machine's processors were meanwhile; empty where nobody looked
	note   string
}

// egress is the payload that left the origin, as a multiple of what it is measured against.
func (o outcome) egress(m measurement) float64 {
	if o.worth > 0 {
		return float64(o.moved) / float64(o.worth)
	}
	return float64(o.moved) / float64(o.bytes(m))
}

// bytes is the size of the bundle.
func (o outcome) bytes(m measurement) int64 {
	if o.size > 0 {
		return o.size
	}
	return int64(m.mib) << 20
}

// floor is the least time that is possible, in seconds.
func (o outcome) floor(m measurement) float64 {
	if o.delta {
		return m.bed.floor(o.moved)
	}
	return m.bed.floor(o.bytes(m))
}

// errNotRun says that what a measurement needs cannot be had, and that nothing is required of it.
var errNotRun = errors.New("not run")

// options are the flags.
type options struct {
	gitopsd, versitygw string
	runs               int
	keep, debug        bool
	lie                string // this program is no benchmark, but a host that lies
}

func main() {
	var o options
	var only string
	flag.StringVar(&o.gitopsd, "gitopsd", "", "the gitopsd `program` to measure")
	flag.StringVar(&o.versitygw, "versitygw", "", "the S3 server's `program`")
	flag.IntVar(&o.runs, "runs", 3, "`runs` of each measurement; the median is printed")
	flag.BoolVar(&o.keep, "keep", false, "keep the folders of runs, agents' logs included")
	flag.BoolVar(&o.debug, "debug", false, "let agents log all they do, to be read with -keep")
	flag.StringVar(&only, "only", "", "run measurements whose name, number of hosts and rate (as in \"gitopsd N=4 at 100mbit\") match this `expression`")
	flag.StringVar(&o.lie, "lie", "", "be a host that serves garbage, as this `file` says; used by the program itself")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if o.lie != "" {
		if err := lie(ctx, o.lie); err != nil {
			fmt.Fprintln(os.Stderr, "swarmbench:", err)
			os.Exit(1)
		}
		return
	}
	ok, err := measure(ctx, o, only)
	if err != nil {
		fmt.Fprintln(os.Stderr, "swarmbench:", err)
		os.Exit(1)
	}
	if !ok {
		os.Exit(1)
	}
}

// measure runs the table from top to bottom and says whether every requirement was met.
func measure(ctx context.Context, o options, only string) (good bool, err error) {
	pattern, err := regexp.Compile(only)
	if err != nil {
		return false, err
	}
	if os.Geteuid() != 0 {
		return false, fmt.Errorf("network namespaces need root")
	}
	if o.gitopsd == "" || o.versitygw == "" {
		return false, fmt.Errorf("-gitopsd and -versitygw are needed: `make bench-swarm` gives both")
	}
	dir, err := os.MkdirTemp("", "gitopsd-swarmbench-")
	if err != nil {
		return false, err
	}
	if !o.keep {
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	if err := os.Chmod(dir, 0o755); err != nil { // one of the programs gives up being root before it reads its files
		return false, err
	}
	fmt.Printf("%-34s %3s %9s %6s %8s %8s %8s %7s %7s\n", "measurement", "N", "link", "MiB", "floor s", "median s", "max s", "ratio", "egress")
	good = true
	for _, m := range table() {
		if !pattern.MatchString(fmt.Sprintf("%s N=%d at %s", m.name, m.bed.hosts, m.bed.rate)) {
			continue
		}
		runs := o.runs
		if m.once {
			runs = 1
		}
		var all []outcome
		for range runs {
			out, err := once(ctx, o, m, dir)
			if ctx.Err() != nil {
				return false, ctx.Err()
			}
			if err != nil {
				fmt.Printf("%-34s %3d %s\n", m.name, m.bed.hosts, err)
				good = good && errors.Is(err, errNotRun)
				break
			}
			all = append(all, out)
		}
		if len(all) == runs {
			good = report(m, all) && good
		}
	}
	return good, nil
}

// once makes a bed below dir, runs one measurement in it and takes the bed away.
func once(ctx context.Context, o options, m measurement, dir string) (out outcome, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	b, err := makeBed(ctx, m.bed, dir, o.keep)
	if err != nil {
		return outcome{}, err
	}
	defer func() {
		if left := b.remove(); err == nil {
			err = left
		}
	}()
	return m.run(ctx, b, o, m)
}

// report prints one line: the median of the runs, and whether it is what is required.
func report(m measurement, all []outcome) bool {
	slices.SortFunc(all, func(a, b outcome) int { return int(a.all - b.all) })
	median, worst := all[len(all)/2], all[len(all)-1]
	floor, egress := median.floor(m), 0.0
	good := true
	var notes []string
	for _, o := range all {
		egress = max(egress, o.egress(m))
		if o.note != "" && !slices.Contains(notes, o.note) {
			notes = append(notes, o.note)
		}
		if o.load != "" {
			notes = append(notes, o.load)
		}
		if o.missed != "" {
			good = false
			notes = append(notes, o.missed)
		}
	}
	ratio := median.all.Seconds() / floor
	required, met := m.required(ratio, egress)
	if good = good && met; !good {
		required += "  NOT MET"
	}
	fmt.Printf("%-34s %3d %9s %6d %8.2f %8.2f %8.2f %7.2f %7.3f%s", m.name, m.bed.hosts, m.bed.rate, median.bytes(m)>>20, floor, median.all.Seconds(), worst.all.Seconds(), ratio, egress, required)
	if len(notes) > 0 {
		fmt.Printf("  (%s)", strings.Join(notes, "; "))
	}
	fmt.Println()
	return good
}

// required says what is required, and whether it is met.
func (m measurement) required(ratio, egress float64) (text string, met bool) {
	var all []string
	met = true
	if m.most > 0 {
		all = append(all, fmt.Sprintf("%.2f", m.most))
		met = ratio <= m.most
	}
	switch {
	case m.silent:
		all = append(all, "egress 0")
		met = met && egress*float64(m.mib<<20) < silence
	case m.egress > 0:
		all = append(all, fmt.Sprintf("egress %.2f", m.egress))
		met = met && egress <= m.egress+0.0005
	}
	if m.also != "" {
		all = append(all, m.also)
	}
	if len(all) == 0 {
		return "", true
	}
	return "  required " + strings.Join(all, ", "), met
}

// table is what is measured. The floor's curl comes first: if it is off, so is the bed.
func table() []measurement {
	four, eight := bedSpec{hosts: 4, rate: "100mbit", mbit: 100}, bedSpec{hosts: 8, rate: "100mbit", mbit: 100}
	sixteen := bedSpec{hosts: 16, rate: "50mbit", mbit: 50}
	// Deltas take tenths of a second, in which all agents verify, copy and hash on the processors of one machine. With four hosts, or over a slower link, the network is
	// what is measured; on a slow machine only with both.
	narrow, narrowFour := bedSpec{hosts: 8, rate: "25mbit", mbit: 25}, bedSpec{hosts: 4, rate: "25mbit", mbit: 25}
	const size = 64
	return []measurement{
		{name: "one curl", bed: bedSpec{hosts: 1, rate: "100mbit", mbit: 100}, mib: size, run: direct, once: true},
		{name: "gitopsd", bed: four, mib: size, most: 1.15, egress: 1.01, run: swarm},
		{name: "gitopsd", bed: eight, mib: size, most: 1.20, egress: 1.01, run: swarm},
		{name: "gitopsd", bed: sixteen, mib: size, most: 1.30, egress: 1.01, run: swarm},
		{name: "gitopsd, a small bundle", bed: eight, mib: 16, run: swarm},
		{name: "aria2 and opentracker", bed: four, mib: size, run: torrent},
		{name: "aria2 and opentracker", bed: eight, mib: size, run: torrent},
		{name: "aria2 and opentracker", bed: sixteen, mib: size, run: torrent},
		{name: "every host from S3", bed: four, mib: size, run: direct, once: true},
		{name: "every host from S3", bed: eight, mib: size, run: direct, once: true},
		{name: "every host from S3", bed: sixteen, mib: size, run: direct, once: true},
		{name: "gitopsd, half without S3", bed: eight, mib: size, run: swarm, fault: cutHalf},
		{name: "gitopsd, one at a tenth", bed: eight, mib: size, run: swarm, fault: slowOne},
		{name: "gitopsd, one killed at half time", bed: eight, mib: size, run: swarm, fault: killOne},
		{name: "gitopsd, a lease holder cut off", bed: eight, mib: size, run: swarm, fault: cutLeaseHolder},
		{name: "gitopsd, one serves garbage", bed: eight, mib: size, egress: 1.01, also: "all others finish and name it", run: garbage, fault: fault{spare: 1}},
		{name: "gitopsd, large files changed", bed: four, mib: size, most: 1.5, egress: 1.3, run: delta(largeFiles)},
		{name: "gitopsd, small files changed", bed: four, mib: size, most: 1.5, egress: 1.3, run: delta(smallFiles)},
		{name: "gitopsd, large files changed", bed: eight, mib: size, most: 1.5, egress: 1.3, run: delta(largeFiles)},
		{name: "gitopsd, small files changed", bed: eight, mib: size, most: 1.5, egress: 1.3, run: delta(smallFiles)},
		{name: "gitopsd, large files changed", bed: narrow, mib: size, most: 1.5, egress: 1.3, run: delta(largeFiles)},
		{name: "gitopsd, small files changed", bed: narrow, mib: size, most: 1.5, egress: 1.3, run: delta(smallFiles)},
		{name: "gitopsd, large files changed", bed: narrowFour, mib: size, most: 1.5, egress: 1.3, run: delta(largeFiles)},
		{name: "gitopsd, small files changed", bed: narrowFour, mib: size, most: 1.5, egress: 1.3, run: delta(smallFiles)},
		{name: "gitopsd, next version of a tree", bed: eight, run: modules},
		{name: "gitopsd, one host joins", bed: eight, mib: size, silent: true, run: join},
	}
}
