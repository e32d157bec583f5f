package consensus

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// BenchmarkSubmit measures, on an idle set of 3 voters and 2 observers with one
// real disk for all, how long a submission takes, and how long until all five
// hosts have applied it.
func BenchmarkSubmit(b *testing.B) {
	f := newFleet(b, 3, 2, FastTiming())
	defer f.end()
	f.run()
	leader := f.leader()
	f.hosts["o1"].mustSubmit("warm")
	f.agree("warm")
	for _, from := range []*host{leader, f.hosts["o1"]} {
		what := "leader"
		if from != leader {
			what = "observer"
		}
		b.Run(what, func(b *testing.B) {
			var answered, everywhere []time.Duration
			for i := 0; b.Loop(); i++ {
				command := fmt.Sprint(what, b.N, i)
				<-time.After(120 * time.Millisecond) // idle
				at := time.Now()
				r := from.mustSubmit(command)
				answered = append(answered, time.Since(at))
				for _, h := range f.hosts {
					for {
						index, _, next := h.set.rep.applied()
						if IndexOf(1, index) >= r.Index {
							break
						}
						<-next
					}
				}
				everywhere = append(everywhere, time.Since(at))
			}
			slices.Sort(answered)
			slices.Sort(everywhere)
			b.ReportMetric(float64(answered[len(answered)/2].Microseconds())/1000, "ms-answered-p50")
			b.ReportMetric(float64(everywhere[len(everywhere)/2].Microseconds())/1000, "ms-everywhere-p50")
			b.ReportMetric(float64(everywhere[len(everywhere)*99/100].Microseconds())/1000, "ms-everywhere-p99")
		})
	}
}
