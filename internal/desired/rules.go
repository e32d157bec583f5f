package desired

import (
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/gitopsd/gitopsd/internal/desired/strict"
)

var (
	hostNameForm  = strict.NewPattern(`^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$`, 1, 63)
	setNameForm   = strict.NewPattern(`^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$`, 1, 100)
	groupIDForm   = strict.NewPattern(`^[0-9A-Za-z][0-9A-Za-z_-]*$`, 8, 64)
	storageForm   = strict.NewPattern(`^[0-9a-f]*$`, 16, 16)
	digestForm    = strict.NewPattern(`^sha256:[0-9a-f]*$`, len("sha256:")+64, len("sha256:")+64)
	commitForm    = strict.NewPattern(`^([0-9a-f]{40}|[0-9a-f]{64})$`, 40, 64)
	unitForm      = strict.NewPattern(`^[A-Za-z0-9:_.\\@-]*$`, 1, 255)
	groupNameForm = strict.NewPattern(`^[A-Za-z0-9+=,.@_-]*$`, 1, 100)
	headerForm    = strict.NewPattern(`^[A-Za-z0-9-]*$`, 1, 64)
	dnsForm       = strict.NewPattern(`^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$`, 1, 253)
)

// HostNameRule is what a host may be called: it is a file name, a URL's host and one half of HOST/STORAGE.
func HostNameRule() strict.Rule {
	return strict.Match(hostNameForm, "a host name (1 to 63 letters, digits, dots, dashes or underscores, beginning and ending with a letter or digit)")
}

// CommitRule is a full commit id.
func CommitRule() strict.Rule {
	return strict.Match(commitForm, "a full commit id (40 hexadecimal digits, as git rev-parse HEAD prints)")
}

func setNameRule() strict.Rule {
	return strict.Match(setNameForm, "a name (1 to 100 letters, digits, dots, dashes or underscores)")
}

func storageRule() strict.Rule {
	return strict.Match(storageForm, "a storage id (16 hexadecimal digits, made by gitopsd host init)")
}

// AddressRule is HOST:PORT with a host another machine can dial.
func AddressRule() strict.Rule {
	return strict.Rule{Test: func(s string) (string, string) {
		if err := CheckAddress(s, false); err != nil {
			return err.Error(), "for example 10.0.0.11:7946"
		}
		return "", ""
	}, Schema: map[string]any{"pattern": `^.+:[0-9]+$`}}
}

// ListenRule is HOST:PORT to listen on; the host may be empty or unspecified and the port 0.
func ListenRule() strict.Rule {
	return strict.Rule{Test: func(s string) (string, string) {
		if err := CheckAddress(s, true); err != nil {
			return err.Error(), "for example 0.0.0.0:7946"
		}
		return "", ""
	}, Schema: map[string]any{"pattern": `^.*:[0-9]+$`}}
}

// CheckAddress says what is wrong with HOST:PORT. listen allows an empty or unspecified host and port 0.
func CheckAddress(s string, listen bool) error {
	cut := strings.LastIndexByte(s, ':')
	if cut < 0 {
		return fmt.Errorf("%.80q is not HOST:PORT", s)
	}
	host, port := s[:cut], s[cut+1:]
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 && !listen || port != strconv.FormatUint(n, 10) {
		return fmt.Errorf("%.80q has no port between 1 and 65535", s)
	}
	bracketed := strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]")
	if bracketed {
		host = host[1 : len(host)-1]
	}
	addr, err := netip.ParseAddr(host)
	switch {
	case host == "" && listen:
		return nil
	case err == nil && addr.Is6() != bracketed:
		return fmt.Errorf("%.80q: an IPv6 address stands in brackets, and only that", s)
	case err == nil && addr.IsUnspecified() && !listen:
		return fmt.Errorf("%.80q is no address another host can dial", s)
	case err != nil && (bracketed || !dnsForm.MatchString(host)):
		return fmt.Errorf("%.80q is not HOST:PORT", s)
	}
	return nil
}

// urlRule is an http or https URL without credentials.
func urlRule() strict.Rule {
	return strict.Rule{Test: func(s string) (string, string) {
		u, err := url.Parse(s)
		switch {
		case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.ContainsAny(s, " \t\r\n"):
			return fmt.Sprintf("%.120q is not an http or https URL", s), "for example https://example.com/path"
		case u.User != nil:
			return "the URL holds credentials", "keep them out of git"
		}
		return "", ""
	}, Schema: map[string]any{"pattern": "^https?://"}}
}

// AbsoluteRule is an absolute path in its shortest form, without control characters.
func AbsoluteRule() strict.Rule {
	return strict.All(strict.Text(4096), strict.Rule{Test: func(s string) (string, string) {
		if !strings.HasPrefix(s, "/") {
			return fmt.Sprintf("%.120q is not an absolute path", s), ""
		}
		for part := range strings.SplitSeq(s, "/") {
			if part == ".." || part == "." {
				return fmt.Sprintf("%.120q holds . or ..", s), ""
			}
		}
		return "", ""
	}, Schema: map[string]any{"pattern": "^/"}})
}
