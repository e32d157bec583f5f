package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"github.com/gitopsd/gitopsd/internal/configrepo"
	"github.com/gitopsd/gitopsd/internal/durable"
)

// ConfigError is the error of New and Run where starting anew helps only once a person has corrected gitopsd.yaml or allowed_signers.
type ConfigError struct{ err error }

func (e *ConfigError) Error() string { return e.err.Error() }

// Unwrap gives what is wrong.
func (e *ConfigError) Unwrap() error { return e.err }

// lockError says why the data directory cannot be had.
func lockError(dir string, err error) error {
	switch {
	case errors.Is(err, durable.ErrLocked):
		return fmt.Errorf("cannot start: another agent uses %s: %w", dir, err)
	case errors.Is(err, fs.ErrPermission):
		return deniedError(dir, err)
	}
	return fmt.Errorf("cannot start: %w", err)
}

// deniedError says what to do about a data directory that this user may not use.
func deniedError(dir string, err error) error {
	return fmt.Errorf("cannot start: this user may not use the data directory %s: %w; run the agent as root or as the user the directory belongs to, or name another dataDir", dir, err)
}

// listenError says what to do about an address that cannot be listened on; err names the address.
func listenError(err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%w; `ss -ltnp` shows which program has the port, `listen` in gitopsd.yaml chooses another", err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%w; no interface of this host has it: correct `listen` in gitopsd.yaml", err)
	}
	return err
}

// repoError says what to do about a config repository that cannot be prepared.
func repoError(allowedSigners string, err error) error {
	var options *configrepo.OptionsError
	wrong := errors.As(err, &options)
	if _, missing := os.Stat(allowedSigners); errors.Is(err, fs.ErrNotExist) && errors.Is(missing, fs.ErrNotExist) {
		err = fmt.Errorf("%w; write a line `NAME PUBLICKEY` there for who signed the introduction, or name another file in repository.allowedSigners", err)
	}
	if wrong {
		return &ConfigError{err}
	}
	return err
}
