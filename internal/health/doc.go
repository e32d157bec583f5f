// Package health asks this host whether a group's application is well.
//
// A Prober runs a group's checks (http, tcp, exec, systemd unit), each on its own interval, and folds their results into one Verdict with evidence: what was
// asked, what came back, and since when. A check is unknown until it has passed healthyAfter times or failed unhealthyAfter times in a row, and unknown is
// never counted healthy: the group is healthy when every check is, unhealthy when one is, else unknown. Failures within a check's grace after a start do
// not count; passes do.
//
// A group without checks stays unknown for ever: that its last deployment succeeded may be enough for the caller, but this package does not know of
// deployments. Every answer read is bounded, every probe has a timeout, and a program that outlives its timeout is killed with its whole process group.
package health
