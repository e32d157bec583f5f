package rollout

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"
)

// FormatVersion is the newest version of commands, snapshots and member state
// that this code writes and understands.
const FormatVersion = 1

// kind is the second byte of a command. Numbers are never used again.
type kind byte

const (
	kindLead     kind = 1
	kindTick     kind = 2
	kindLiveness kind = 3
	kindTarget   kind = 4
	kindOrphan   kind = 5
	kindRaise    kind = 6
	kindOperator kind = 7
	kindHello    kind = 16
	kindReady    kind = 17
	kindAnswer   kind = 18
	kindProgress kind = 19
	kindDone     kind = 20
	kindHealth   kind = 21
)

func (Lead) kind() kind     { return kindLead }
func (Tick) kind() kind     { return kindTick }
func (Liveness) kind() kind { return kindLiveness }
func (Target) kind() kind   { return kindTarget }
func (Orphan) kind() kind   { return kindOrphan }
func (Raise) kind() kind    { return kindRaise }
func (Operator) kind() kind { return kindOperator }
func (Hello) kind() kind    { return kindHello }
func (Ready) kind() kind    { return kindReady }
func (Answer) kind() kind   { return kindAnswer }
func (Progress) kind() kind { return kindProgress }
func (Done) kind() kind     { return kindDone }
func (Health) kind() kind   { return kindHealth }

// UnknownError is a command of a version or type that this code does not know.
type UnknownError struct{ Version, Type int }

func (e *UnknownError) Error() string {
	return fmt.Sprintf("cannot read a rollout command of version %d type %d: this gitopsd understands up to version %d; update it", e.Version, e.Type, FormatVersion)
}

var errBounds = errors.New("cannot read a rollout command: a field exceeds its bounds")

// header is version, type and the wall time in milliseconds since 1970.
const headerBytes = 10

// Encode returns the bytes of a command: version, type, wall time in
// milliseconds, then JSON. at is data only. Log tails and sentences beyond their
// bounds are cut.
func Encode(c Command, at time.Time) ([]byte, error) {
	c = clip(c)
	body, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("cannot encode a rollout command: %w", err)
	}
	b := make([]byte, headerBytes, headerBytes+len(body))
	b[0], b[1] = FormatVersion, byte(c.kind())
	ms := int64(0)
	if !at.IsZero() {
		ms = at.UnixMilli()
	}
	binary.BigEndian.PutUint64(b[2:], uint64(ms))
	b = append(b, body...)
	if _, _, err := Decode(b); err != nil {
		return nil, err
	}
	return b, nil
}

// LeaderOnly says whether a command may come from a set's leader alone: those
// that say who leads, what is the target, who is alive and how time goes, and
// whatever this version does not know. It is consensus.Options.Fenced.
func LeaderOnly(command []byte) bool {
	if len(command) < headerBytes {
		return false // Decode refuses it
	}
	if command[0] != FormatVersion {
		return true
	}
	switch kind(command[1]) {
	case Operator{}.kind(), Hello{}.kind(), Ready{}.kind(), Answer{}.kind(), Progress{}.kind(), Done{}.kind(), Health{}.kind():
		return false
	}
	return true
}

// Decode reads a command. It refuses unknown versions and types with an
// *UnknownError, and unknown keys, anything after the end and anything beyond
// its bounds with another error.
func Decode(b []byte) (Command, time.Time, error) {
	if len(b) < headerBytes {
		return nil, time.Time{}, fmt.Errorf("cannot read a rollout command of %d bytes: it is shorter than its header", len(b))
	}
	if len(b) > maxCommand {
		return nil, time.Time{}, fmt.Errorf("cannot read a rollout command of %d bytes: the limit is %d", len(b), maxCommand)
	}
	if b[0] != FormatVersion {
		return nil, time.Time{}, &UnknownError{Version: int(b[0]), Type: int(b[1])}
	}
	c, err := decodeBody(kind(b[1]), b[headerBytes:])
	if err != nil {
		return nil, time.Time{}, err
	}
	if !inBounds(c) {
		return nil, time.Time{}, errBounds
	}
	at := time.Time{}
	if ms := int64(binary.BigEndian.Uint64(b[2:headerBytes])); ms > 0 && ms < 1<<47 {
		at = time.UnixMilli(ms).UTC()
	}
	return c, at, nil
}

func decodeBody(k kind, body []byte) (Command, error) {
	switch k {
	case kindLead:
		return decodeAs[Lead](body)
	case kindTick:
		return decodeAs[Tick](body)
	case kindLiveness:
		return decodeAs[Liveness](body)
	case kindTarget:
		return decodeAs[Target](body)
	case kindOrphan:
		return decodeAs[Orphan](body)
	case kindRaise:
		return decodeAs[Raise](body)
	case kindOperator:
		return decodeAs[Operator](body)
	case kindHello:
		return decodeAs[Hello](body)
	case kindReady:
		return decodeAs[Ready](body)
	case kindAnswer:
		return decodeAs[Answer](body)
	case kindProgress:
		return decodeAs[Progress](body)
	case kindDone:
		return decodeAs[Done](body)
	case kindHealth:
		return decodeAs[Health](body)
	}
	return nil, &UnknownError{Version: FormatVersion, Type: int(k)}
}

func decodeAs[C Command](body []byte) (Command, error) {
	var c C
	if err := strictJSON(body, &c); err != nil {
		return nil, fmt.Errorf("cannot read a rollout command: %w", err)
	}
	return c, nil
}

