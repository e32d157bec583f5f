package appspec

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestACEForms(t *testing.T) {
	rows := []struct{ text, want, refused string }{
		{text: "deploy:rw", want: "user:deploy:rw-"},
		{text: "u:ana:r-x", want: "user:ana:r-x"},
		{text: "group:ops:5", want: "group:ops:r-x"},
		{text: "g:ops:", want: "group:ops:---"},
		{text: "u:ana:xxrr-", want: "user:ana:r-x"},
		{text: "d:ana:7", want: "default:user:ana:rwx"},
		{text: "default:u:ana:7", want: "default:user:ana:rwx"},
		{text: "d::6", want: "default:user::rw-"},
		{text: "d:o::4", want: "default:other::r--"},
		{text: "d:m:4", want: "default:mask::r--"},
		{text: "mask:rw", want: "mask::rw-"},
		{text: "m::rw", want: "mask::rw-"},
		{text: "u:m:rw", want: "user:mask:rw-"},
		{text: "g:other:rw", want: "group:other:rw-"},
		{text: "u:user:rw", want: "user:user:rw-"},
		{text: "", refused: "Invalid acl entry ()"},
		{text: "rwx", refused: "Invalid acl entry (rwx)"},
		{text: "a:b:c:d:e", refused: "Invalid acl entry"},
		{text: "x:u:ana:rw", refused: "Invalid acl entry"},
		{text: "d:d:ana:rw", refused: "Invalid acl entry"},
		{text: "owner:ana:rw", refused: "Invalid acl entry"},
		{text: "m:ana:rw", refused: "Invalid acl entry"},
		{text: "o:ana:rw", refused: "Invalid acl entry"},
		{text: "m:o:rw", refused: "Invalid acl entry"},
		{text: "u::rwx", refused: "Use mode to set the base acl entry (u::rwx)"},
		{text: "o:r", refused: "Use mode to set the base acl entry"},
		{text: "u:ana:8", refused: "invalid character (8)"},
		{text: "u:ana:rwX", refused: "invalid character (X)"},
		{text: "u:ana:r é", refused: "invalid character ( )"},
	}
	for _, row := range rows {
		ace, err := ParseACE(row.text)
		switch {
		case row.refused != "" && (err == nil || !strings.Contains(err.Error(), row.refused)):
			t.Errorf("%q: %v, want a refusal with %q", row.text, err, row.refused)
		case row.refused == "" && (err != nil || ace.String() != row.want):
			t.Errorf("%q: %v, %v, want %s", row.text, ace, err, row.want)
		}
	}
}

func TestRangeForms(t *testing.T) {
	rows := []struct{ text, want, refused string }{
		{text: "s0", want: "s0"},
		{text: "s0-s3", want: "s0-s3"},
		{text: "s3-s3", want: "s3"},
		{text: "s007", want: "s7"},
		{text: "s9-s10", want: "s9-s10"},
		{text: "s99999999999999999999-s100000000000000000000", want: "s99999999999999999999-s100000000000000000000"},
		{text: "s0:c4,c2,c3", want: "s0:c2.c4"},
		{text: "s0:c1.c1", want: "s0:c1"},
		{text: "s0:c0.c1023", want: "s0:c0.c1023"},
		{text: "s0:c1,", want: "s0:c1"},
		{text: "s0:,", want: "s0:"},
		{text: "", refused: "invalid range part"},
		{text: "s0:", refused: "invalid range part s0:"},
		{text: "s0-", refused: "invalid range part s0-"},
		{text: ":c1", refused: "invalid range part"},
		{text: "s0:c1.", refused: "invalid range part c1."},
		{text: "s", refused: "invalid sensitivity s"},
		{text: "q0", refused: "invalid sensitivity q0"},
		{text: "s0-s1-s2", refused: "invalid sensitivity s1-s2"},
		{text: "s-1", refused: "invalid sensitivity s"},
		{text: "s10-s9", refused: "SELinux range specified (s10-s9)"},
		{text: "s0:c1024", refused: "invalid category c1024"},
		{text: "s0:c99999999999999999999", refused: "invalid category"},
		{text: "s0:,c1", refused: "invalid category"},
		{text: "s0:c1:c2", refused: "invalid category c1:c2"},
		{text: "s0:c1.c5.c9", refused: "invalid category c5.c9"},
		{text: "s0:c5.c1", refused: "invalid category range c5.c1"},
		{text: "s0:c5.c7,c6", refused: "duplicate categories"},
		{text: "s0:c1,c1,q", refused: "invalid category q"},
	}
	for _, row := range rows {
		r, err := ParseRange(row.text)
		switch {
		case row.refused != "" && (err == nil || !strings.Contains(err.Error(), row.refused)):
			t.Errorf("%q: %v, want a refusal with %q", row.text, err, row.refused)
		case row.refused == "" && (err != nil || r.String() != row.want):
			t.Errorf("%q: %v, %v, want %s", row.text, r, err, row.want)
		}
	}
}

