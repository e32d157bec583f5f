// Command swarmbench measures how long a bundle takes to reach every host of a group, over links of a known rate: gitopsd with real agents, every host fetching
// from S3 for itself, and BitTorrent (aria2 with opentracker), in one sitting and one table. Each host is a network namespace with a link of its own, shaped in both
// directions; nothing is made outside those namespaces, and nothing is left behind. It needs root and iproute2; aria2c and opentracker where they are to be compared.
//
//	go run ./test/swarmbench -gitopsd FILE -versitygw FILE [-runs 3] [-only REGEXP]
package main

import (
	"context"
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

// measurement is one line of the table.
type measurement struct {
	name   string
	bed    bedSpec
	mib    int
	once   bool    // a figure that hardly varies is taken once
	most   float64 // required: seconds over the floor; 0 for none
	egress float64 // required: payload that left the origin over the size; 0 for none
	run    func(ctx context.Context, b *bed, o options, m measurement) (outcome, error)
	fault  fault
}

// outcome is one run.
type outcome struct {
	all    time.Duration // until the last of the hosts that count has the verified bundle
	egress float64       // payload that left the origin, over the bundle's size
	note   string
}

// options are the flags.
type options struct {
	gitopsd, versitygw string
	runs               int
	keep               bool
}

func main() {
	var o options
	var only string
	flag.StringVar(&o.gitopsd, "gitopsd", "", "the gitopsd `program` to measure")
	flag.StringVar(&o.versitygw, "versitygw", "", "the S3 server's `program`")
	flag.IntVar(&o.runs, "runs", 3, "`runs` of each measurement; the median is printed")
	flag.BoolVar(&o.keep, "keep", false, "keep the folders of runs, agents' logs included")
	flag.StringVar(&only, "only", "", "run measurements whose name and number of hosts (as in \"gitopsd N=4\") match this `expression`")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
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
func measure(ctx context.Context, o options, only string) (bool, error) {
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
	fmt.Printf("%-34s %3s %9s %6s %8s %8s %8s %7s %7s\n", "measurement", "N", "link", "MiB", "floor s", "median s", "max s", "ratio", "egress")
	good := true
	for _, m := range table() {
		if !pattern.MatchString(fmt.Sprintf("%s N=%d", m.name, m.bed.hosts)) {
			continue
		}
		runs := o.runs
		if m.once {
			runs = 1
		}
		var all []outcome
		for range runs {
			out, err := once(ctx, o, m)
			if ctx.Err() != nil {
				return false, ctx.Err()
			}
			if err != nil {
				fmt.Printf("%-34s %3d %s\n", m.name, m.bed.hosts, err)
				good = false
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

// once makes a bed, runs one measurement in it and takes the bed away.
func once(ctx context.Context, o options, m measurement) (out outcome, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	b, err := makeBed(ctx, m.bed, o.keep)
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
	floor := m.bed.floor(m.mib)
	ratio, egress := median.all.Seconds()/floor, 0.0
	var notes []string
	for _, o := range all {
		egress = max(egress, o.egress)
		if o.note != "" && !slices.Contains(notes, o.note) {
			notes = append(notes, o.note)
		}
	}
	verdict := ""
	good := true
	if m.most > 0 {
		verdict = fmt.Sprintf("  required %.2f", m.most)
		good = ratio <= m.most
	}
	if m.egress > 0 {
		verdict += fmt.Sprintf(", egress %.2f", m.egress)
		good = good && egress <= m.egress+0.0005
	}
	if !good {
		verdict += "  NOT MET"
	}
	fmt.Printf("%-34s %3d %9s %6d %8.2f %8.2f %8.2f %7.2f %7.3f%s", m.name, m.bed.hosts, m.bed.rate, m.mib, floor, median.all.Seconds(), worst.all.Seconds(), ratio, egress, verdict)
	if len(notes) > 0 {
		fmt.Printf("  (%s)", strings.Join(notes, "; "))
	}
	fmt.Println()
	return good
}

// table is what is measured. The floor's curl comes first: if it is off, so is the bed.
func table() []measurement {
	four, eight := bedSpec{hosts: 4, rate: "100mbit", mbit: 100}, bedSpec{hosts: 8, rate: "100mbit", mbit: 100}
	sixteen := bedSpec{hosts: 16, rate: "50mbit", mbit: 50}
	const size = 64
	return []measurement{
		{name: "one curl", bed: bedSpec{hosts: 1, rate: "100mbit", mbit: 100}, mib: size, run: direct, once: true},
		{name: "gitopsd", bed: four, mib: size, most: 1.15, egress: 1.01, run: swarm},
		{name: "gitopsd", bed: eight, mib: size, most: 1.20, egress: 1.01, run: swarm},
		{name: "gitopsd", bed: sixteen, mib: size, most: 1.30, egress: 1.01, run: swarm},
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
	}
}
