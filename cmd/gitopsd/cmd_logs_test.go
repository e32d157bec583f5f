package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/gitopsd/gitopsd/internal/status"
	"go.yaml.in/yaml/v4"
)

// logging has hook output of some hosts of one group.
type logging struct {
	status.Source
	logs map[string]string // by host; "" for none
}

func (l logging) Report(_ context.Context, name string) (status.Report, error) {
	if name != "shop" {
		return status.Report{}, &status.UnknownGroupError{Message: "cannot find group " + name}
	}
	g := status.Group{Group: "shop/web", ID: "G1"}
	for _, host := range []string{"web-1", "web-2", "web-3"} {
		g.Hosts = append(g.Hosts, status.Host{Name: host})
	}
	return status.Report{Host: "web-1", Groups: []status.Group{g}}, nil
}

func (l logging) Logs(_ context.Context, q status.LogQuery, w io.Writer) error {
	if q.Host == "" {
		_, err := io.WriteString(w, "text for people\n")
		return err
	}
	if l.logs[q.Host] == "" {
		return errors.New("no deployment of this group left hook output on " + q.Host)
	}
	title := ""
	if q.Deployment == "" {
		title = status.LogTitle("d-1")
	}
	_, err := fmt.Fprintf(w, "%s%s%s", title, q.Event, l.logs[q.Host])
	return err
}

// TestLogsAreADocumentToo: with -o json or yaml, text came, and 0.
func TestLogsAreADocumentToo(t *testing.T) {
	answering(t, status.Handler(status.Options{Source: logging{logs: map[string]string{"web-1": "one\n==> web-2 <==\n", "web-3": "Deployment - d-9\n"}}}))
	for _, c := range []struct {
		args []string
		want []status.HostLog
	}{
		{nil, []status.HostLog{{Name: "web-1", Deployment: "d-1", Output: "one\n==> web-2 <==\n"}, {Name: "web-2", Error: "no deployment of this group left hook output on web-2"},
			{Name: "web-3", Deployment: "d-1", Output: "Deployment - d-9\n"}}},
		{[]string{"web-3", "--deployment", "d-7"}, []status.HostLog{{Name: "web-3", Deployment: "d-7", Output: "Deployment - d-9\n"}}},
		{[]string{"web-1", "--event", "Install"}, []status.HostLog{{Name: "web-1", Deployment: "d-1", Output: "Installone\n==> web-2 <==\n"}}},
	} {
		want := status.Logs{APIVersion: status.APIVersion, Group: "shop/web", Hosts: c.want}
		text, code := typed(t, append([]string{"logs", "shop", "-o", "json"}, c.args...)...)
		var got status.Logs
		if err := json.Unmarshal([]byte(text), &got); err != nil || code != 0 || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%v: exit %d, %v\n%s\nwant %v", c.args, code, err, text, want)
		}
		text, code = typed(t, append([]string{"logs", "shop", "-o", "yaml"}, c.args...)...)
		var keys struct {
			Hosts []struct{ Name, Output string }
		}
		if err := yaml.Unmarshal([]byte(text), &keys); err != nil || code != 0 || len(keys.Hosts) != len(c.want) || keys.Hosts[0].Output != c.want[0].Output {
			t.Errorf("%v: exit %d, %v\n%s", c.args, code, err, text)
		}
	}
	if text, code := typed(t, "logs", "shop"); code != 0 || text != "text for people\n" {
		t.Errorf("as text: exit %d, %s", code, text)
	}
	for line, want := range map[string]string{
		"logs shop web-2 -o json": "no deployment of this group left hook output on web-2",
		"logs none -o json":       "cannot find group none",
	} {
		if text, code := typed(t, strings.Fields(line)...); code != codeError || text != want {
			t.Errorf("%s: exit %d, %s", line, code, text)
		}
	}
	answering(t, status.Handler(status.Options{Source: logging{}}))
	if text, code := typed(t, "logs", "shop", "-o", "json"); code != codeError || text != "cannot show hook output: none of 3 hosts has any; the first says: no deployment of this group left hook output on web-1" {
		t.Errorf("nobody has any: exit %d, %s", code, text)
	}
}
