package status

import (
	"errors"
	"regexp"
	"sort"
	"strings"
	"testing"
)

// scrape returns our own metrics without the process's and Go's.
func scrape(t *testing.T, f *fakeSource) string {
	t.Helper()
	code, text := ask(t, Metrics(f, "1.2.3"), "GET", "/metrics", "")
	if code != 200 {
		t.Fatalf("%d %s", code, text)
	}
	lines := regexp.MustCompile(`(?m)^gitopsd_.*$`).FindAllString(text, -1)
	sort.Strings(lines)
	return strings.Join(lines, "\n") + "\n"
}

func TestMetricsKeepTheirNames(t *testing.T) {
	golden(t, "metrics.txt", scrape(t, &fakeSource{report: sample()}))
}

func TestMetricsSurviveWhatGroupsAreCalled(t *testing.T) {
	r := sample()
	again := r.Groups[0]
	again.ID = "another" // a group that left git and one that took its folder
	broken := r.Groups[0]
	broken.ID, broken.Group = "third", "shop/\xff"
	r.Groups = append(r.Groups, again, broken)
	if text := scrape(t, &fakeSource{report: r}); strings.Count(text, "gitopsd_group_state{") != 3 {
		t.Errorf("%s", text)
	}
}

func TestMetricsOfAHostThatKnowsNothing(t *testing.T) {
	text := scrape(t, &fakeSource{err: errors.New("nothing"), ready: errors.New("not yet")})
	if text != "gitopsd_build_info{version=\"1.2.3\"} 1\ngitopsd_ready 0\n" {
		t.Errorf("%s", text)
	}
}
