// Package appspec reads appspec.yml, the file in a bundle that says what a deployment copies, which permissions it sets and which
// scripts it runs, and reaches the verdicts of AWS CodeDeploy's host agent.
//
// It owns the whole way from bytes to a checked Spec: YAML 1.1 scalars as the agent's YAML library (Ruby's Psych 4) resolves them, the
// order in which sections are judged, the wording of refusals, the grammars of modes, ACL entries and SELinux ranges, and the lifecycle
// events with their order for each kind of deployment. It guarantees that a file the agent accepts yields the same Spec and that a
// file the agent refuses is refused, with two exceptions: aliases are accepted (whether the agent takes them depends on its host's
// Ruby), and bounds hold on size, nesting and alias expansion. Every refusal and warning names line and column.
//
// It does not look at the bundle, the disk or the users of the host: sources, destinations and scripts are only read here. It is pure:
// no file, clock or goroutine.
package appspec
