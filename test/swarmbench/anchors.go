package main

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// The S3 server in the origin.
const (
	s3Access = "benchaccess"
	s3Secret = "benchsecret0123456789"
	s3Bucket = "releases"
	s3Listen = originIP + ":7070"
	s3URL    = "http://" + s3Listen
)

// startS3 starts the S3 server and writes the credentials file.
func startS3(ctx context.Context, b *bed, o options) error {
	data, sidecar := filepath.Join(b.dir, "s3"), filepath.Join(b.dir, "meta")
	for _, dir := range []string{filepath.Join(data, s3Bucket), sidecar} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := write(filepath.Join(b.dir, "s3-credentials"), "[default]\naws_access_key_id = "+s3Access+"\naws_secret_access_key = "+s3Secret+"\n"); err != nil {
		return err
	}
	if _, err := b.start(originHost, "s3.log", []string{"ROOT_ACCESS_KEY=" + s3Access, "ROOT_SECRET_KEY=" + s3Secret}, o.versitygw,
		"--port", s3Listen, "--keep-alive", "--quiet", "posix", "--sidecar", sidecar, data); err != nil {
		return err
	}
	return await(ctx, "the S3 server answers", func() bool {
		return exec.Command("ip", "netns", "exec", b.ns(originHost), "bash", "-c", "exec 3<>/dev/tcp/"+originIP+"/7070").Run() == nil
	})
}

// direct measures every host fetching the whole bundle from S3 with curl.
func direct(ctx context.Context, b *bed, o options, m measurement) (outcome, error) {
	if err := startS3(ctx, b, o); err != nil {
		return outcome{}, err
	}
	if err := writeRandom(filepath.Join(b.dir, "s3", s3Bucket, "bundle"), m.mib); err != nil {
		return outcome{}, err
	}
	client := s3.New(s3.Options{Region: "us-east-1", BaseEndpoint: aws.String(s3URL), UsePathStyle: true, Credentials: credentials.NewStaticCredentialsProvider(s3Access, s3Secret, "")})
	signed, err := s3.NewPresignClient(client).PresignGetObject(ctx, &s3.GetObjectInput{Bucket: aws.String(s3Bucket), Key: aws.String("bundle")})
	if err != nil {
		return outcome{}, err
	}
	before, err := b.sent(ctx, originHost)
	if err != nil {
		return outcome{}, err
	}
	begun := time.Now()
	var wg sync.WaitGroup
	failures := make([]error, b.spec.hosts)
	for i := range b.spec.hosts {
		wg.Go(func() {
			failures[i] = run(ctx, "ip", "netns", "exec", b.ns(hostName(i)), "curl", "-sSf", "-o", filepath.Join(b.dir, hostName(i)+".got"), signed.URL)
		})
	}
	wg.Wait()
	took := time.Since(begun)
	if err := errors.Join(failures...); err != nil {
		return outcome{}, err
	}
	after, err := b.sent(ctx, originHost)
	return outcome{all: took, moved: after - before}, err
}

// torrentPiece is the size of a torrent's pieces.
const torrentPiece = 256 << 10

