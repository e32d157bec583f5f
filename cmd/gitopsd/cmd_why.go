package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/gitopsd/gitopsd/internal/status"
	"github.com/spf13/cobra"
)

// whyCommand explains one group in a paragraph.
func whyCommand() *cobra.Command {
	var flags readFlags
	cmd := &cobra.Command{
		Use:   "why GROUP",
		Short: "Say in a sentence why a group is in its state, with the numbers, the host, the hook and its last lines",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := flags.client()
			if err != nil {
				return err
			}
			report, err := client.Report(cmd.Context(), args[0])
			if err != nil {
				return agentError(err)
			}
			group, err := report.Find(args[0])
			if err != nil {
				return err
			}
			if flags.output != "table" {
				return printDocument(cmd.OutOrStdout(), flags.output, group)
			}
			return printWhy(cmd.OutOrStdout(), group, report.Notices)
		},
	}
	flags.add(cmd, false)
	return cmd
}

// explained is one thing to say, and whom it concerns.
type explained struct {
	hosts      []string
	text, core string
}

// told collects what to say, each thing once, in the order of the hosts.
type told []explained

// add takes what is said of a host. What has the same core as what was said of another before is not said again.
func (t *told) add(host, text, core string) {
	i := slices.IndexFunc(*t, func(e explained) bool { return e.core == core })
	if i < 0 {
		*t = append(*t, explained{text: text, core: core})
		i = len(*t) - 1
	}
	(*t)[i].hosts = append((*t)[i].hosts, host)
}

// core is a reason without who says it and what it keeps a host from.
func core(reason string) string {
	for _, before := range []string{" says: ", " yet: ", "refused: ", "refused the grant: "} {
		if i := strings.LastIndex(reason, before); i >= 0 {
			reason = reason[i+len(before):]
		}
	}
	return reason
}

// printWhy prints the reason, what hosts add to it, the failing hooks' last lines, and the notices that concern the group; each once.
func printWhy(out io.Writer, g status.Group, notices []status.Notice) error {
	fmt.Fprintf(out, "%s is %s. %s\n", status.Printable(g.Group), status.Printable(g.State), status.Printable(g.Why))
	var reasons, failures told
	for _, h := range g.Hosts {
		if h.Reason != "" && !(strings.Contains(g.Why, core(h.Reason)) && strings.Contains(g.Why, h.Name)) {
			reasons.add(h.Name, h.Reason, core(h.Reason))
		}
		for _, e := range h.Events {
			if e.Status == "Failed" && e.Diagnostics != nil {
				failures.add(h.Name, diagnosis(e), diagnosis(e))
			}
		}
	}
	for _, f := range g.Failures {
		if f.Diagnostics != nil {
			failures.add(f.Host+" in "+f.Deployment, diagnosis(f.Event), diagnosis(f.Event))
		}
	}
	for _, e := range reasons {
		text := status.Printable(e.text)
		if strings.Contains(g.Why, e.core) {
			text = "the same"
		}
		fmt.Fprintf(out, "%s: %s\n", status.Printable(strings.Join(e.hosts, ", ")), text)
	}
	for _, e := range failures {
		fmt.Fprintf(out, "%s: %s", status.Printable(strings.Join(e.hosts, ", ")), e.text)
	}
	var said []string
	for _, n := range notices {
		line := fmt.Sprintf("notice %s: %s\n", status.Printable(n.Kind), status.Printable(n.Message))
		if n.Subject != "" && n.Subject != g.Group && n.Subject != g.ID || slices.Contains(said, line) {
			continue
		}
		said = append(said, line)
		if _, err := io.WriteString(out, line); err != nil {
			return err
		}
	}
	return nil
}

// diagnosis says which script failed, with its last lines.
func diagnosis(e status.Event) string {
	return fmt.Sprintf("%s\n%s", status.Printable(fmt.Sprintf("%s: %s", e.Place(), e.Diagnostics.Message)), status.Indented(e.Diagnostics.LogTail, 10))
}
