package appspec

import "strconv"

// Mode is what a permission sets: three or four octal digits as text, as they appear after the agent's padding ("7" becomes "007").
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
