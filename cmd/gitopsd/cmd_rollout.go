package main

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/gitopsd/gitopsd/internal/rollout"
)

// rolloutCommand is `gitopsd rollout`: what can be known of a rollout beforehand.
func rolloutCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rollout",
		Short: "Show how a rollout would proceed",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(rolloutSimulateCommand())
	return cmd
}

// simulateFlags are the flags of `gitopsd rollout simulate`.
type simulateFlags struct {
	hosts, zones int
	config       string
	minimum      string
	fail         []string
	output       string
}

func rolloutSimulateCommand() *cobra.Command {
	var f simulateFlags
	cmd := &cobra.Command{
		Use:   "simulate",
		Short: "Play a rollout over an invented fleet and say how it ends",
		Long: `Play a rollout over an invented fleet, hosts h1, h2, ..., that runs an old
revision well, with the code that decides real rollouts. Hosts are granted in
the order of their numbers; of those in flight the first granted ends first.`,
		Example: `  gitopsd rollout simulate --hosts 10 --deployment-config CodeDeployDefault.HalfAtATime --fail 3
  gitopsd rollout simulate --hosts 10 --minimum-healthy-hosts type=FLEET_PERCENT,value=85 -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			opts, err := f.options()
			if err != nil {
				return exitError{code: codeUsage, err: err}
			}
			result, err := rollout.Simulate(opts)
			if err != nil {
				return exitError{code: codeUsage, err: err}
			}
			return printSimulation(cmd.OutOrStdout(), f.output, result)
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&f.hosts, "hosts", 0, "number of hosts in the group (required)")
	flags.IntVar(&f.zones, "zones", 0, "deal the hosts to so many zones, which are done one after the other")
	flags.StringVar(&f.config, "deployment-config", "", "CodeDeployDefault.OneAtATime (the default), HalfAtATime or AllAtOnce")
	flags.StringVar(&f.minimum, "minimum-healthy-hosts", "", "type=HOST_COUNT|FLEET_PERCENT,value=N instead of a named configuration")
	flags.StringSliceVar(&f.fail, "fail", nil, "numbers of the hosts that fail, from 1")
	flags.StringVarP(&f.output, "output", "o", "table", "table, json or yaml")
	return cmd
}

func (f simulateFlags) options() (rollout.SimulateOptions, error) {
	o := rollout.SimulateOptions{Hosts: f.hosts, Zones: f.zones}
	if f.hosts < 1 {
		return o, errors.New("cannot simulate a rollout without hosts: give --hosts N")
	}
	switch f.output {
	case "table", "json", "yaml":
	default:
		return o, fmt.Errorf("cannot print as %q: -o is table, json or yaml", f.output)
	}
	for _, number := range f.fail {
		n, err := strconv.Atoi(strings.TrimPrefix(strings.TrimSpace(number), "h"))
		if err != nil {
			return o, fmt.Errorf("cannot read --fail %q: it lists numbers of hosts, such as 1,4", number)
		}
		o.Fail = append(o.Fail, n)
	}
	var err error
	if f.minimum != "" && f.config != "" {
		return o, errors.New("cannot take both --deployment-config and --minimum-healthy-hosts: give one of them")
	}
	if f.minimum != "" {
		o.Policy.MinimumHealthy, err = parseMinimumHealthyHosts(f.minimum)
	} else {
		o.Policy, err = rollout.Predefined(f.config)
	}
	return o, err
}

// parseMinimumHealthyHosts reads AWS CLI's shorthand type=FLEET_PERCENT,value=85,
// keys in any case and order.
func parseMinimumHealthyHosts(s string) (rollout.Minimum, error) {
	var m rollout.Minimum
	seen := make(map[string]bool)
	for _, part := range strings.Split(s, ",") {
		key, value, ok := strings.Cut(part, "=")
		key, value = strings.ToLower(strings.TrimSpace(key)), strings.TrimSpace(value)
		if !ok || seen[key] {
			return m, fmt.Errorf("cannot read --minimum-healthy-hosts %q: write type=FLEET_PERCENT,value=85", s)
		}
		seen[key] = true
		switch key {
		case "type":
			m.Type = rollout.MinimumType(strings.ToUpper(value))
		case "value":
			n, err := strconv.Atoi(value)
			if err != nil {
				return m, fmt.Errorf("cannot read --minimum-healthy-hosts %q: value is a whole number, not %q", s, value)
			}
			m.Value = n
		default:
			return m, fmt.Errorf("cannot read --minimum-healthy-hosts %q: the keys are type and value, not %q", s, key)
		}
	}
	switch {
	case !seen["type"] || !seen["value"]:
		return m, fmt.Errorf("cannot read --minimum-healthy-hosts %q: it needs both type and value", s)
	case m.Type != rollout.HostCount && m.Type != rollout.FleetPercent:
		return m, fmt.Errorf("cannot read --minimum-healthy-hosts %q: type is HOST_COUNT or FLEET_PERCENT, not %q", s, m.Type)
	case m.Value < 0 || m.Value > 1<<20:
		return m, fmt.Errorf("cannot read --minimum-healthy-hosts %q: value is a number of hosts or percent, not %d", s, m.Value)
	case m.Type == rollout.FleetPercent && m.Value > 99:
		return m, fmt.Errorf("cannot read --minimum-healthy-hosts %q: FLEET_PERCENT goes from 0 to 99; use minSuccess to require all", s)
	}
	return m, nil
}

func printSimulation(w io.Writer, format string, s rollout.Simulation) error {
	if format != "table" {
		return printDocument(w, format, s)
	}
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "STATUS\tMINIMUM HEALTHY\tWINDOW\tATTEMPTED\tSUCCEEDED\tFAILED\tSKIPPED")
	fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\t%d\t%d\n", s.Status, s.MinimumHealthy, s.Window, s.Attempted, s.Succeeded, s.Failed, s.Skipped)
	if err := t.Flush(); err != nil {
		return err
	}
	if len(s.Order) > 0 {
		fmt.Fprintf(w, "order: %s\n", strings.Join(s.Order, " "))
	}
	_, err := fmt.Fprintln(w, s.Reason)
	return err
}
