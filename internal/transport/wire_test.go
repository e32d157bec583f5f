package transport

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func TestGreetingRoundTrip(t *testing.T) {
	for _, g := range []greeting{{}, {statusBusy, "busy"}, {statusRefused, "no"}, {statusProtocol, strings.Repeat("x", messageMaxBytes)}} {
		got, err := readGreeting(bytes.NewReader(g.append(nil)))
		if err != nil || got != g {
			t.Errorf("%+v became %+v, %v", g, got, err)
		}
	}
	long, err := readGreeting(bytes.NewReader(greeting{statusBusy, strings.Repeat("x", 9999)}.append(nil)))
	if err != nil || len(long.text) != messageMaxBytes {
		t.Errorf("%d bytes, %v", len(long.text), err)
	}
	rude, err := readGreeting(bytes.NewReader(greeting{statusRefused, "a\x1b[31m\n"}.append(nil)))
	if err != nil || rude.text != "a?[31m?" {
		t.Errorf("%q, %v", rude.text, err)
	}
}

func TestGreetingRefusesOtherVersionsWithBothNumbers(t *testing.T) {
	b := greeting{}.append(nil)
	b[4] = 7
	if _, err := readGreeting(bytes.NewReader(b)); !errors.Is(err, ErrProtocol) || !strings.Contains(err.Error(), "version 7, this host version 1") {
		t.Errorf("%v", err)
	}
}

func FuzzGreeting(f *testing.F) {
	f.Add(greeting{}.append(nil))
	f.Add(greeting{statusRefused, "no"}.append(nil))
	f.Add([]byte("HTTP/1.1 400 Bad Request"))
	f.Fuzz(func(t *testing.T, b []byte) {
		g, err := readGreeting(bytes.NewReader(b))
		if err != nil {
			return
		}
		again, err := readGreeting(bytes.NewReader(g.append(nil)))
		if err != nil || again.status != g.status || len(g.text) > messageMaxBytes*3 {
			t.Errorf("%+v became %+v, %v", g, again, err)
		}
	})
}

func FuzzStreamHeader(f *testing.F) {
	f.Add(streamHeader{"raft", 1}.append(nil))
	f.Add([]byte{2, 0, 1, 4, 'r', 'a', 'f', 't'})
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := readStreamHeader(bytes.NewReader(b))
		if err != nil {
			return
		}
		if again, err := readStreamHeader(bytes.NewReader(h.append(nil))); err != nil || again != h {
			t.Errorf("%+v became %+v, %v", h, again, err)
		}
		if parsed, err := parseProtocol(h.String()); err != nil || parsed != h {
			t.Errorf("%v was parsed as %+v, %v", h, parsed, err)
		}
	})
}

func FuzzParsePublicKey(f *testing.F) {
	f.Add(PublicKeyLine(newKey(f)))
	f.Add("ssh-ed25519 AAAA")
	f.Fuzz(func(t *testing.T, line string) {
		key, err := ParsePublicKey(line)
		if err != nil {
			return
		}
		if again, err := ParsePublicKey(publicLine(key)); err != nil || !again.Equal(key) {
			t.Errorf("%q: %v", line, err)
		}
	})
}
