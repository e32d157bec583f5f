package gossip

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
)

const (
	factsVersion   = 1
	kindFact       = 1 // one fact
	kindState      = 2 // all facts of a host's memory
	startMax       = 1 << 62
	reservedPrefix = "gossip."
	startKey       = reservedPrefix + "start"   // published by every start: outdates the facts of earlier ones
	leavingKey     = reservedPrefix + "leaving" // its value is the instance that leaves
)

// fact is one host's word on one key. start orders a host's starts, seq what
// it said within one. An empty value is a fact withdrawn.
type fact struct {
	host, key  string
	start, seq uint64
	value      []byte
}

// newer says whether f replaces o.
func (f fact) newer(o fact) bool {
	return f.start > o.start || f.start == o.start && f.seq > o.seq
}

func validKey(key string) bool {
	return key != "" && len(key) <= keyMax && printable(key) && !strings.Contains(key, " ")
}

func isReserved(key string) bool { return strings.HasPrefix(key, reservedPrefix) }

// factStore is what this host knows: its own facts and those of others. It is
// safe for concurrent use.
type factStore struct {
	self string

	mu         sync.Mutex
	start, seq uint64 // of this host
	hosts      map[string]map[string]fact
}

func newFactStore(self string, start uint64) *factStore {
	return &factStore{self: self, start: start, hosts: map[string]map[string]fact{self: {}}}
}

// set changes one of this host's own facts.
func (s *factStore) set(key string, value []byte) (fact, error) {
	if len(value) > valueMax {
		return fact{}, fmt.Errorf("value has %d bytes, at most %d are carried", len(value), valueMax)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	own := s.hosts[s.self]
	if _, ok := own[key]; !ok && len(own) >= keysMax && !dropWithdrawn(own) {
		return fact{}, fmt.Errorf("this host has %d facts already, the most there may be", len(own))
	}
	s.seq++
	f := fact{host: s.self, key: key, start: s.start, seq: s.seq, value: bytes.Clone(value)}
	own[key] = f
	return f, nil
}

// dropWithdrawn makes room by forgetting one withdrawn fact.
func dropWithdrawn(facts map[string]fact) bool {
	for key, f := range facts {
		if len(f.value) == 0 {
			delete(facts, key)
			return true
		}
	}
	return false
}

// merge takes a fact from elsewhere and says whether it was news. A fact about
// this host itself is never taken.
func (s *factStore) merge(f fact) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.host == s.self {
		return false
	}
	facts := s.hosts[f.host]
	if facts == nil {
		if len(s.hosts) >= membersMax {
			return false
		}
		facts = map[string]fact{}
		s.hosts[f.host] = facts
	}
	for key, o := range facts {
		switch {
		case o.start > f.start:
			return false // said by an earlier start of the host
		case o.start < f.start:
			delete(facts, key)
		}
	}
	old, ok := facts[f.key]
	if ok && !f.newer(old) || !ok && len(facts) >= keysMax {
		return false
	}
	facts[f.key] = f
	return true
}

// disputes says whether f, about this host, comes from a start that others
// take for later than this one, or says what this start never said.
func (s *factStore) disputes(f fact) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return f.host == s.self && (f.start > s.start || f.start == s.start && f.seq > s.seq)
}

// outbid raises this host's start above start, says everything again, and
// returns what it said.
func (s *factStore) outbid(start uint64) []fact {
	s.mu.Lock()
	defer s.mu.Unlock()
	if start >= startMax {
		return nil
	}
	s.start = max(s.start, start) + 1
	var out []fact
	for key, f := range s.hosts[s.self] {
		s.seq++
		f.start, f.seq = s.start, s.seq
		s.hosts[s.self][key] = f
		out = append(out, f)
	}
	return out
}

// values returns copies of what all hosts said on key.
func (s *factStore) values(key string) map[string][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string][]byte{}
	for host, facts := range s.hosts {
		if f, ok := facts[key]; ok && len(f.value) > 0 {
			out[host] = bytes.Clone(f.value)
		}
	}
	return out
}

