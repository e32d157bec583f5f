package appspec

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Mode is what a permission sets: three or four octal digits as text, as they stand after the agent's padding ("7" becomes "007").
// The empty Mode means that the mode is not changed.
type Mode string

// Bits returns the mode as a number, with setuid, setgid and sticky in the bits 04000, 02000 and 01000; 0 for an empty or bad Mode.
func (m Mode) Bits() uint32 {
	n, err := strconv.ParseUint(string(m), 8, 12)
	if err != nil {
		return 0
	}
	return uint32(n)
}

// ParseMode pads text with zeros to three digits and checks it. The error is the agent's.
func ParseMode(text string) (Mode, error) {
	if n := utf8.RuneCountInString(text); n < 3 {
		text = strings.Repeat("0", 3-n) + text
	} else if n > 4 {
		return "", refuse("The deployment failed because the length of a permissions mode (%s) in the application specification file is invalid. Permissions modes must be between one and four characters long. Update the permissions section of the AppSpec file, and then try again.", clip(text))
	}
	for _, r := range text {
		if r < '0' || r > '7' {
			return "", refuse("The deployment failed because the permissions mode (%s) in the application specification file contains an invalid character (%c). Update the permissions section of the AppSpec file, and then try again.", text, r)
		}
	}
	return Mode(text), nil
}

// mode judges the mode of a permission, which YAML may have turned into another number than the one that was written.
func (c *checker) mode(v *value) Mode {
	if v.isNil() {
		return ""
	}
	m, err := ParseMode(rubyText(v))
	rewritten := v.kind == kindInt && v.source != "" && v.source != rubyText(v)
	digits := strings.TrimLeft(v.source, "0")
	if err != nil {
		hint := ""
		if rewritten {
			hint = fmt.Sprintf("YAML reads %s as the number %s: write '%s' in quotes", clip(v.source), shown(v), clip(v.source))
		}
		c.fail(v.at, hint, "%s", err)
		return ""
	}
	if rewritten {
		c.warn(v.at, WarnOctalMode, "YAML reads the unquoted mode %s as the number %s, so that the mode set is %s; write %s without the zero, or '%s' in quotes", clip(v.source), shown(v), m, clip(digits), clip(v.source))
	}
	return m
}
