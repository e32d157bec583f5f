package appspec

// ACEType says whom an ACL entry is about.
type ACEType string

// The types of ACL entries.
const (
	ACEUser  ACEType = "user"
	ACEGroup ACEType = "group"
	ACEMask  ACEType = "mask"
	ACEOther ACEType = "other"
)

// ACE is one entry of an access control list.
type ACE struct {
	Default              bool // inherited by what is made in the directory
	Type                 ACEType
	Name                 string // empty: the owner, the owning group, the mask or all others
	Read, Write, Execute bool
}

// String gives the entry as setfacl takes it: [default:]type:name:rwx.
func (a ACE) String() string {
	text := string(a.Type) + ":" + a.Name + ":" + bit(a.Read, "r") + bit(a.Write, "w") + bit(a.Execute, "x")
	if a.Default {
		return "default:" + text
	}
	return text
}

func bit(set bool, letter string) string {
	if set {
		return letter
	}
	return "-"
}
