package strict

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// Rule narrows what a text may be. Test returns what is wrong (a clause that begins with the quoted value) and what to do, or "".
type Rule struct {
	Test   func(text string) (message, suggestion string)
	Schema map[string]any // the same in JSON Schema, as far as that can say it
}

func (r Rule) test(text string) (string, string) {
	if r.Test == nil {
		return "", ""
	}
	return r.Test(text)
}

// MaxText is the longest text a value may be unless its rule says less, in bytes.
const MaxText = 4096

// Text allows 1 to max bytes without control characters.
func Text(max int) Rule {
	return Rule{func(s string) (string, string) {
		switch {
		case s == "":
			return "is empty", ""
		case len(s) > max:
			return fmt.Sprintf("%s is longer than %d bytes", quote(s), max), ""
		case strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r == utf8.RuneError }):
			return quote(s) + " holds control characters", ""
		}
		return "", ""
	}, map[string]any{"minLength": 1, "maxLength": max}}
}

// Pattern is an anchored regular expression (RE2) and how many bytes a text has at least and at most. A long repeat that counts would take a millisecond of each
// start of the program, a hook's supervisor's too.
type Pattern struct {
	form        *regexp.Regexp
	least, most int
}

// NewPattern makes a pattern; it panics if text is no regular expression.
func NewPattern(text string, least, most int) *Pattern {
	return &Pattern{regexp.MustCompile(text), least, most}
}

// MatchString tells whether a text matches.
func (p *Pattern) MatchString(s string) bool {
	return len(s) >= p.least && len(s) <= p.most && p.form.MatchString(s)
}

// Match allows texts that match the pattern; what says in words what is wanted.
func Match(pattern *Pattern, what string) Rule {
	return Rule{func(s string) (string, string) {
		if !pattern.MatchString(s) {
			return fmt.Sprintf("%s is not %s", quote(s), what), ""
		}
		return "", ""
	}, map[string]any{"pattern": pattern.form.String(), "minLength": pattern.least, "maxLength": pattern.most}}
}

// OneOf allows exactly these texts.
func OneOf(values ...string) Rule {
	return Rule{func(s string) (string, string) {
		if slices.Contains(values, s) {
			return "", ""
		}
		return fmt.Sprintf("%s is not one of %s", quote(s), oneOf(values)), nearest(s, values)
	}, map[string]any{"enum": values}}
}

// nearest suggests a value only when one is near; the message has already listed them all.
func nearest(s string, values []string) string {
	if best := Nearest(s, values); best != "" {
		return "did you mean " + best + "?"
	}
	return ""
}

// All demands every rule.
func All(rules ...Rule) Rule {
	schema := map[string]any{}
	for _, r := range rules {
		for k, v := range r.Schema {
			schema[k] = v
		}
	}
	return Rule{func(s string) (string, string) {
		for _, r := range rules {
			if message, suggestion := r.test(s); message != "" {
				return message, suggestion
			}
		}
		return "", ""
	}, schema}
}

type scalar struct {
	what string
	hint string
	set  func(text string) (message, suggestion string)
	json map[string]any
	// kinds are the YAML types taken as they were written; nil takes any text
	kinds []string
}

func (s scalar) decode(d *decoder, n *yaml.Node, path string) {
	d.note(n, path)
	tag := n.ShortTag()
	if n.Kind != yaml.ScalarNode || tag == "!!null" || s.kinds != nil && !slices.Contains(s.kinds, tag) {
		hint := s.hint
		if tag == "!!null" && s.kinds == nil {
			hint = `write "" for an empty text, or leave the key out`
		}
		if s.kinds != nil && tag == "!!str" && n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0 {
			hint = "remove the quotes"
		}
		d.want(n, path, s.what, hint)
		return
	}
	if message, suggestion := s.set(n.Value); message != "" {
		d.add(n, suggestion, "%s%s", prefix(path), message)
	}
}

func (s scalar) schema() map[string]any {
	out := map[string]any{}
	for k, v := range s.json {
		out[k] = v
	}
	return out
}

// String is a text. Numbers and true or false are taken as they were written: 1.10 stays "1.10".
func String(into *string, rules ...Rule) Type {
	rule := All(rules...)
	schema := map[string]any{"type": []string{"string", "number", "boolean"}}
	if rule.Schema["enum"] != nil || rule.Schema["pattern"] != nil {
		schema["type"] = "string"
	}
	for k, v := range rule.Schema {
		schema[k] = v
	}
	return scalar{what: "text", set: func(text string) (string, string) {
		if len(text) > MaxText {
			return fmt.Sprintf("%s is longer than %d bytes", quote(text), MaxText), ""
		}
		*into = text
		return rule.test(text)
	}, json: schema}
}

// Enum is one of a few texts in their exact spelling.
func Enum(into *string, values ...string) Type { return String(into, OneOf(values...)) }

// EnumFold is one of a few texts in any case; *into gets the spelling of values.
func EnumFold(into *string, values ...string) Type {
	spellings := strings.Builder{}
	for i, v := range values {
		if i > 0 {
			spellings.WriteByte('|')
		}
		for _, r := range v {
			fmt.Fprintf(&spellings, "[%c%c]", toUpper(r), toLower(r))
		}
	}
	return scalar{what: oneOf(values), set: func(text string) (string, string) {
		for _, v := range values {
			if strings.EqualFold(v, text) {
				*into = v
				return "", ""
			}
		}
		return OneOf(values...).test(text)
	}, json: map[string]any{"type": "string", "pattern": "^(" + spellings.String() + ")$"}}
}

