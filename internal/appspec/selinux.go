package appspec

// Range is an SELinux level range: sN[-sN][:cN[.cN][,cN...]].
type Range struct {
	Low, High     string // sensitivities, decimal digits without leading zeros
	Categories    []int  // sorted, each once, 0 to 1023
	HasCategories bool   // a colon was written, be it without a category
}
