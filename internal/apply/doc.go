// Package apply brings one revision to one host: it unpacks the bundle into a
// release directory, checks everything that can be checked before the running
// version is touched, runs the hooks, and installs the files.
//
// A deployment is written down before it acts: an append log (the journal)
// holds each lifecycle event's start before it starts and its end when it
// ended, and Install follows a plan that was made durable first. After a crash
// Pending lists the deployments that did not end, and Resume either goes on at
// the next unstarted step or undoes an Install that did not finish, which
// restores the files of the old version exactly. Once Install is done there is
// no undo: going back is a new deployment of an earlier release, which is still
// on this disk.
//
// New files are built beside their destination, below open directories and
// through no link, for whoever owns the directories around may rename what is in
// them at any time. What has a name above that is found by it: Install promises
// nothing about where a destination is if others can write into those directories.
//
// Hooks run under a supervisor, a process of its own session that outlives this
// one. It is adopted after a restart. Every hook of a (deployment, attempt,
// event) starts at most once: if its supervisor died too, the event has failed
// with code 7 and is not run again.
//
// Results are those of the CodeDeploy agent except where that is plainly wrong;
// a table in docs/reference/appspec.md lists the differences.
//
// Not here: where bundles come from, who may deploy what when, and whether the
// application is healthy afterwards.
package apply