func toUpper(r rune) rune { return []rune(strings.ToUpper(string(r)))[0] }
func toLower(r rune) rune { return []rune(strings.ToLower(string(r)))[0] }

// Bool is true or false, and nothing else.
func Bool(into *bool) Type {
	return scalar{what: "true or false", hint: "write true or false", set: func(text string) (string, string) {
		if text != "true" && text != "false" {
			return fmt.Sprintf("want true or false, got %s", quote(text)), "write true or false"
		}
		*into = text == "true"
		return "", ""
	}, json: map[string]any{"type": "boolean"}, kinds: []string{"!!bool"}}
}

var decimal = regexp.MustCompile(`^(0|-?[1-9][0-9]{0,18})$`)

// Int is a whole decimal number from min to max.
func Int[T int | int64 | uint64](into *T, min, max int64) Type {
	return scalar{what: "a whole number", set: func(text string) (string, string) {
		v, err := strconv.ParseInt(text, 10, 64)
		if err != nil || !decimal.MatchString(text) {
			return "want a whole number, got " + quote(text), "write it in decimal digits"
		}
		if v < min || v > max {
			return fmt.Sprintf("%d is not between %d and %d", v, min, max), ""
		}
		*into = T(v)
		return "", ""
	}, json: map[string]any{"type": "integer", "minimum": min, "maximum": max}, kinds: []string{"!!int"}}
}

// Duration is a time span: 10s, 5m, 2h, 1h30m, 500ms. A bare 0 is allowed where min is 0.
func Duration(into *time.Duration, min, max time.Duration) Type {
	return scalar{what: "a duration", hint: "for example 10s, 5m or 2h", set: func(text string) (string, string) {
		v, err := ParseDuration(text)
		if err != nil {
			return err.Error(), durationHint(text)
		}
		if v < min || v > max {
			return fmt.Sprintf("%s is not between %s and %s", text, FormatDuration(min), FormatDuration(max)), ""
		}
		*into = v
		return "", ""
	}, json: map[string]any{"type": []string{"string", "integer"}, "pattern": durationPattern}}
}

// durationHint says how a duration is written; what is only a number lacks its unit.
func durationHint(text string) string {
	if _, err := strconv.ParseUint(text, 10, 32); err == nil {
		return "write " + text + "s"
	}
	return "for example 10s, 5m or 2h"
}

// Size is a number of bytes: 64MiB, 1GiB, or plain bytes.
func Size(into *int64, max int64) Type {
	return scalar{what: "a size", hint: "for example 64MiB", set: func(text string) (string, string) {
		v, err := ParseSize(text)
		if err != nil {
			return err.Error(), "for example 64MiB"
		}
		if v > max {
			return fmt.Sprintf("%s is more than %d bytes", text, max), ""
		}
		*into = v
		return "", ""
	}, json: map[string]any{"type": []string{"string", "integer"}, "pattern": sizePattern}}
}

// Rate is bytes in a second: 10MiB/s, or 0 for no limit.
func Rate(into *int64) Type {
	return scalar{what: "a rate", hint: "for example 10MiB/s", set: func(text string) (string, string) {
		v, err := ParseRate(text)
		if err != nil {
			return err.Error(), "for example 10MiB/s"
		}
		*into = v
		return "", ""
	}, json: map[string]any{"type": []string{"string", "integer"}, "pattern": ratePattern}}
}

// Percent is a share from 0% to 100%.
func Percent(into *int) Type {
	return scalar{what: "a percentage", hint: "for example 20%", set: func(text string) (string, string) {
		v, err := ParsePercent(text)
		if err != nil {
			return err.Error(), "for example 20%"
		}
		*into = v
		return "", ""
	}, json: map[string]any{"type": "string", "pattern": percentPattern}}
}

// Parsed is a text that parse turns into a value of its own.
func Parsed[T any](into *T, what, hint string, schema map[string]any, parse func(string) (T, error)) Type {
	return scalar{what: what, hint: hint, set: func(text string) (string, string) {
		if len(text) > MaxText {
			return fmt.Sprintf("%s is longer than %d bytes", quote(text), MaxText), ""
		}
		v, err := parse(text)
		if err != nil {
			return err.Error(), hint
		}
		*into = v
		return "", ""
	}, json: schema}
}

// oneOf joins values for a sentence.
func oneOf(values []string) string { return strings.Join(values, ", ") }

func fold(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '-' || r == '_' {
			return -1
		}
		return unicode.ToLower(r)
	}, s)
}

// edits counts the letters to change, add, drop or swap with the next one between two short texts; texts over 64 bytes are as far apart as they are long.
func edits(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return max(len(a), len(b))
	}
	var space [3][65]int
	twoBefore, before, row := &space[0], &space[1], &space[2]
	for j := range len(b) + 1 {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		twoBefore, before, row = before, row, twoBefore
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(before[j]+1, row[j-1]+1, before[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], twoBefore[j-2]+1)
			}
		}
	}
	return row[len(b)]
}
