package appspec

import (
	"fmt"
	"strings"
)

// Problem is one reason why an appspec.yml is refused.
type Problem struct {
	Position
	Message string // the agent's own words where it has some
	Hint    string // what to do, where the message does not say it; may be empty
}

// Warning is something the agent lets pass in silence although it rarely does what its author meant.
type Warning struct {
	Position
	Code    WarningCode
	Message string
}

// WarningCode names a kind of warning for programs.
type WarningCode string

// The kinds of warning.
const (
	WarnUnknownKey     WarningCode = "unknown-key"
	WarnUnknownHook    WarningCode = "unknown-hook"
	WarnUnscriptable   WarningCode = "unscriptable-hook"
	WarnDuplicateKey   WarningCode = "duplicate-key"
	WarnOctalMode      WarningCode = "octal-mode"
	WarnTimeoutOverMax WarningCode = "timeout-over-hour"
	WarnTimeoutForm    WarningCode = "timeout-form"
	WarnAlias          WarningCode = "alias"
	WarnBOM            WarningCode = "byte-order-mark"
	WarnMoreDocuments  WarningCode = "more-documents"
	WarnTruthy         WarningCode = "truthy"
	WarnPath           WarningCode = "path"
	WarnMatch          WarningCode = "match"
	WarnUnusable       WarningCode = "unusable"
)

// Error is the refusal of an appspec.yml. Problems is never empty; the first is the one CodeDeploy's agent would report.
type Error struct {
	FileName string
	Problems []Problem
}

// Error gives every problem as file:line:column: message, one a line.
func (e *Error) Error() string {
	lines := make([]string, 0, len(e.Problems))
	for _, p := range e.Problems {
		lines = append(lines, e.FileName+":"+p.String())
	}
	return strings.Join(lines, "\n")
}

// String gives line:column: message (hint); the place is left out where it is unknown.
func (p Problem) String() string {
	text := p.Message
	if p.Hint != "" {
		text += " (" + p.Hint + ")"
	}
	if p.Line == 0 {
		return " " + text
	}
	return fmt.Sprintf("%d:%d: %s", p.Line, p.Column, text)
}

// String gives line:column: message.
func (w Warning) String() string {
	return fmt.Sprintf("%d:%d: %s", w.Line, w.Column, w.Message)
}

// refusal is an error in the agent's own words, which begin with a capital and end with a full stop.
type refusal string

// Error gives the agent's words.
func (r refusal) Error() string { return string(r) }

// refuse makes a refusal.
func refuse(format string, args ...any) error { return refusal(fmt.Sprintf(format, args...)) }
