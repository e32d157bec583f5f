package main

import (
	"bytes"
	"io"
	"net/http"
	"testing"
)

// TestOperatePrintsADocument: with -o json or yaml standard output holds what was done, so that a script has something to read.
func TestOperatePrintsADocument(t *testing.T) {
	answering(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"ok":true}`) }))
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"pause", "shop", "-o", "json"}, "{\n  \"ok\": true,\n  \"verb\": \"pause\",\n  \"group\": \"shop\"\n}\n"},
		{[]string{"retry", "shop", "-o", "yaml"}, "group: shop\nok: true\nverb: retry\n"},
		{[]string{"skip", "shop", "-o", "json"}, "{\n  \"ok\": true,\n  \"verb\": \"skip\",\n  \"group\": \"shop\"\n}\n"},
		{[]string{"sync", "-o", "json"}, "{\n  \"ok\": true,\n  \"verb\": \"sync\"\n}\n"},
		{[]string{"resume", "shop"}, ""},
	} {
		var out, hints bytes.Buffer
		root := newRoot()
		root.SetArgs(c.args)
		root.SetOut(&out)
		root.SetErr(&hints)
		if err := root.ExecuteContext(t.Context()); err != nil || out.String() != c.want {
			t.Errorf("%v: %v, printed\n%s\nwant\n%s", c.args, err, out.String(), c.want)
		}
		if said := hints.String(); (said == "resume shop: done\n") != (c.want == "") {
			t.Errorf("%v: said %q", c.args, said)
		}
	}
}
