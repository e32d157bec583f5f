// Package rollout decides when a host of a deployment group may change, and
// what a host may do about it.
//
// It owns two machines. Machine holds one independently stepped state a group
// and is replicated: every voter and every observer of a coordinator set
// applies the same commands in the same order and so comes to the same grants,
// verdicts and sentences. Member is one host: which grant it accepts, what it
// must have on disk before it acts, what it reports and reports again.
//
// Everything is decided inside Machine.Apply from the state, the command and
// the replicated clock, which only the leader's Tick commands advance. The
// leader therefore decides nothing that another replica would not decide: it
// injects inputs (targets, liveness, time) and moves out of the way when its
// own host is next.
//
// The arithmetic is that of AWS CodeDeploy: of N hosts m must stay healthy,
// which leaves a budget B = N - m. A host counts as healthy only when it said
// so; hosts in flight, failed, lost or unknown all use the budget.
//
// Guaranteed: a slot is freed only on the word of the host that holds it; a
// host starts nothing on a grant older than one it has persisted; a rollback
// never rolls back; state, views and commands are bounded. Not promised:
// progress without a quorum, and progress past a budget used up by hosts that
// are lost (the reason says which).
//
// The package is pure: no file, socket, lock, clock or goroutine.
package rollout
