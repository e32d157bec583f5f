// Command gitopsd deploys what a signed git commit says to a fleet of Linux hosts. One file holds one verb.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// Exit codes of every verb.
const (
	codeError       = 1
	codeUsage       = 2
	codeChanges     = 3
	codeFailed      = 4
	codeRolledBack  = 5
	codeStopped     = 6
	codeTimeout     = 7
	codeNoQuorum    = 8
	codeUnreachable = 9
	codeInvalid     = 10
	codeRefused     = 11
)

// exitError carries the exit code a verb ends with. A nil err ends silently: the verb has already said why.
type exitError struct {
	code int
	err  error
}

func (e exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.code)
	}
	return e.err.Error()
}

func (e exitError) Unwrap() error { return e.err }

func main() {
	os.Exit(run(os.Args[1:]))
}

// run executes one verb and returns the exit code. Verbs that the program starts of itself (hook supervisor, fetch child, signing helper) come first: they
// must start fast and take no flags of ours.
func run(args []string) int {
	if code, handled := hiddenVerb(args); handled {
		return code
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := newRoot()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	var coded exitError
	if errors.As(err, &coded) {
		if coded.err != nil {
			fmt.Fprintln(os.Stderr, "gitopsd:", coded.err)
		}
		return coded.code
	}
	fmt.Fprintln(os.Stderr, "gitopsd:", err)
	return codeError
}
