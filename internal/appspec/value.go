package appspec

import (
	"encoding/json"
	"math"
	"math/big"
	"strconv"
)

// kind is what a value is to the agent, whose YAML library makes Ruby objects of the nodes of a file.
type kind uint8

const (
	kindNil kind = iota
	kindBool
	kindInt
	kindFloat
	kindString
	kindSymbol
	kindList
	kindMap
)

// value is one node of the file as the agent sees it. Values are shared where the file uses aliases, so they are never changed once
// they are read. A nil *value is an absent one and answers like kindNil.
type value struct {
	kind    kind
	truth   bool     // kindBool
	integer *big.Int // kindInt
	float   float64  // kindFloat
	text    string   // kindString, kindSymbol
	list    []*value // kindList
	entries []entry  // kindMap, in the order in which the keys first appeared
	at      Position
	source  string // the spelling of a plain scalar; empty for all others
	weight  int    // size of the value with all its aliases expanded: one a node and one a byte of text
}

// entry is one key of a mapping with the value that counts, which is the last one given.
type entry struct {
	key, val *value
}

// isNil says whether the value is absent or null.
func (v *value) isNil() bool { return v == nil || v.kind == kindNil }

// isTrue is truth as Ruby has it: everything but null and false.
func (v *value) isTrue() bool { return !v.isNil() && (v.kind != kindBool || v.truth) }

// isText says whether the value is a string equal to text.
func (v *value) isText(text string) bool {
	return v != nil && v.kind == kindString && v.text == text
}

// place is where the value stands; fallback where it stands nowhere.
func (v *value) place(fallback Position) Position {
	if v == nil || v.at == (Position{}) {
		return fallback
	}
	return v.at
}

// get finds the value of a string key; nil for another kind of value or without such a key.
func (v *value) get(key string) *value {
	if v == nil || v.kind != kindMap {
		return nil
	}
	for _, e := range v.entries {
		if e.key.isText(key) {
			return e.val
		}
	}
	return nil
}

// identity tells keys apart as a Ruby hash does: 1, 1.0, "1" and :"1" are four keys.
func (v *value) identity() string {
	switch v.kind {
	case kindFloat:
		return "f" + strconv.FormatUint(math.Float64bits(v.float), 16)
	case kindString:
		return "s" + v.text
	case kindSymbol:
		return "y" + v.text
	}
	return "o" + inspect(v)
}

// MarshalJSON gives the value as the agent would hand it on: symbols as strings, keys by their text. Infinities and not-a-number, which
// JSON lacks, become strings.
func (v *value) MarshalJSON() ([]byte, error) {
	return json.Marshal(v.plain())
}

// plain converts to what encoding/json knows.
func (v *value) plain() any {
	if v == nil {
		return nil
	}
	switch v.kind {
	case kindBool:
		return v.truth
	case kindInt:
		return v.integer
	case kindFloat:
		if math.IsInf(v.float, 0) || math.IsNaN(v.float) {
			return rubyFloatText(v.float)
		}
		return v.float
	case kindString, kindSymbol:
		return v.text
	case kindList:
		list := make([]any, 0, len(v.list))
		for _, item := range v.list {
			list = append(list, item.plain())
		}
		return list
	case kindMap:
		m := make(map[string]any, len(v.entries))
		for _, e := range v.entries {
			m[rubyText(e.key)] = e.val.plain()
		}
		return m
	}
	return nil
}