// value returns what host said on key.
func (s *factStore) value(host, key string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.hosts[host][key].value)
}

// all returns every fact.
func (s *factStore) all() []fact {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []fact
	for _, facts := range s.hosts {
		for _, f := range facts {
			out = append(out, f)
		}
	}
	return out
}

// names returns the hosts that facts are kept of, without this one.
func (s *factStore) names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for host := range s.hosts {
		if host != s.self {
			out = append(out, host)
		}
	}
	return out
}

func (s *factStore) forget(host string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.hosts, host)
}

// One fact is written as: start and seq as varints; host and key with one
// byte of length; value with two.
func (f fact) append(b []byte) []byte {
	b = binary.AppendUvarint(b, f.start)
	b = binary.AppendUvarint(b, f.seq)
	b = append(append(b, byte(len(f.host))), f.host...)
	b = append(append(b, byte(len(f.key))), f.key...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(f.value)))
	return append(b, f.value...)
}

var errFactShort = errors.New("fact is cut short")

// takeFact reads one fact from the front of b.
func takeFact(b []byte) (f fact, rest []byte, err error) {
	var n int
	if f.start, n = binary.Uvarint(b); n <= 0 {
		return fact{}, nil, errFactShort
	}
	b = b[n:]
	if f.seq, n = binary.Uvarint(b); n <= 0 {
		return fact{}, nil, errFactShort
	}
	b = b[n:]
	for _, text := range []*string{&f.host, &f.key} {
		if len(b) < 1 || len(b) < 1+int(b[0]) {
			return fact{}, nil, errFactShort
		}
		*text, b = string(b[1:1+int(b[0])]), b[1+int(b[0]):]
	}
	if len(b) < 2 || len(b) < 2+int(binary.BigEndian.Uint16(b)) {
		return fact{}, nil, errFactShort
	}
	n = int(binary.BigEndian.Uint16(b))
	f.value, rest = bytes.Clone(b[2:2+n]), b[2+n:]
	switch {
	case f.start > startMax:
		return fact{}, nil, fmt.Errorf("fact has start %d, at most %d can be", f.start, uint64(startMax))
	case f.host == "" || len(f.host) > hostMax || !printable(f.host):
		return fact{}, nil, errors.New("fact has a bad host name")
	case !validKey(f.key):
		return fact{}, nil, errors.New("fact has a bad key")
	case len(f.value) > valueMax:
		return fact{}, nil, fmt.Errorf("fact's value has %d bytes, at most %d are carried", len(f.value), valueMax)
	}
	return f, rest, nil
}

func encodeFact(f fact) []byte { return f.append([]byte{factsVersion, kindFact}) }

func encodeState(facts []fact) []byte {
	b := binary.BigEndian.AppendUint32([]byte{factsVersion, kindState}, uint32(len(facts)))
	for _, f := range facts {
		b = f.append(b)
	}
	return b
}

// decodeFacts reads a message of either kind. Where it finds an error it
// returns the facts before it too.
func decodeFacts(b []byte) ([]fact, error) {
	if len(b) < 2 {
		return nil, errFactShort
	}
	if b[0] != factsVersion {
		return nil, fmt.Errorf("facts have version %d, this host speaks version %d", b[0], factsVersion)
	}
	count := uint32(1)
	rest := b[2:]
	switch b[1] {
	case kindFact:
	case kindState:
		if len(rest) < 4 {
			return nil, errFactShort
		}
		count, rest = binary.BigEndian.Uint32(rest), rest[4:]
	default:
		return nil, fmt.Errorf("facts of kind %d are unknown in version %d", b[1], factsVersion)
	}
	if uint64(count) > membersMax*keysMax {
		return nil, fmt.Errorf("%d facts at once, at most %d can be", count, membersMax*keysMax)
	}
	var out []fact
	for range count {
		f, after, err := takeFact(rest)
		if err != nil {
			return out, err
		}
		out, rest = append(out, f), after
	}
	if len(rest) > 0 {
		return out, fmt.Errorf("%d bytes follow the facts", len(rest))
	}
	return out, nil
}
