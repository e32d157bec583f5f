//go:build !race

package configrepo

const raceDetector = false
