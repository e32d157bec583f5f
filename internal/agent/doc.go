// Package agent is the shell of the daemon: it reads gitopsd.yaml, builds every station of the road of a commit, owns every goroutine, and carries what one
// station says to the next. It decides nothing that a pure package can decide.
//
// Data flows one way. source.go moves the accepted commit forward and publishes what it says (a world); sets.go follows the coordinator sets that the world names;
// early.go brings the bundles that the world wants before any set asks for them; leader.go injects the world into the sets this host leads; member.go lets rollout.Member decide what this host does about the replicated state, and carries it
// out through bundles.go (bytes), deployment.go (apply) and checks.go (health), whose results go back to the Member as events and up to the set as commands.
// read.go answers operators from the same replicated state on every host.
//
// Stopping goes in reverse order of starting, within a bounded time; hooks keep running under their supervisor and are adopted by the next start.
package agent
