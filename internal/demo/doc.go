// Package demo shows gitopsd at work on one machine: a config repository, an S3 server, agents as processes of their own, and a small web application that they
// deploy, break, and roll back.
//
// It owns a folder with everything in it, every process it starts, and every process those leave behind: hooks' daemons become its children when their parents
// end, and Run returns after the last of them is gone. Should the demo itself be killed, the kernel ends the agents, and the applications notice that the lock
// they wait for is free and end too.
//
// Whether the story went well is judged from outside the agents: from what the hosts' ports served at each moment and from the bytes the S3 server wrote. What
// the agents say is shown, and decides only when the next chapter begins. The pure parts are apart from the doing: what a release holds (release.go), what is
// judged (judge.go), what is told (narrate.go) and how it is drawn (frame.go).
//
// It promises nothing about durability: a demo that ended is thrown away, not resumed.
package demo
