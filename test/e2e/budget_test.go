package e2e

import (
	"net"
	"sync"
	"testing"
	"time"
)

func TestNeverMoreHostsDownThanAllowed(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{hosts: 5, voters: 3})
	f.deploy(release{name: "one"}, allAtOnce)
	f.awaitRelease("one")
	f.awaitSettled()
	for _, step := range []struct {
		release, policy string
		allowed         int
	}{{"two", oneAtATime, 1}, {"three", halfAtATime, 2}} {
		most := f.watchPorts()
		f.deploy(release{name: step.release}, step.policy)
		f.awaitRelease(step.release)
		f.awaitSettled()
		if n := most(); n > step.allowed {
			t.Errorf("%d ports were closed at once during release %s, want %d at most", n, step.release, step.allowed)
		}
		if n := f.maxDown(); n > step.allowed {
			t.Errorf("%d hosts were down at once up to release %s, want %d at most", n, step.release, step.allowed)
		}
		f.assertRanOnce("ApplicationStart", step.release)
	}
	if n := f.maxDown(); n != 2 {
		t.Errorf("at most %d hosts were down at once, want HalfAtATime to use its two", n)
	}
	f.assertOnce()
}

// watchPorts polls the applications' ports until the returned function is called, which says how many were closed at once at most.
func (f *fleet) watchPorts() func() int {
	stop := make(chan struct{})
	most := 0
	var watching sync.WaitGroup
	watching.Go(func() {
		pace := time.NewTicker(5 * time.Millisecond)
		defer pace.Stop()
		for {
			closed := 0
			for _, h := range f.hosts {
				conn, err := net.DialTimeout("tcp", "127.0.0.1:"+h.port, time.Second)
				if err != nil {
					closed++
					continue
				}
				conn.Close()
			}
			most = max(most, closed)
			select {
			case <-stop:
				return
			case <-pace.C:
			}
		}
	})
	var once sync.Once
	end := func() int {
		once.Do(func() { close(stop) })
		watching.Wait()
		return most
	}
	f.t.Cleanup(func() { end() })
	return end
}
