package appspec

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"math/big"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

// How Ruby's Psych 4 tells plain scalars apart. The patterns are tried in the order in which they stand here; a scalar that none of them
// matches is a string. Only the first is used on scalars with line breaks.
var (
	scalarText    = regexp.MustCompile(`^[^\d.:\-]?[\p{L}\p{M}\p{Nl}_\s\v!@#$%^&*(){}<>|/\\~;=]`)
	scalarLong    = regexp.MustCompile(`(?im)^[^ytonf~]`)
	scalarNull    = regexp.MustCompile(`(?im)^null$`)
	scalarYes     = regexp.MustCompile(`(?im)^(?:yes|true|on)$`)
	scalarNo      = regexp.MustCompile(`(?im)^(?:no|false|off)$`)
	scalarTime    = regexp.MustCompile(`^-?\d{4}-\d{1,2}-\d{1,2}(?:[Tt]|[\s\v]+)\d{1,2}:\d\d:\d\d(?:\.\d*)?(?:[\s\v]*(?:Z|[-+]\d{1,2}:?(?:\d\d)?))?$`)
	scalarDate    = regexp.MustCompile(`^\d{4}-(?:1[012]|0\d|\d)-(?:[12]\d|3[01]|0\d|\d)$`)
	scalarInf     = regexp.MustCompile(`(?i)^([-+]?)\.inf$`)
	scalarNaN     = regexp.MustCompile(`(?i)^\.nan$`)
	scalarBase60  = regexp.MustCompile(`^[-+]?[0-9][0-9_]*(?::[0-5]?[0-9]){1,2}$`)
	scalarFloat60 = regexp.MustCompile(`^[-+]?[0-9][0-9_]*(?::[0-5]?[0-9]){1,2}\.[0-9_]*$`)
	scalarFloat   = regexp.MustCompile(`^[-+]?(?:[0-9][0-9_,]*)?\.[0-9]*(?:[eE][-+][0-9]+)?$`)
	scalarBinary  = regexp.MustCompile(`^[-+]?0b[01_,]+$`)
	scalarOctal   = regexp.MustCompile(`^[-+]?0[0-7_,]+$`)
	scalarDecimal = regexp.MustCompile(`^[-+]?(?:0|[1-9](?:[0-9]|,[0-9]|_[0-9])*)$`)
	scalarHex     = regexp.MustCompile(`^[-+]?0x[0-9a-fA-F_,]+$`)
	strictFloat   = regexp.MustCompile(`^[-+]?(?:[0-9](?:_?[0-9])*)?(?:\.[0-9](?:_?[0-9])*)?(?:[eE][-+]?[0-9](?:_?[0-9])*)?$`)
)

var errDate = errors.New("dates and times are not allowed in an AppSpec file: put the value in quotes")

// scalar resolves a scalar of the file. tag is the explicit tag in its long form, empty for none; quoted is set for scalars in quotes and
// for block scalars, unless they carry a tag.
func scalar(text, tag string, quoted bool) (*value, error) {
	if tag == "" {
		if quoted {
			return stringValue(text), nil
		}
		return resolvePlain(text)
	}
	switch {
	case tag == "!binary" || tag == yamlTag+"binary":
		return stringValue(decodeBase64(text)), nil
	case tag == yamlTag+"str" || rubyString(tag, &tag):
		if tag != yamlTag+"str" && tag != "" {
			return nil, errClass(tag)
		}
		return stringValue(text), nil
	case tag == "!float" || tag == yamlTag+"float":
		return taggedFloat(text)
	case tag == "!ruby/class" || tag == "!ruby/module":
		if text == "" {
			return &value{}, nil
		}
		return nil, errClass(text)
	case strings.HasPrefix(tag, "!ruby/sym"):
		return &value{kind: kindSymbol, text: text}, nil
	}
	switch tag {
	case "!ruby/object:BigDecimal", "!ruby/object:DateTime", "!ruby/object:Complex", "!ruby/object:Rational", "!ruby/encoding", "!ruby/regexp", "!ruby/range":
		return nil, errClass(strings.TrimPrefix(strings.TrimPrefix(tag, "!ruby/"), "object:"))
	}
	return resolvePlain(text)
}

// yamlTag is what the shorthand !! stands for.
const yamlTag = "tag:yaml.org,2002:"

// errClass refuses a tag that asks for an object of Ruby.
func errClass(class string) error {
	return fmt.Errorf("tried to load unspecified class: %s", class)
}

// rubyString says whether tag names a string, and stores the class it asks for, which is empty for an ordinary one.
func rubyString(tag string, class *string) bool {
	for _, prefix := range []string{"!str", "!ruby/string"} {
		rest, found := strings.CutPrefix(tag, prefix)
		if found && (rest == "" || rest[0] == ':') {
			*class = strings.TrimPrefix(rest, ":")
			return true
		}
	}
	return false
}

func stringValue(text string) *value { return &value{kind: kindString, text: text} }

// resolvePlain gives a plain scalar its type.
func resolvePlain(text string) (*value, error) {
	switch {
	case text == "":
		return &value{}, nil
	case scalarText.MatchString(text) || strings.Contains(text, "\n"):
		return resolveWord(text), nil
	case scalarTime.MatchString(text) || scalarDate.MatchString(text):
		return nil, errDate
	case scalarInf.MatchString(text):
		return &value{kind: kindFloat, float: math.Inf(1 - 2*strings.Count(text, "-"))}, nil
	case scalarNaN.MatchString(text):
		return &value{kind: kindFloat, float: math.NaN()}, nil
	case len(text) > 1 && text[0] == ':':
		return &value{kind: kindSymbol, text: symbolName(text)}, nil
	case scalarBase60.MatchString(text):
		return base60(text), nil
	case scalarFloat60.MatchString(text):
		return floatBase60(text), nil
	case scalarFloat.MatchString(text):
		return plainFloat(text)
	case scalarBinary.MatchString(text):
		return plainInt(text, 2)
	case scalarOctal.MatchString(text):
		return plainInt(text, 8)
	case scalarDecimal.MatchString(text):
		return plainInt(text, 10)
	case scalarHex.MatchString(text):
		return plainInt(text, 16)
	}
	return stringValue(text), nil
}

