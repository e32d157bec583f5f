package transport

import (
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// congestionAt asks the kernel what it uses for a connection.
func congestionAt(t *testing.T, c net.Conn) string {
	t.Helper()
	raw, err := c.(*Conn).NetConn().(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	return congestionOf(raw)
}

// otherCongestion is one that the kernel lets this process choose, and does not choose itself.
func otherCongestion(t *testing.T) (usual, other string) {
	t.Helper()
	read := func(name string) []string {
		text, err := os.ReadFile("/proc/sys/net/ipv4/" + name)
		if err != nil {
			t.Skipf("the kernel does not say how it controls congestion: %v", err)
		}
		return strings.Fields(string(text))
	}
	usual = read("tcp_congestion_control")[0]
	allowed := slices.DeleteFunc(read("tcp_allowed_congestion_control"), func(name string) bool { return name == usual })
	if len(allowed) == 0 {
		t.Skipf("this kernel has nothing but %s", usual)
	}
	return usual, allowed[0]
}

// TestNearCongestion: both ends of a connection in the own network, and those alone, use what is chosen for it.
func TestNearCongestion(t *testing.T) {
	usual, other := otherCongestion(t)
	for _, c := range []struct {
		name string
		near func(string) bool
		want string
	}{
		{"near", func(host string) bool { return host == "web-1" || host == "web-2" }, other},
		{"far", func(string) bool { return false }, usual},
		{"not told", nil, usual},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := newInventory()
			keys := map[string]*host{}
			for _, name := range []string{"web-1", "web-2"} {
				h := unbound(t, name, newKey(t), dir)
				h.near, h.congestion = c.near, other
				if _, err := h.Bind(); err != nil {
					t.Fatal(err)
				}
				dir.set(name, h.Addr().String(), public(h.key))
				keys[name] = h.run(t)
			}
			inbox := keys["web-2"].Listener("test/1")
			out, err := keys["web-1"].Dial(ctxFor(t), "web-2", "test/1")
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			in, err := inbox.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()
			if got := congestionAt(t, out); got != c.want {
				t.Errorf("who dialled uses %s, want %s", got, c.want)
			}
			if got := congestionAt(t, in); got != c.want {
				t.Errorf("who accepted uses %s, want %s", got, c.want)
			}
		})
	}
}