func TestModeForms(t *testing.T) {
	rows := []struct {
		text, want string
		bits       uint32
	}{
		{"", "000", 0}, {"7", "007", 0o7}, {"44", "044", 0o44}, {"644", "644", 0o644}, {"0644", "0644", 0o644}, {"4755", "4755", 0o4755},
		{text: "10755"}, {text: "689"}, {text: "-644"}, {text: "rwx"}, {text: "64 "}, {text: "٦٤٤"},
	}
	for _, row := range rows {
		m, err := ParseMode(row.text)
		if (err == nil) != (row.want != "") || string(m) != row.want || m.Bits() != row.bits {
			t.Errorf("%q: %q %o %v, want %q %o", row.text, m, m.Bits(), err, row.want, row.bits)
		}
	}
}

// TestACEsRoundTrip: the normal form of an entry is an entry with the same meaning.
func TestACEsRoundTrip(t *testing.T) {
	word := rapid.SampledFrom([]string{"", "d", "default", "u", "user", "g", "group", "m", "mask", "o", "other", "ana", "7", "8", "rwx", "r-x", "x", "q"})
	rapid.Check(t, func(t *rapid.T) {
		checkACE(t, strings.Join(rapid.SliceOfN(word, 1, 5).Draw(t, "parts"), ":"))
	})
}

// fataler is what testing and rapid have in common.
type fataler interface {
	Fatalf(format string, args ...any)
}

func checkACE(t fataler, text string) {
	ace, err := ParseACE(text)
	if err != nil {
		return
	}
	again, err := ParseACE(ace.String())
	if err != nil || again != ace {
		t.Fatalf("%q is %s, which is read as %s, %v", text, ace, again, err)
	}
	if ace.Name == "" && !ace.Default && ace.Type != ACEMask {
		t.Fatalf("%q is an entry that the mode sets: %s", text, ace)
	}
}

func TestRangesRoundTrip(t *testing.T) {
	part := rapid.SampledFrom([]string{"s0", "s1", "s15", "-", ":", "c1", "c2", "c3", "c9", "c1023", ".", ",", "0", "c"})
	rapid.Check(t, func(t *rapid.T) {
		checkRange(t, strings.Join(rapid.SliceOfN(part, 1, 12).Draw(t, "parts"), ""))
	})
}

func checkRange(t fataler, text string) {
	r, err := ParseRange(text)
	if err != nil || r.HasCategories && len(r.Categories) == 0 {
		return
	}
	again, err := ParseRange(r.String())
	if err != nil || again.String() != r.String() {
		t.Fatalf("%q is %s, which is read as %s, %v", text, r, again, err)
	}
	for i, c := range r.Categories {
		if c < 0 || c >= categoryCount || i > 0 && c <= r.Categories[i-1] {
			t.Fatalf("%q: the categories %v are not sorted, or not categories", text, r.Categories)
		}
	}
}

// TestRangesHoldTheirCategories: what is written is what is read, in any order and grouping.
func TestRangesHoldTheirCategories(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.SliceOfNDistinct(rapid.IntRange(0, 1023), 1, 30, rapid.ID[int]).Draw(t, "categories")
		var parts []string
		for _, c := range want {
			parts = append(parts, fmt.Sprintf("c%d", c))
		}
		r, err := ParseRange("s0:" + strings.Join(parts, ","))
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Categories) != len(want) {
			t.Fatalf("%v became %v", want, r.Categories)
		}
		again, err := ParseRange(r.String())
		if err != nil || fmt.Sprint(again.Categories) != fmt.Sprint(r.Categories) {
			t.Fatalf("%s became %v, %v", r, again.Categories, err)
		}
	})
}

func FuzzParseACE(f *testing.F) {
	for _, text := range []string{"u:ana:rw", "d:u:ana:7", "m::rwx", "d::0", "u:m:r", ":::", "é:r"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) { checkACE(t, text) })
}

func FuzzParseRange(f *testing.F) {
	for _, text := range []string{"s0", "s0-s15:c0.c1023", "s1:c5,c3,c4", "s0:,", "s0:c1.c2.c3"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) { checkRange(t, text) })
}

func FuzzParseMode(f *testing.F) {
	for _, text := range []string{"", "7", "644", "4755", "0o755", "-1"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		m, err := ParseMode(text)
		if err != nil {
			return
		}
		if again, err := ParseMode(string(m)); err != nil || again != m || m.Bits() > 0o7777 || !strings.HasSuffix(string(m), text) {
			t.Fatalf("%q is %q (%o), which is read as %q, %v", text, m, m.Bits(), again, err)
		}
	})
}
