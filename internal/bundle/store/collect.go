package store

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"github.com/gitopsd/gitopsd/internal/bundle"
)

// Pin keeps a digest, complete, on its way or not here yet, from being collected for as long as any owner names it. Pins are durable.
func (s *Store) Pin(owner string, d bundle.Digest) error {
	if _, err := bundle.ParseDigest(string(d)); err != nil {
		return err
	}
	return s.changePins(func(pins map[bundle.Digest][]string) bool {
		if slices.Contains(pins[d], owner) {
			return false
		}
		owners := append(slices.Clone(pins[d]), owner)
		slices.Sort(owners)
		pins[d] = owners
		return true
	})
}

// Unpin takes one owner's pin away; no pin is no error.
func (s *Store) Unpin(owner string, d bundle.Digest) error {
	return s.changePins(func(pins map[bundle.Digest][]string) bool {
		if !slices.Contains(pins[d], owner) {
			return false
		}
		if rest := slices.DeleteFunc(slices.Clone(pins[d]), func(o string) bool { return o == owner }); len(rest) > 0 {
			pins[d] = rest
		} else {
			delete(pins, d)
		}
		return true
	})
}

// Pins returns who keeps what, as a copy.
func (s *Store) Pins() map[bundle.Digest][]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[bundle.Digest][]string, len(s.pins))
	for d, owners := range s.pins {
		out[d] = slices.Clone(owners)
	}
	return out
}

// changePins writes the changed pins first and shows them to Collect afterwards, except that a new pin must count at once: a pin that
// cannot be written is taken back.
func (s *Store) changePins(change func(map[bundle.Digest][]string) bool) error {
	s.pinWrite.Lock()
	defer s.pinWrite.Unlock()
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return fmt.Errorf("cannot change pins: %w", ErrClosed)
	}
	old, changed := s.pins, maps.Clone(s.pins)
	if !change(changed) {
		s.mu.Unlock()
		return nil
	}
	both := maps.Clone(old)
	maps.Copy(both, changed)
	s.pins = both
	s.mu.Unlock()

	data, err := json.MarshalIndent(pinsFile{Version: metaVersion, Pins: changed}, "", " ")
	if err == nil {
		err = s.o.Disk.WriteFile(s.path("pins"), append(data, '\n'), 0o600)
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.pins = old
		return fmt.Errorf("cannot change pins: %w", err)
	}
	s.pins = changed
	return nil
}

// Collect deletes unpinned bundles, longest unused first, until all together use at most limit bytes (0: every unpinned one), and returns
// what it deleted. Partials that nobody has begun since the start, or since they came to Rest, count as unused longest; those that are being fetched or imported stay.
func (s *Store) Collect(ctx context.Context, limit int64) ([]bundle.Digest, error) {
	var deleted []bundle.Digest
	for {
		if err := ctx.Err(); err != nil {
			return deleted, err
		}
		d, whole, partial := s.pickVictim(limit)
		if d == "" {
			return deleted, nil
		}
		var left bool
		var err error
		if partial != nil {
			left, err = partial.discard()
		} else {
			err = s.trash(filepath.Dir(whole.Path))
		}
		s.mu.Lock()
		switch {
		case left:
			s.partials[d] = partial
		case whole == nil:
		case exists(whole.Path):
			s.complete[d] = whole
		default:
			delete(s.suspects, d)
		}
		s.endLocked(d)
		s.mu.Unlock()
		if err != nil {
			return deleted, fmt.Errorf("cannot collect bundle %s: %w", d.Short(), err)
		}
		s.log.Info("removed an unused bundle", "digest", d)
		deleted = append(deleted, d)
	}
}

// pickVictim chooses what to delete next, a complete bundle or a partial one, and takes it out of sight: a Begin waits until the caller calls endLocked.
func (s *Store) pickVictim(limit int64) (victim bundle.Digest, whole *Bundle, partial *Partial) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || limit > 0 && s.usedLocked() <= limit {
		return "", nil, nil
	}
	for d, p := range s.partials {
		if len(s.pins[d]) == 0 && !p.begun && s.imports[d] == nil {
			delete(s.partials, d)
			s.busy[d] = p.ref.Size
			return d, nil, p
		}
	}
	for d, b := range s.complete {
		if len(s.pins[d]) == 0 && (whole == nil || b.used.Before(whole.used)) {
			victim, whole = d, b
		}
	}
	if whole != nil {
		delete(s.complete, victim)
		s.busy[victim] = whole.Ref.Size
	}
	return victim, whole, nil
}
