package desired

import (
	"errors"
	"io/fs"

	"github.com/gitopsd/gitopsd/internal/desired/strict"
)

// Bad returns the problems that are not warnings.
func Bad(problems []Problem) []Problem { return strict.Bad(problems) }

// Load reads a commit's tree. The State holds everything that is right; the problems, sorted by file and line, say what is not. tree must answer
// fs.ReadDir with sorted names, show a symbolic link as fs.ModeSymlink and a gitlink as fs.ModeIrregular, and keep its files readable for as long as
// OverlayFile.Open may be called.
func Load(tree fs.FS) (*State, []Problem) {
	return &State{}, []Problem{{File: ".", Message: errors.ErrUnsupported.Error()}}
}
