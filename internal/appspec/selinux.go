package appspec

import (
	"strconv"
	"strings"
)

// categoryCount is the number of SELinux categories: c0 to c1023.
const categoryCount = 1024

// Range is an SELinux level range: sN[-sN][:cN[.cN][,cN...]].
type Range struct {
	Low, High     string // sensitivities, decimal digits without leading zeros
	Categories    []int  // sorted, each once, 0 to 1023
	HasCategories bool   // a colon was written, be it without a category behind it
}

// String gives the range as semanage takes it, with runs of categories merged.
func (r Range) String() string {
	text := "s" + r.Low
	if r.High != r.Low {
		text += "-s" + r.High
	}
	if !r.HasCategories {
		return text
	}
	var runs []string
	for i := 0; i < len(r.Categories); {
		last := i
		for last+1 < len(r.Categories) && r.Categories[last+1] == r.Categories[last]+1 {
			last++
		}
		run := "c" + strconv.Itoa(r.Categories[i])
		if last > i {
			run += ".c" + strconv.Itoa(r.Categories[last])
		}
		runs = append(runs, run)
		i = last + 1
	}
	return text + ":" + strings.Join(runs, ",")
}

// ParseRange reads a range. Errors are the agent's.
func ParseRange(text string) (Range, error) {
	var r Range
	levels, categories, err := halves(text, ":")
	if err != nil {
		return r, err
	}
	low, high, err := halves(levels, "-")
	if err != nil {
		return r, err
	}
	if r.Low, err = sensitivity(low); err != nil {
		return r, err
	}
	r.High = r.Low
	if high != "" {
		if r.High, err = sensitivity(high); err != nil {
			return r, err
		}
		if len(r.High) < len(r.Low) || len(r.High) == len(r.Low) && r.High < r.Low {
			return r, refuse("The deployment failed because of a problem with the SELinux range specified (%s) for the context parameter in the permissions section of the application specification file. Make corrections in the permissions section of the AppSpec file, and then try again.", clip(text))
		}
	}
	if categories == "" {
		return r, nil
	}
	r.HasCategories = true
	r.Categories, err = parseCategories(categories)
	return r, err
}

// halves splits text at the first separator, if there is one; neither part may be empty then. second is empty without a separator.
func halves(text, separator string) (first, second string, err error) {
	first, second, found := strings.Cut(text, separator)
	if first == "" || found && second == "" {
		return "", "", refuse("invalid range part %s", clip(text))
	}
	return first, second, nil
}

// sensitivity reads sN and returns N without leading zeros.
func sensitivity(text string) (string, error) {
	digits, found := strings.CutPrefix(text, "s")
	if !found || !allDigits(digits) {
		return "", refuse("invalid sensitivity %s", clip(text))
	}
	digits = strings.TrimLeft(digits, "0")
	if digits == "" {
		return "0", nil
	}
	return digits, nil
}

// parseCategories reads a list of categories and runs of categories. Empty elements at the end are dropped.
func parseCategories(text string) ([]int, error) {
	var present [categoryCount]bool
	twice := false
	for _, part := range strings.Split(strings.TrimRight(text, ","), ",") {
		if strings.TrimRight(text, ",") == "" {
			break
		}
		low, high, err := categoryRun(part)
		if err != nil {
			return nil, err
		}
		for n := low; n <= high; n++ {
			twice = twice || present[n]
			present[n] = true
		}
	}
	if twice {
		return nil, refuse("duplicate categories")
	}
	var categories []int
	for n, there := range present {
		if there {
			categories = append(categories, n)
		}
	}
	return categories, nil
}

// categoryRun reads cN or cN.cM.
func categoryRun(part string) (low, high int, err error) {
	if !strings.Contains(part, ".") {
		low, err = category(part)
		return low, low, err
	}
	first, last, err := halves(part, ".")
	if err != nil {
		return 0, 0, err
	}
	if low, err = category(first); err != nil {
		return 0, 0, err
	}
	if high, err = category(last); err != nil {
		return 0, 0, err
	}
	if high < low {
		return 0, 0, refuse("invalid category range %s.%s", first, last)
	}
	return low, high, nil
}

// category reads cN.
func category(text string) (int, error) {
	digits, found := strings.CutPrefix(text, "c")
	n, err := strconv.Atoi(digits)
	if !found || !allDigits(digits) || err != nil || n >= categoryCount {
		return 0, refuse("invalid category %s", clip(text))
	}
	return n, nil
}

func allDigits(text string) bool {
	for i := 0; i < len(text); i++ {
		if text[i] < '0' || text[i] > '9' {
			return false
		}
	}
	return text != ""
}
