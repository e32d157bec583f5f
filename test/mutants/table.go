package main

// mutant is one fault: in file, the one place that reads old becomes new, and a test of pkg must fail.
type mutant struct{ name, file, old, new, pkg string }

// mutants are faults that would hurt a fleet most.
var mutants = []mutant{
	{"a host acts on a grant older than one it has persisted", "internal/rollout/member.go",
		"if !g.HighWater.Less(token) {", "if g.HighWater == token {", "./internal/rollout"},
	{"one host more than the budget goes down", "internal/rollout/policy.go",
		"return n - p.Minimum(n)", "return n - p.Minimum(n) + 1", "./internal/rollout"},
	{"a share of hosts is rounded down", "internal/rollout/policy.go",
		"return (n*m.Value + 99) / 100", "return n * m.Value / 100", "./internal/rollout"},
	{"every voter may be down at a time", "internal/rollout/grant.go",
		"t.voters >= max(1, (len(s.Voters)-1)/2)", "t.voters >= len(s.Voters)", "./internal/rollout"},
	{"a host that is not ready is granted", "internal/rollout/grant.go",
		"!ok || r.Refused != \"\"", "ok && r.Refused != \"\"", "./internal/rollout"},
	{"a healthy host goes back without quorum", "internal/rollout/alone.go",
		"!g.unhealthy() || g.Paused", "g.Paused", "./internal/rollout"},
	{"a deposed leader's command is applied", "internal/consensus/replica.go",
		"if c.fence != 0 && c.fence != term {", "if false {", "./internal/consensus"},
	{"one signer counts twice", "internal/configrepo/trust/policy.go",
		"slices.Contains(rule.Signers, s) && !slices.Contains(counted, s)", "slices.Contains(rule.Signers, s)", "./internal/configrepo/..."},
	{"a signer outside the rule counts", "internal/configrepo/trust/policy.go",
		"slices.Contains(rule.Signers, s) && !slices.Contains(counted, s)", "!slices.Contains(counted, s)", "./internal/configrepo/..."},
	{"a piece is not compared with its sha256", "internal/bundle/index.go",
		"sum := sha256.Sum256(data); sum != p.Sum", "sum := sha256.Sum256(data); false && sum != p.Sum", "./internal/bundle/..."},
	{"a frame of the previous bundle is believed", "internal/bundle/pack.go",
		"c.sum == piece.Sum && e.holds(c.stored, piece)", "c.sum == piece.Sum", "./internal/bundle"},
	{"the bundle of a group that git has no more is let go", "internal/agent/bundles.go",
		"groups[path.Dir(rest)] = true", "_ = path.Dir(rest)", "./internal/agent"},
	{"a version of a key is not asked for", "internal/bundle/origin/s3.go",
		"VersionId: optional(s.location.Version), IfMatch: matching(s.location.ETag),\n\t\tRange", "IfMatch: matching(s.location.ETag),\n\t\tRange", "./internal/bundle/origin"},
	{"a waiting report of the point of no return is lost", "internal/agent/outbox.go",
		"next.Stopped = next.Stopped || p.Stopped", "next.Stopped = next.Stopped && p.Stopped", "./internal/agent"},
	{"a commit that removes many hosts is not held", "internal/desired/removed.go",
		"gone > few && gone*100 > r.HostsBefore*most", "gone > few && gone*100 > r.HostsBefore*most*100", "./internal/desired"},
}
