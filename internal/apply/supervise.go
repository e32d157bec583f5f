package apply

import (
	"fmt"
	"os"
)

// SuperviseMain is the body of the hidden verb that Options.Supervisor runs:
// it runs one lifecycle event's scripts and writes down how they ended. args
// are what follows the verb. It returns the process's exit code.
func SuperviseMain(args []string) int {
	fmt.Fprintln(os.Stderr, "supervise: not built yet")
	return 1
}
