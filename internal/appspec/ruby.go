package appspec

import (
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The agent is a Ruby program, and what it does to a value that is not of the expected type is what Ruby's to_s, to_i, strip and
// inspect do. The functions here are those, as far as values of a YAML file can reach them.

// rubyText is to_s.
func rubyText(v *value) string {
	if v.isNil() {
		return ""
	}
	if v.kind == kindString || v.kind == kindSymbol {
		return v.text
	}
	return inspect(v)
}

// inspect is how Ruby shows a value to a programmer; to_s of lists and mappings too.
func inspect(v *value) string {
	var b strings.Builder
	writeInspect(&b, v)
	return b.String()
}

func writeInspect(b *strings.Builder, v *value) {
	if v == nil {
		b.WriteString("nil")
		return
	}
	switch v.kind {
	case kindNil:
		b.WriteString("nil")
	case kindBool:
		b.WriteString(strconv.FormatBool(v.truth))
	case kindInt:
		b.WriteString(v.integer.String())
	case kindFloat:
		b.WriteString(rubyFloatText(v.float))
	case kindString:
		writeQuoted(b, v.text)
	case kindSymbol:
		b.WriteByte(':')
		if isSymbolName(v.text) {
			b.WriteString(v.text)
		} else {
			writeQuoted(b, v.text)
		}
	case kindList:
		b.WriteByte('[')
		for i, item := range v.list {
			if i > 0 {
				b.WriteString(", ")
			}
			writeInspect(b, item)
		}
		b.WriteByte(']')
	case kindMap:
		b.WriteByte('{')
		for i, e := range v.entries {
			if i > 0 {
				b.WriteString(", ")
			}
			writeInspect(b, e.key)
			b.WriteString("=>")
			writeInspect(b, e.val)
		}
		b.WriteByte('}')
	}
}

// writeQuoted writes a string literal with Ruby's escapes.
func writeQuoted(b *strings.Builder, text string) {
	const escapes = "\a\b\t\n\v\f\r\x1b\"\\"
	const letters = `abtnvfre"\`
	b.WriteByte('"')
	for next := text; next != ""; {
		r, size := utf8.DecodeRuneInString(next)
		if r == utf8.RuneError && size == 1 {
			fmt.Fprintf(b, `\x%02X`, next[0])
			next = next[1:]
			continue
		}
		next = next[size:]
		at := strings.IndexRune(escapes, r)
		switch {
		case at >= 0:
			b.WriteByte('\\')
			b.WriteByte(letters[at])
		case r == '#' && next != "" && strings.ContainsRune("{$@", rune(next[0])):
			b.WriteString(`\#`)
		case r == 0x7f:
			b.WriteString(`\x7F`)
		case unicode.IsGraphic(r), unicode.Is(unicode.Cf, r), unicode.Is(unicode.Co, r):
			b.WriteRune(r)
		case r > 0xffff:
			b.WriteString(`\u{` + strings.ToUpper(strconv.FormatInt(int64(r), 16)) + "}")
		default:
			digits := strings.ToUpper(strconv.FormatInt(int64(r), 16))
			b.WriteString(`\u` + strings.Repeat("0", 4-len(digits)) + digits)
		}
	}
	b.WriteByte('"')
}

// isSymbolName says whether Ruby shows a symbol without quotes.
func isSymbolName(text string) bool {
	name := strings.TrimSuffix(strings.TrimSuffix(text, "?"), "!")
	if name == "" || name[0] >= '0' && name[0] <= '9' {
		return false
	}
	for _, r := range name {
		if r != '_' && r < utf8.RuneSelf && !unicode.IsLetter(r) && !unicode.IsDigit(r) {
			return false
		}
	}
	return true
}

// rubyFloatText is Float#to_s: the shortest digits that read back, with an exponent below 1e-4 and from 1e16 on.
func rubyFloatText(f float64) string {
	switch {
	case math.IsNaN(f):
		return "NaN"
	case math.IsInf(f, 1):
		return "Infinity"
	case math.IsInf(f, -1):
		return "-Infinity"
	}
	abs := math.Abs(f)
	if abs != 0 && (abs < 1e-4 || abs >= 1e16) {
		mantissa, exponent, _ := strings.Cut(strconv.FormatFloat(f, 'e', -1, 64), "e")
		if !strings.Contains(mantissa, ".") {
			mantissa += ".0"
		}
		return mantissa + "e" + exponent
	}
	text := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(text, ".") {
		text += ".0"
	}
	return text
}

// rubyStrip removes what String#strip removes: blanks, tabs, all line breaks and NUL at both ends.
func rubyStrip(text string) string { return strings.Trim(text, "\x00\t\n\v\f\r ") }

// rubyInt is String#to_i: the integer at the start of text, in which single underscores may stand between digits; else zero.
func rubyInt(text string) *big.Int {
	text = strings.TrimLeft(text, "\t\n\v\f\r ")
	negative := strings.HasPrefix(text, "-")
	if negative || strings.HasPrefix(text, "+") {
		text = text[1:]
	}
	if len(text) > 1 && text[0] == '0' && (text[1] == 'd' || text[1] == 'D') { // the one radix prefix that base 10 allows
		text = text[2:]
	}
	var digits []byte
	for i := 0; i < len(text); i++ {
		if text[i] == '_' && i > 0 && text[i-1] != '_' {
			continue
		}
		if text[i] < '0' || text[i] > '9' {
			break
		}
		if len(digits) < maxDigits { // enough to tell that no timeout is that long
			digits = append(digits, text[i])
		}
	}
	n := new(big.Int)
	n.SetString(string(digits), 10) // fails on no digits at all, which leaves zero
	if negative {
		n.Neg(n)
	}
	return n
}
