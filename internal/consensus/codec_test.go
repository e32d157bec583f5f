package consensus

import (
	"bytes"
	"reflect"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// codecs lists every decoder with a way back and an example.
var codecs = []struct {
	name    string
	example []byte
	again   func([]byte) ([]byte, error)
}{
	{"envelope", envelope{kind: kindCommands, commands: []command{{7, "web-1", []byte("x")}, {0, "", nil}}}.encode(), func(b []byte) ([]byte, error) {
		e, err := decodeEnvelope(b)
		return e.encode(), err
	}},
	{"check", envelope{kind: kindCheck, check: check{index: 256, sum: [32]byte{1, 2}}}.encode(), func(b []byte) ([]byte, error) {
		e, err := decodeEnvelope(b)
		return e.encode(), err
	}},
	{"hello", hello{set: "web", epoch: 3, from: Voter{"a", "1"}, to: Voter{"b", "2"}, life: life{3, 4, 9, 5}, follow: true, index: 6, term: 7}.encode(), func(b []byte) ([]byte, error) {
		h, err := decodeHello(b)
		return h.encode(), err
	}},
	{"welcome", welcome{life{1, 2, 9, 3}, []relative{{"a/1", life{4, 5, 9, 6}}, {"b/2", life{}}}}.encode(), func(b []byte) ([]byte, error) {
		w, err := decodeWelcome(b)
		return w.encode(), err
	}},
	{"submission", submission{id: 1, from: "a", hop: true, timeout: 1500 * time.Millisecond, command: []byte("x")}.encode(), func(b []byte) ([]byte, error) {
		m, err := decodeSubmission(b)
		return m.encode(), err
	}},
	{"result", result{id: 1, code: codeBusy, index: 9, response: []byte("y")}.encode(), func(b []byte) ([]byte, error) {
		m, err := decodeResult(b)
		return m.encode(), err
	}},
	{"tidings", tidings{leader: "a", term: 5, quorum: true}.encode(), func(b []byte) ([]byte, error) {
		m, err := decodeTidings(b)
		return m.encode(), err
	}},
	{"entry", entry{prev: 1, index: 2, term: 3, data: []byte("z")}.encode(), func(b []byte) ([]byte, error) {
		m, err := decodeEntry(b)
		return m.encode(), err
	}},
	{"ping", encodePing([]contact{{"a", time.Second}, {"b", 0}}), func(b []byte) ([]byte, error) {
		m, err := decodePing(b)
		return encodePing(m), err
	}},
	{"state", state{applied: 1, term: 2, count: 3, check: check{index: 4}, machine: []byte("m")}.encode(), func(b []byte) ([]byte, error) {
		m, err := decodeState(b)
		return m.encode(), err
	}},
	{"carried", (&carried{at: position{1, 2, 3}, doubt: true, machine: []byte("m")}).encode(), func(b []byte) ([]byte, error) {
		c, err := decodeCarried(b)
		if err != nil {
			return nil, err
		}
		return c.encode(), nil
	}},
	{"offer", (&offer{at: position{1, 2, 3}, doubt: true, size: 4, sum: [32]byte{5}, former: []electorate{{1, []string{"a/1", "b/2"}}, {2, nil}}}).encode(), func(b []byte) ([]byte, error) {
		o, err := decodeOffer(b)
		return o.encode(), err
	}},
	{"log", encodeLog(&raft.Log{Term: 3, Type: raft.LogBarrier, Data: []byte("d"), AppendedAt: time.Unix(1, 2)}), func(b []byte) ([]byte, error) {
		var l raft.Log
		err := decodeLog(b, &l)
		return encodeLog(&l), err
	}},
}

func TestCodecs(t *testing.T) {
	for _, c := range codecs {
		again, err := c.again(c.example)
		if err != nil || !bytes.Equal(again, c.example) {
			t.Errorf("%s: %x became %x: %v", c.name, c.example, again, err)
		}
		for i := range c.example {
			if _, err := c.again(c.example[:i]); err == nil {
				t.Errorf("%s: cut to %d of %d bytes it was read", c.name, i, len(c.example))
			}
		}
		if _, err := c.again(append(bytes.Clone(c.example), 0)); err == nil {
			t.Errorf("%s: read with a byte too many", c.name)
		}
	}
	for _, name := range []string{"envelope", "hello", "state"} {
		for _, c := range codecs {
			if c.name == name {
				b := bytes.Clone(c.example)
				b[0]++
				if _, err := c.again(b); err == nil {
					t.Errorf("%s of an unknown version was read", name)
				}
			}
		}
	}
}

func FuzzDecode(f *testing.F) {
	for i, c := range codecs {
		f.Add(i, c.example)
	}
	f.Fuzz(func(t *testing.T, which int, b []byte) {
		if which < 0 {
			which = -(which + 1)
		}
		c := codecs[which%len(codecs)]
		first, err := c.again(b)
		if err != nil {
			return
		}
		second, err := c.again(first)
		if err != nil || !bytes.Equal(first, second) {
			t.Errorf("%s: %x, then %x: %v", c.name, first, second, err)
		}
	})
}

func FuzzFrame(f *testing.F) {
	var b bytes.Buffer
	writeFrame(&b, frameSubmit, []byte("body"))
	f.Add(b.Bytes())
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		kind, body, err := readFrame(bytes.NewReader(b), 1024)
		if err != nil {
			return
		}
		var out bytes.Buffer
		writeFrame(&out, kind, body)
		if !bytes.HasPrefix(b, out.Bytes()) {
			t.Errorf("%x became %x", b, out.Bytes())
		}
	})
}

