//go:build race

package plan

// raceEnabled says that everything is ten times slower.
const raceEnabled = true
