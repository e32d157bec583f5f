// Package demo shows gitopsd at work on one machine: a config repository, an S3 server, five agents as processes of their own, and a small web application that they
// deploy, break, and roll back.
package demo
