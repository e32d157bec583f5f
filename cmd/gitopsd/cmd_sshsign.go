package main

import (
	"os"

	"github.com/gitopsd/gitopsd/internal/configrepo/sign"
)

// sshSignMain is the body of the hidden verb `sshsign`: what git calls as
// gpg.ssh.program on machines without ssh-keygen. args are ssh-keygen's. It
// returns the exit code.
func sshSignMain(args []string) int {
	return sign.Keygen(args, os.Stdin, os.Stdout, os.Stderr)
}