// torrent measures BitTorrent: aria2 on every host, and as the seeder beside opentracker in the origin.
func torrent(ctx context.Context, b *bed, _ options, m measurement) (outcome, error) {
	for _, tool := range []string{"aria2c", "opentracker"} {
		if _, err := exec.LookPath(tool); err != nil {
			return outcome{}, fmt.Errorf("not measured: %s is not installed (Debian has packages aria2 and opentracker)", tool)
		}
	}
	seed := filepath.Join(b.dir, "seed")
	if err := os.MkdirAll(seed, 0o755); err != nil {
		return outcome{}, err
	}
	if err := os.Chmod(b.dir, 0o755); err != nil { // opentracker gives up being root before it reads its list
		return outcome{}, err
	}
	if err := writeRandom(filepath.Join(seed, "bundle"), m.mib); err != nil {
		return outcome{}, err
	}
	file, list := filepath.Join(b.dir, "bundle.torrent"), filepath.Join(b.dir, "whitelist")
	if err := makeTorrent(filepath.Join(seed, "bundle"), file, list); err != nil {
		return outcome{}, err
	}
	if _, err := b.start(originHost, "tracker.log", nil, "opentracker", "-i", originIP, "-p", "6969", "-P", "6969", "-u", "nobody", "-w", list); err != nil {
		return outcome{}, err
	}
	aria := []string{"aria2c", "--no-conf", "--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=false", "--enable-peer-exchange=true", "--bt-max-peers=0", "--seed-ratio=0.0",
		"--file-allocation=none", "--bt-tracker-interval=1", "--bt-request-peer-speed-limit=100M", "--listen-port=6881", "--bt-require-crypto=false", "--summary-interval=0",
		"--disable-ipv6=true", "--console-log-level=warn", "--check-certificate=false"}
	if _, err := b.start(originHost, "seeder.log", nil, append(aria, "--check-integrity=true", "--bt-seed-unverified=false", "-d", seed, file)...); err != nil {
		return outcome{}, err
	}
	if err := await(ctx, "the seeder listens", func() bool {
		return exec.Command("ip", "netns", "exec", b.ns(originHost), "bash", "-c", "exec 3<>/dev/tcp/"+originIP+"/6881").Run() == nil
	}); err != nil {
		return outcome{}, err
	}
	done := filepath.Join(b.dir, "done.sh")
	if err := os.WriteFile(done, []byte("#!/bin/sh\ndate +%s%N > \"$DONE.part\" && mv \"$DONE.part\" \"$DONE\"\n"), 0o755); err != nil {
		return outcome{}, err
	}
	select { // the seeder checks its file and finds the tracker, unmeasured
	case <-time.After(3 * time.Second):
	case <-ctx.Done():
		return outcome{}, ctx.Err()
	}
	return torrentRun(ctx, b, m, append(aria, "--on-bt-download-complete="+done), file)
}

// torrentRun starts the hosts' clients and waits for the last.
func torrentRun(ctx context.Context, b *bed, m measurement, aria []string, file string) (outcome, error) {
	before, err := b.sent(ctx, originHost)
	if err != nil {
		return outcome{}, err
	}
	begun := time.Now()
	for i := range b.spec.hosts {
		name := hostName(i)
		dir := filepath.Join(b.dir, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return outcome{}, err
		}
		if _, err := b.start(name, name+".log", []string{"DONE=" + filepath.Join(b.dir, name+".done")}, append(aria, "-d", dir, file)...); err != nil {
			return outcome{}, err
		}
	}
	var end time.Time
	if err := await(ctx, "every host has the torrent", func() bool {
		for i := range b.spec.hosts {
			text, err := os.ReadFile(filepath.Join(b.dir, hostName(i)+".done"))
			var nanos int64
			if err != nil {
				return false
			}
			if _, err := fmt.Sscan(string(text), &nanos); err != nil {
				return false
			}
			if at := time.Unix(0, nanos); at.After(end) {
				end = at
			}
		}
		return true
	}); err != nil {
		return outcome{}, err
	}
	after, err := b.sent(ctx, originHost)
	return outcome{all: end.Sub(begun), moved: after - before}, err
}

// makeTorrent writes a torrent of one file (BEP 3), and its info hash as the tracker's list of what it may track.
func makeTorrent(source, file, list string) error {
	in, err := os.Open(source)
	if err != nil {
		return err
	}
	defer in.Close()
	var pieces []byte
	var size int64
	piece := make([]byte, torrentPiece)
	for {
		n, err := io.ReadFull(in, piece)
		if n > 0 {
			sum := sha1.Sum(piece[:n])
			pieces = append(pieces, sum[:]...)
			size += int64(n)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	info := fmt.Sprintf("d6:lengthi%de4:name6:bundle12:piece lengthi%de6:pieces%d:%se", size, torrentPiece, len(pieces), pieces)
	announce := "http://" + net.JoinHostPort(originIP, "6969") + "/announce"
	if err := os.WriteFile(file, fmt.Appendf(nil, "d8:announce%d:%s4:info%se", len(announce), announce, info), 0o644); err != nil {
		return err
	}
	hash := sha1.Sum([]byte(info))
	return os.WriteFile(list, []byte(hex.EncodeToString(hash[:])+"\n"), 0o644)
}
