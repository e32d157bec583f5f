package swarm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/internal/bundle/store"
)

// FuzzLeaseRequest sends a dealer one request a line. Whatever hosts say, it deals neighbours that exist, and its memory and its answers keep their bounds.
func FuzzLeaseRequest(f *testing.F) {
	a := foreign(f, 3<<20, 1)
	digest := a.index.Digest()
	f.Add([]byte(fmt.Sprintf(`{"version":1,"host":"a","index":%q,"hosts":2}
{"version":1,"host":"b","index":%q,"have":"/wE=","seen":"//8=","holding":[3,4],"others":[5],"wrong":[1],"failed":"x","read":9,"rate":1,"hosts":2,"partial":true}
{"version":1,"host":"a","index":%q,"holding":[-1,99999999],"read":-5,"rate":-1,"hosts":-3}`, digest, digest, digest)))
	f.Add([]byte(`{"version":1,"host":"a"}
{"version":1,"host":"b","giveUp":true,"read":-1,"of":-1}
{"version":1,"host":"a","done":true}`))
	kept, err := store.Open(store.Options{Dir: f.TempDir(), KeepFree: -1})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = kept.Close() })
	f.Fuzz(func(t *testing.T, data []byte) {
		s := &Swarm{o: Options{Host: "dealer", Store: kept}, desk: newDesk()}
		s.desk.open(a.ref.Digest, a.index, "", "", time.Now())
		x := exchangeOf(a)
		for line := range bytes.SplitSeq(data, []byte("\n")) {
			var q leaseRequest
			if json.Unmarshal(line, &q) != nil {
				continue
			}
			answer, err := s.deal(a.ref.Digest, q)
			if err != nil {
				continue
			}
			if err := x.checkLease(answer); err != nil {
				t.Fatal(err)
			}
			if text, err := json.Marshal(answer); err != nil || len(text) > 16<<10 || answer.Retry < 0 || answer.For < 0 {
				t.Fatalf("%.200s (%v)", text, err)
			}
			if len(s.desk.dealings) > 1 || len(s.desk.scouts) > 1 {
				t.Fatalf("%d dealings and %d lines for one bundle", len(s.desk.dealings), len(s.desk.scouts))
			}
		}
	})
}

// FuzzLeaseAnswer has a dealer say anything to a host: what is read from the origin then exists, in one run, and is no more than a lease may be.
func FuzzLeaseAnswer(f *testing.F) {
	a := packed(f, 200, 200<<10)
	x := exchangeOf(a)
	f.Add([]byte(`{"version":1,"pieces":[3,4,5],"for":100,"retry":5,"why":"x"}`))
	f.Add([]byte(`{"version":1,"pieces":[-1,0]}`))
	f.Add([]byte(`{"version":1,"pieces":[9223372036854775807]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var answer leaseAnswer
		if json.Unmarshal(data, &answer) != nil || x.checkLease(answer) != nil {
			return
		}
		var size int64
		for n, i := range answer.Pieces {
			if n > 0 && i != answer.Pieces[0]+n {
				t.Fatalf("%v is no run", answer.Pieces)
			}
			size += int64(x.index.Piece(i).Size)
		}
		if len(answer.Pieces) > 1 && size > leaseLargest {
			t.Fatalf("%d bytes in a lease", size)
		}
	})
}

// exchangeOf is an exchange that knows the index and no more.
func exchangeOf(a *archive) *exchange {
	x := &exchange{index: a.index}
	for i := range a.index.Len() {
		x.sizes = append(x.sizes, int64(a.index.Piece(i).Size))
	}
	return x
}