func FuzzSnapshotFile(f *testing.F) {
	meta := raft.SnapshotMeta{Version: 1, Index: 5, Term: 2, Configuration: raft.Configuration{Servers: []raft.Server{{ID: "a/1", Address: "a"}}}, ConfigurationIndex: 1}
	f.Add(encodeSnapshotFile(&meta, []byte("state")))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, data, err := decodeSnapshotFile(b)
		if err != nil {
			return
		}
		if again := encodeSnapshotFile(got, data); !bytes.Equal(again, b) && len(again) == len(b) {
			t.Errorf("%x became %x", b, again)
		}
	})
}

func TestClusterIDTellsApart(t *testing.T) {
	base := SetSpec{Name: "web", Epoch: 1, Introduction: "i", Voters: []Voter{{"a", "1"}, {"b", "2"}}}
	swapped := base
	swapped.Voters = []Voter{{"b", "2"}, {"a", "1"}}
	if base.id() != swapped.id() {
		t.Error("the order of voters counts")
	}
	seen := map[clusterID]SetSpec{base.id(): base}
	for _, other := range []SetSpec{
		{Name: "api", Epoch: 1, Introduction: "i", Voters: base.Voters},
		{Name: "web", Epoch: 2, Introduction: "i", Voters: base.Voters},
		{Name: "web", Epoch: 1, Introduction: "j", Voters: base.Voters},
		{Name: "web", Epoch: 1, Introduction: "i", Voters: []Voter{{"a", "1"}}},
		{Name: "web", Epoch: 1, Introduction: "i", Voters: []Voter{{"a", "1"}, {"b", "3"}}},
	} {
		if same, ok := seen[other.id()]; ok {
			t.Errorf("%+v and %+v are one cluster", other, same)
		}
		seen[other.id()] = other
	}
}

func TestParseVoter(t *testing.T) {
	if v, err := ParseVoter("web-1/6f1d"); err != nil || !reflect.DeepEqual(v, Voter{"web-1", "6f1d"}) {
		t.Error(v, err)
	}
	for _, bad := range []string{"", "web-1", "web-1/", "/x", "a/b/c", "a b/c"} {
		if _, err := ParseVoter(bad); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}
