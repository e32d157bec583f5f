package status

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Logs is the document of `gitopsd logs`: what hooks wrote, host by host.
type Logs struct {
	APIVersion string    `json:"apiVersion"`
	Group      string    `json:"group"`
	Hosts      []HostLog `json:"hosts"`
}

// HostLog is what hooks wrote on one host. Bytes that are no UTF-8 are replaced when it is encoded.
type HostLog struct {
	Name       string `json:"name"`
	Deployment string `json:"deployment,omitempty"` // that the output is of
	Output     string `json:"output"`
	Error      string `json:"error,omitempty"` // why there is none
}

// UnknownOutputError says that a question for hook output names a host, a deployment or an event that there is not, and which there are.
type UnknownOutputError struct{ Message string }

func (e *UnknownOutputError) Error() string { return e.Message }

// logsBytesMax bounds the output in one document. As text it goes through without being kept.
const logsBytesMax = 64 << 20

// deploymentTitle begins the line that names the deployment before the output of each host's newest.
const deploymentTitle = "Deployment - "

// LogTitle is the line before the output of a deployment that was not named by whoever asks.
func LogTitle(deployment string) string { return deploymentTitle + deployment + "\n" }

// Outputs asks for hook output as a document, one host after the other: in the text for people nothing divides hosts that a hook could not print too. It is an error
// when no host has any.
func (c *Client) Outputs(ctx context.Context, q LogQuery) (Logs, error) {
	report, err := c.Report(ctx, q.Group)
	if err != nil {
		return Logs{}, err
	}
	if len(report.Groups) != 1 {
		return Logs{}, fmt.Errorf("the agent at %s answered for %d groups", c.name, len(report.Groups))
	}
	out := Logs{APIVersion: APIVersion, Group: report.Groups[0].Group, Hosts: []HostLog{}}
	var errs []error
	left := int64(logsBytesMax)
	for _, host := range loggedHosts(q, report) {
		one := q
		one.Host = host
		log, n, err := c.output(ctx, one, left)
		var unknown *UnknownOutputError // the next host would say the same
		switch {
		case errors.Is(err, errTooMuchOutput):
			return Logs{}, errTooMuchOutput
		case err != nil && (errors.As(err, &unknown) || errors.Is(err, ErrUnreachable) || n > 0 || ctx.Err() != nil): // whoever has none has not begun to answer
			return Logs{}, err
		case err != nil:
			errs = append(errs, err)
		}
		left -= n
		out.Hosts = append(out.Hosts, log)
	}
	if len(errs) == len(out.Hosts) {
		return Logs{}, noneHas(errs)
	}
	return out, nil
}

// loggedHosts lists the hosts to ask; of a group that has none the asked host itself, which may have been in it.
func loggedHosts(q LogQuery, report Report) []string {
	if q.Host != "" {
		return []string{q.Host}
	}
	var hosts []string
	for _, h := range report.Groups[0].Hosts {
		hosts = append(hosts, h.Name)
	}
	if len(hosts) == 0 {
		return []string{report.Host}
	}
	return hosts
}

var errTooMuchOutput = fmt.Errorf("cannot put more than %d MiB of hook output into one document: name a host, a deployment or an event, or take it as text", logsBytesMax>>20)

// output asks for that of one host, at most so many bytes.
func (c *Client) output(ctx context.Context, q LogQuery, most int64) (HostLog, int64, error) {
	var text bytes.Buffer
	log := HostLog{Name: q.Host, Deployment: q.Deployment}
	err := c.Logs(ctx, q, &boundedWriter{w: &text, left: most})
	n := int64(text.Len())
	log.Output = text.String()
	if rest, titled := strings.CutPrefix(log.Output, deploymentTitle); titled && q.Deployment == "" {
		log.Deployment, log.Output, _ = strings.Cut(rest, "\n")
	}
	if err != nil {
		log.Error = err.Error()
	}
	return log, n, err
}

// noneHas says why no host has output.
func noneHas(errs []error) error {
	for _, err := range errs[1:] {
		if err.Error() != errs[0].Error() {
			return fmt.Errorf("cannot show hook output: none of %d hosts has any; the first says: %w", len(errs), errs[0])
		}
	}
	return errs[0]
}

// boundedWriter passes on so many bytes and then fails.
type boundedWriter struct {
	w    io.Writer
	left int64
}

func (b *boundedWriter) Write(p []byte) (int, error) {
	if int64(len(p)) > b.left {
		return 0, errTooMuchOutput
	}
	b.left -= int64(len(p))
	return b.w.Write(p)
}
