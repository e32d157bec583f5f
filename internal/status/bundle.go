package status

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"
)

// Distribution answers `gitopsd bundle peers DIGEST`: where one bundle is, and how fast it comes.
type Distribution struct {
	APIVersion string       `json:"apiVersion"`
	Host       string       `json:"host"` // who answers
	Digest     string       `json:"digest"`
	Groups     []string     `json:"groups"` // folders of groups that should run it or run it
	Hosts      []BundleHost `json:"hosts"`
}

// BundleHost is one host's part of a bundle. Bytes of what it fetched are those of its last fetch.
type BundleHost struct {
	Name           string       `json:"name"`
	Site           string       `json:"site,omitempty"`
	State          string       `json:"state"` // one sentence; "" where the bundle is not and was never fetched
	Pieces         int          `json:"pieces"`
	HavePieces     int          `json:"havePieces"`
	Bytes          int64        `json:"bytes"`
	HaveBytes      int64        `json:"haveBytes"`
	Percent        int          `json:"percent"`
	FromOrigin     int64        `json:"bytesFromOrigin"`
	FromPeers      int64        `json:"bytesFromPeers"`
	FromOtherSites int64        `json:"bytesFromOtherSites"` // of those from peers
	Reused         int64        `json:"bytesReused"`         // of earlier bundles on its disk
	BytesPerSecond int64        `json:"bytesPerSecond"`      // now; 0 when nothing comes
	ETASeconds     int64        `json:"etaSeconds,omitempty"`
	Peers          int          `json:"peers"` // hosts it exchanges with
	Banned         []BannedPeer `json:"banned"`
	Error          string       `json:"error,omitempty"` // it could not be asked; then nothing else is known
}

// BannedPeer is a host that another asks no more for this bundle.
type BannedPeer struct {
	Host string `json:"host"`
	Why  string `json:"why"`
}

// UnknownBundleError says that no bundle has a digest, and which are known.
type UnknownBundleError struct{ Message string }

func (e *UnknownBundleError) Error() string { return e.Message }

// bundle answers where a bundle is.
func (h handler) bundle(w http.ResponseWriter, r *http.Request) {
	d, err := h.Source.Bundle(r.Context(), r.URL.Query().Get("digest"))
	h.answer(w, d, err)
}

// Bundle asks where a bundle is. An unknown digest is an *UnknownBundleError.
func (c *Client) Bundle(ctx context.Context, digest string) (Distribution, error) {
	var d Distribution
	return d, c.get(ctx, "/v1/bundle", url.Values{"digest": {digest}}, &d)
}

// PrintDistribution prints a line a host, and below them whom a host asks no more.
func PrintDistribution(out io.Writer, d Distribution) error {
	line := func(s string) string { return Printable(strings.Join(strings.Fields(s), " ")) }
	fmt.Fprintf(out, "%s  %s\n", line(d.Digest), line(strings.Join(d.Groups, ", ")))
	table := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(table, "HOST\tSITE\tHAVE\tPIECES\tORIGIN\tPEERS\tOTHER SITES\tRATE\tLEFT\tSTATE")
	for _, h := range d.Hosts {
		if h.Error != "" {
			fmt.Fprintf(table, "%s\t%s\t?\t?\t?\t?\t?\t?\t?\t%s\n", line(h.Name), orDash(line(h.Site)), line(h.Error))
			continue
		}
		rate, left := "-", "-"
		if h.BytesPerSecond > 0 {
			rate = Bytes(h.BytesPerSecond) + "/s"
		}
		if h.ETASeconds > 0 {
			left = (time.Duration(h.ETASeconds) * time.Second).String()
		}
		fmt.Fprintf(table, "%s\t%s\t%d%%\t%d/%d\t%s\t%s\t%s\t%s\t%s\t%s\n", line(h.Name), orDash(line(h.Site)), h.Percent, h.HavePieces, h.Pieces,
			Bytes(h.FromOrigin), Bytes(h.FromPeers), Bytes(h.FromOtherSites), rate, left, orDash(line(h.State)))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, h := range d.Hosts {
		for _, b := range h.Banned {
			if _, err := fmt.Fprintf(out, "! %s asks %s no more: %s\n", line(h.Name), line(b.Host), line(b.Why)); err != nil {
				return err
			}
		}
	}
	return nil
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
