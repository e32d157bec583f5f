package strict

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// The same forms for JSON Schema.
const (
	durationPattern = `^(0|([0-9]+(ms|s|m|h))+)$`
	sizePattern     = `^[0-9]+(B|KiB|MiB|GiB|TiB)?$`
	ratePattern     = `^(0|[0-9]+(B|KiB|MiB|GiB|TiB)/s)$`
	percentPattern  = `^([0-9]|[1-9][0-9]|100)%$`
)

var (
	durationForm = regexp.MustCompile(durationPattern)
	sizeForm     = regexp.MustCompile(sizePattern)
	percentForm  = regexp.MustCompile(percentPattern)
)

// ParseDuration reads 10s, 5m, 2h, 1h30m or 500ms; a bare 0 is zero. No sign, no fraction, no day.
func ParseDuration(text string) (time.Duration, error) {
	if len(text) > 32 || !durationForm.MatchString(text) {
		return 0, fmt.Errorf("want a duration, got %s", quote(text))
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("want a duration, got %s: too long", quote(text))
	}
	return d, nil
}

// FormatDuration writes d as the files do: 10s, 5m, 2h, 1h30m.
func FormatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// ParseSize reads 64MiB, 1GiB or a plain number of bytes.
func ParseSize(text string) (int64, error) {
	if len(text) > 32 || !sizeForm.MatchString(text) {
		return 0, fmt.Errorf("want a size, got %s", quote(text))
	}
	digits := strings.TrimRight(text, "BKMGTi")
	n, err := strconv.ParseInt(digits, 10, 64)
	shift := map[string]uint{"": 0, "B": 0, "KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40}[text[len(digits):]]
	if err != nil || n > math.MaxInt64>>shift {
		return 0, fmt.Errorf("want a size, got %s: too large", quote(text))
	}
	return n << shift, nil
}

// ParseRate reads 10MiB/s as bytes in a second; 0 is no limit.
func ParseRate(text string) (int64, error) {
	if text == "0" {
		return 0, nil
	}
	size, ok := strings.CutSuffix(text, "/s")
	if !ok || !strings.HasSuffix(size, "B") {
		return 0, fmt.Errorf("want a rate, got %s", quote(text))
	}
	n, err := ParseSize(size)
	if err != nil {
		return 0, fmt.Errorf("want a rate, got %s", quote(text))
	}
	return n, nil
}

// ParsePercent reads 20% as 20.
func ParsePercent(text string) (int, error) {
	if !percentForm.MatchString(text) {
		return 0, fmt.Errorf("want a percentage, got %s", quote(text))
	}
	return strconv.Atoi(strings.TrimSuffix(text, "%"))
}
