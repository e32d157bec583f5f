package consensus

import (
	"fmt"
)

// Limits of commands and log entries.
const (
	// commandMax bounds one command.
	commandMax = 256 << 10
	// batchBytes is where a log entry is full; one command more may exceed it.
	batchBytes = 256 << 10
	// batchCommands bounds the commands of one log entry.
	batchCommands = 1024
	// entryMax bounds an encoded log entry.
	entryMax = batchBytes + commandMax + batchCommands*(nameMaxLen+32)
)

// envelopeVersion is the version of log entries. A replica that meets another
// stops: it cannot know what the entry would have done.
const envelopeVersion = 1

// Kinds of log entries.
const (
	kindCommands = 1
	kindCheck    = 2
)

// envelope is what one log entry carries.
type envelope struct {
	kind     uint64
	commands []command // kindCommands
	check    check     // kindCheck
}

// command is one call of Machine.Apply.
type command struct {
	// fence, if not 0, is the only term in which the command counts.
	fence uint64
	from  string
	data  []byte
}

// check lets replicas compare their states: the hash of the leader's machine
// after the entry at index.
type check struct {
	index uint64
	sum   [32]byte
}

func (e envelope) encode() []byte {
	b := appendUint(nil, envelopeVersion)
	b = appendUint(b, e.kind)
	if e.kind == kindCheck {
		b = appendUint(b, e.check.index)
		return appendBytes(b, e.check.sum[:])
	}
	b = appendUint(b, uint64(len(e.commands)))
	for _, c := range e.commands {
		b = appendUint(b, c.fence)
		b = appendString(b, c.from)
		b = appendBytes(b, c.data)
	}
	return b
}

// decodeEnvelope reads an entry; commands share memory with b.
func decodeEnvelope(b []byte) (envelope, error) {
	d := &decoder{b: b}
	if v := d.uint(); d.err == nil && v != envelopeVersion {
		return envelope{}, fmt.Errorf("log entry has version %d, this program knows %d: upgrade it", v, envelopeVersion)
	}
	e := envelope{kind: d.uint()}
	switch e.kind {
	case kindCommands:
		for range d.count(batchCommands) {
			e.commands = append(e.commands, command{fence: d.uint(), from: d.string(nameMaxLen), data: d.bytes(commandMax)})
			if d.err != nil {
				break
			}
		}
	case kindCheck:
		e.check.index = d.uint()
		sum := d.bytes(len(e.check.sum))
		if len(sum) != len(e.check.sum) {
			d.fail(errShort)
		}
		copy(e.check.sum[:], sum)
	default:
		d.fail(fmt.Errorf("log entry has the unknown kind %d: upgrade this program", e.kind))
	}
	if err := d.done(); err != nil {
		return envelope{}, fmt.Errorf("cannot read log entry: %w", err)
	}
	return e, nil
}
