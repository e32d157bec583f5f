package consensus

import (
	"fmt"
	"time"
)

// Limits of the observe protocol.
const (
	frameMax    = entryMax + 1024
	chunkBytes  = 64 << 10 // of a snapshot; small, since streams share a connection
	relayMax    = 4096     // hosts in one ping
	inFlightMax = 64       // submissions of one stream without an answer
	writeWait   = 10 * time.Second
)

// Frame kinds of the observe protocol.
const (
	frameSubmit   = 's' // up
	framePing     = 'p' // up
	frameResult   = 'r' // down
	frameTidings  = 't' // down, at every change and after every ping
	frameEntry    = 'e' // down
	frameSnapshot = 'b' // down, before its chunks
	frameChunk    = 'c' // down
	frameKin      = 'k' // down, after a ping: a welcome that tells more than the last
	frameDiverged = 'x' // down, before the stream is closed
)

// submission carries a command to a voter.
type submission struct {
	id      uint64
	from    string        // only a voter may name another host than itself
	hop     bool          // it was forwarded once and must not be again
	timeout time.Duration // in ms on the wire
	command []byte
}

func (m submission) encode() []byte {
	b := appendUint(make([]byte, 0, len(m.command)+64), m.id)
	b = appendString(b, m.from)
	b = appendBool(b, m.hop)
	b = appendUint(b, uint64(max(m.timeout, 0)/time.Millisecond))
	return appendBytes(b, m.command)
}

func decodeSubmission(b []byte) (submission, error) {
	d := &decoder{b: b}
	m := submission{id: d.uint(), from: d.string(nameMaxLen), hop: d.bool()}
	m.timeout = time.Duration(min(d.uint(), uint64(submitMax/time.Millisecond))) * time.Millisecond
	m.command = d.bytes(commandMax)
	return m, wrapDecode("submission", d)
}

// Codes of a result.
const (
	codeApplied = iota
	codeNotApplied
	codeBusy
	codeUnknown
)

// result answers a submission.
type result struct {
	id       uint64
	code     uint64
	index    uint64
	response []byte
}

func (m result) encode() []byte {
	b := appendUint(make([]byte, 0, len(m.response)+32), m.id)
	b = appendUint(b, m.code)
	b = appendUint(b, m.index)
	return appendBytes(b, m.response)
}

func decodeResult(b []byte) (result, error) {
	d := &decoder{b: b}
	m := result{id: d.uint(), code: d.uint(), index: d.uint(), response: d.bytes(frameMax)}
	return m, wrapDecode("result", d)
}

// tidings say who leads, as the voter sees it.
type tidings struct {
	leader string
	term   uint64
	quorum bool
}

func (m tidings) encode() []byte {
	return appendBool(appendUint(appendString(nil, m.leader), m.term), m.quorum)
}

func decodeTidings(b []byte) (tidings, error) {
	d := &decoder{b: b}
	m := tidings{leader: d.string(nameMaxLen), term: d.uint(), quorum: d.bool()}
	return m, wrapDecode("tidings", d)
}

func (e entry) encode() []byte {
	b := appendUint(make([]byte, 0, len(e.data)+32), e.prev)
	b = appendUint(b, e.index)
	b = appendUint(b, e.term)
	return appendBytes(b, e.data)
}

func decodeEntry(b []byte) (entry, error) {
	d := &decoder{b: b}
	e := entry{prev: d.uint(), index: d.uint(), term: d.uint(), data: d.bytes(entryMax)}
	return e, wrapDecode("entry", d)
}

// contact is a host that a voter heard of directly, and how long ago.
type contact struct {
	host string
	age  time.Duration // in ms on the wire
}

func encodePing(contacts []contact) []byte {
	contacts = contacts[:min(len(contacts), relayMax)]
	b := appendUint(nil, uint64(len(contacts)))
	for _, c := range contacts {
		b = appendString(b, c.host)
		b = appendUint(b, uint64(max(c.age, 0)/time.Millisecond))
	}
	return b
}

func decodePing(b []byte) ([]contact, error) {
	d := &decoder{b: b}
	var contacts []contact
	for range d.count(relayMax) {
		c := contact{host: d.string(nameMaxLen), age: time.Duration(min(d.uint(), uint64(time.Hour/time.Millisecond))) * time.Millisecond}
		if d.err != nil {
			break
		}
		contacts = append(contacts, c)
	}
	return contacts, wrapDecode("ping", d)
}

func wrapDecode(what string, d *decoder) error {
	if err := d.done(); err != nil {
		return fmt.Errorf("cannot read %s: %w", what, err)
	}
	return nil
}