// strictJSON refuses unknown keys and trailing bytes.
func strictJSON(body []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if d.InputOffset() != int64(len(body)) {
		return errors.New("there is something after the end")
	}
	return nil
}

// clip cuts texts of people and hooks to their bounds, at a rune's border.
func clip(c Command) Command {
	switch c := c.(type) {
	case Ready:
		c.Reason = head(c.Reason, maxSentence)
		return c
	case Answer:
		c.Reason = head(c.Reason, maxSentence)
		return c
	case Operator:
		c.Reason = head(c.Reason, maxSentence)
		c.Actor = head(c.Actor, maxName)
		return c
	case Health:
		c.Evidence = head(c.Evidence, maxSentence)
		return c
	case Progress:
		c.Events = clipEvents(c.Events)
		return c
	case Done:
		c.Message = head(c.Message, maxSentence)
		c.Events = clipEvents(c.Events)
		return c
	case Target:
		c.SuspendWhy = head(c.SuspendWhy, maxSentence)
		c.Subject = head(c.Subject, maxName)
		return c
	}
	return c
}

func clipEvents(events []EventRecord) []EventRecord {
	if len(events) > maxEvents {
		events = events[:maxEvents]
	}
	out := make([]EventRecord, len(events))
	for i, e := range events {
		if e.Diagnostics != nil {
			d := *e.Diagnostics
			d.Message, d.ScriptName = head(d.Message, maxSentence), head(d.ScriptName, maxSentence)
			d.LogTail = tail(d.LogTail, maxLogTail)
			e.Diagnostics = &d
		}
		out[i] = e
	}
	return out
}

// head returns at most n bytes of s from its start.
func head(s string, n int) string {
	s = validText(s)
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// tail returns at most n bytes of s from its end.
func tail(s string, n int) string {
	s = validText(s)
	if len(s) <= n {
		return s
	}
	i := len(s) - n
	for i < len(s) && !utf8.RuneStart(s[i]) {
		i++
	}
	return s[i:]
}

func validText(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return string(bytes.ToValidUTF8([]byte(s), []byte("\uFFFD")))
}

func names(list ...string) bool {
	for _, s := range list {
		if len(s) > maxName {
			return false
		}
	}
	return true
}

func (s Spec) inBounds() bool { return names(s.Commit, s.SpecHash, s.Digest) }

func inBounds(c Command) bool {
	switch c := c.(type) {
	case Lead:
		return names(c.Host) && len(c.Voters) <= 64 && names(c.Voters...)
	case Liveness:
		if len(c.Hosts) > maxMembers {
			return false
		}
		for _, h := range c.Hosts {
			if !names(h.Host) || h.For < 0 || h.For > 1<<60 {
				return false
			}
		}
	case Target:
		return targetInBounds(c)
	case Orphan:
		return names(c.Group)
	case Operator:
		return names(c.Group, c.ID, string(c.Verb), c.Actor) && len(c.Reason) <= maxSentence
	case Hello:
		return names(c.Group, c.Boot) && c.Running.inBounds()
	case Ready:
		return names(c.Group, c.SpecHash, c.Commit, string(c.Refused), c.LastGood) && len(c.Reason) <= maxSentence
	case Answer:
		return names(c.Group, string(c.Verdict), string(c.Kind), c.Boot) && len(c.Reason) <= maxSentence
	case Progress:
		return names(c.Group) && eventsInBounds(c.Events)
	case Done:
		return names(c.Group, string(c.Outcome), c.Event, c.ErrorCode) && len(c.Message) <= maxSentence && eventsInBounds(c.Events)
	case Health:
		return names(c.Group, c.SpecHash, string(c.State)) && len(c.Evidence) <= maxSentence
	}
	return true
}

func targetInBounds(t Target) bool {
	if len(t.SuspendWhy) > maxSentence {
		return false
	}
	ok := names(t.Group, t.Application, t.Name, t.Subject) && len(t.Folder) <= 4096 && t.Spec.inBounds() &&
		len(t.Members) <= maxMembers && len(t.Signers) <= 64 && names(t.Signers...) &&
		len(t.Policy.Waves) <= 256 && len(t.Policy.AutoRollback) <= 8
	for _, m := range t.Members {
		ok = ok && names(m.Host, m.Zone) && len(m.Tags) <= 64
		for k, v := range m.Tags {
			ok = ok && names(k, v)
		}
	}
	for _, w := range t.Policy.Waves {
		ok = ok && names(w.Tag) && w.Hosts >= 0 && w.Hosts <= maxMembers && w.Percent >= 0 && w.Percent <= 100
	}
	for _, m := range []Minimum{t.Policy.MinimumHealthy, t.Policy.MinSuccess} {
		ok = ok && m.Value >= 0 && m.Value <= 1<<20
	}
	for _, l := range []Limit{t.Policy.MaxUnavailable, t.Policy.MaxFailures, t.Policy.MaxUnreachable} {
		ok = ok && l.Value >= 0 && l.Value <= 1<<20
	}
	return ok
}

func eventsInBounds(events []EventRecord) bool {
	if len(events) > maxEvents {
		return false
	}
	for _, e := range events {
		if !names(e.Event, e.Status, e.StartTime, e.EndTime) {
			return false
		}
		if d := e.Diagnostics; d != nil && (!names(d.ErrorCode) || len(d.ScriptName) > maxSentence || len(d.Message) > maxSentence || len(d.LogTail) > maxLogTail) {
			return false
		}
	}
	return true
}