// resolveWord tells null and booleans from other words. The patterns look at each line of text, as Ruby's do.
func resolveWord(text string) *value {
	switch {
	case utf8.RuneCountInString(text) > 5, scalarLong.MatchString(text):
		return stringValue(text)
	case text == "~" || scalarNull.MatchString(text):
		return &value{}
	case scalarYes.MatchString(text):
		return &value{kind: kindBool, truth: true}
	case scalarNo.MatchString(text):
		return &value{kind: kindBool}
	}
	return stringValue(text)
}

// symbolName is the name in :name, :"name" or :'name'; what follows the closing quote is dropped.
func symbolName(text string) string {
	if quote := text[1]; quote == '"' || quote == '\'' {
		if end := strings.LastIndexByte(text, quote); end > 1 {
			return strings.TrimPrefix(text[2:end], ":")
		}
	}
	return text[1:]
}

// base60 reads 1:30 as Psych does: the first part counts 3600, the second 60, the third 1, however many there are.
func base60(text string) *value {
	sum := new(big.Int)
	for i, part := range strings.Split(text, ":") {
		n := rubyInt(part)
		sum.Add(sum, n.Mul(n, big.NewInt(place60(i))))
	}
	return &value{kind: kindInt, integer: sum}
}

func place60(i int) int64 { return []int64{3600, 60, 1}[i] }

func floatBase60(text string) *value {
	sum := 0.0
	for i, part := range strings.Split(text, ":") {
		sum += leadingFloat(part) * float64(place60(i))
	}
	return &value{kind: kindFloat, float: sum}
}

// leadingFloat is String#to_f for digits, single underscores between them, and one point with digits on both sides.
func leadingFloat(text string) float64 {
	end := 0
	for i := 0; i < len(text); i++ {
		digit := text[i] >= '0' && text[i] <= '9'
		if digit {
			end = i + 1
			continue
		}
		sign := i == 0 && (text[i] == '-' || text[i] == '+')
		inner := i > 0 && text[i-1] >= '0' && text[i-1] <= '9' && (text[i] == '_' || text[i] == '.')
		if !sign && !inner {
			break
		}
	}
	f, _ := strconv.ParseFloat(strings.ReplaceAll(text[:end], "_", ""), 64)
	return f
}

// plainFloat reads what scalarFloat matched.
func plainFloat(text string) (*value, error) {
	if strings.TrimLeft(text, "-+") == "." {
		return stringValue(text), nil
	}
	digits := strings.NewReplacer(",", "", "_", "", ".e", "e", ".E", "E").Replace(text)
	digits = strings.TrimSuffix(digits, ".")
	f, ok := parseFloat(digits)
	if !ok {
		return nil, fmt.Errorf("invalid value for Float(): %q", digits)
	}
	return &value{kind: kindFloat, float: f}, nil
}

// parseFloat is Ruby's strict Float() for decimal digits; numbers beyond the range are infinite.
func parseFloat(text string) (float64, bool) {
	if !strictFloat.MatchString(text) || !strings.ContainsAny(text, "0123456789") || strings.ContainsAny(text[:1]+strings.TrimLeft(text, "-+")[:1], "eE") {
		return 0, false
	}
	f, err := strconv.ParseFloat(strings.ReplaceAll(text, "_", ""), 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return 0, false
	}
	return f, true
}

// plainInt reads what one of the integer patterns matched.
func plainInt(text string, base int) (*value, error) {
	digits := strings.NewReplacer(",", "", "_", "").Replace(text)
	negative := strings.HasPrefix(digits, "-")
	digits = strings.TrimLeft(digits, "-+")
	if base == 2 || base == 16 {
		digits = digits[2:]
	}
	if len(digits) > maxDigits {
		return nil, fmt.Errorf("the number has more than %d digits", maxDigits)
	}
	n, ok := new(big.Int).SetString(digits, base)
	if !ok {
		return nil, fmt.Errorf("invalid value for Integer(): %q", text)
	}
	if negative {
		n.Neg(n)
	}
	return &value{kind: kindInt, integer: n}, nil
}

// taggedFloat reads a scalar tagged !!float: any number, also one that would be a string without the tag.
func taggedFloat(text string) (*value, error) {
	v, err := resolvePlain(text)
	if err != nil {
		return nil, err
	}
	switch v.kind {
	case kindFloat:
		return v, nil
	case kindInt:
		f, _ := new(big.Float).SetInt(v.integer).Float64()
		return &value{kind: kindFloat, float: f}, nil
	case kindString:
		if f, ok := parseFloat(rubyStrip(v.text)); ok {
			return &value{kind: kindFloat, float: f}, nil
		}
	}
	return nil, fmt.Errorf("invalid value for Float(): %s", inspect(v))
}

// decodeBase64 is Ruby's lenient unpack("m"): characters outside the alphabet are skipped, and it ends at the padding.
func decodeBase64(text string) string {
	var digits []byte
	for i := 0; i < len(text) && text[i] != '='; i++ {
		c := text[i]
		if c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '+' || c == '/' {
			digits = append(digits, c)
		}
	}
	if len(digits)%4 == 1 {
		digits = digits[:len(digits)-1]
	}
	out, _ := base64.RawStdEncoding.DecodeString(string(digits)) // nothing outside the alphabet is left, so it cannot fail
	return string(out)
}
