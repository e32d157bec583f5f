package appspec

import (
	"strings"
)

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

// ParseACE reads an entry of `acls`: [d|default:][u|user|g|group|m|mask|o|other:]name:perms, where perms is one octal digit or any mix
// of r, w, x and -. Without a type it is about a user. Entries for the owner, the owning group and all others are refused unless they
// are default ones: the mode sets those. Errors are the agent's.
func ParseACE(text string) (ACE, error) {
	var a ACE
	parts := strings.Split(text, ":")
	n := len(parts)
	if n < 2 || n > 4 {
		return a, badACE(text)
	}
	if n == 4 {
		if !isDefault(parts[0]) {
			return a, badACE(text)
		}
		a.Default = true
	}
	if n >= 3 {
		word := parts[n-3]
		switch {
		case isDefault(word) && !a.Default:
			a.Default = true
		default:
			if a.Type = aceType(word); a.Type == "" {
				return a, badACE(text)
			}
		}
	}
	a.nameOrType(parts[n-2])
	if (a.Type == ACEMask || a.Type == ACEOther) && a.Name != "" {
		return a, badACE(text)
	}
	if !a.Default && a.Type != ACEMask && a.Name == "" {
		return a, refuse("The deployment failed because of a problem with the acls permission settings in the application specification file. Use mode to set the base acl entry (%s). Update the permissions section of the AppSpec file, and then try again.", clip(text))
	}
	return a, a.permissions(parts[n-1], text)
}

// nameOrType takes the part before the permissions: a name, or mask or other where no type was given. After a type, the words for mask
// and other are names, in their long form.
func (a *ACE) nameOrType(word string) {
	typ := aceType(word)
	if typ != ACEMask && typ != ACEOther {
		if a.Type == "" {
			a.Type = ACEUser
		}
		a.Name = word
		return
	}
	if a.Type == "" {
		a.Type = typ
		return
	}
	a.Name = string(typ)
}

// permissions takes the last part of the entry text.
func (a *ACE) permissions(perms, text string) error {
	if len(perms) == 1 && perms[0] >= '0' && perms[0] <= '7' {
		digit := perms[0] - '0'
		a.Read, a.Write, a.Execute = digit&4 != 0, digit&2 != 0, digit&1 != 0
		return nil
	}
	for _, r := range perms {
		switch r {
		case 'r':
			a.Read = true
		case 'w':
			a.Write = true
		case 'x':
			a.Execute = true
		case '-':
		default:
			return refuse("The deployment failed because the access control list (ACL) named %s in the application specification file contains an invalid character (%c). Correct the ACL in the hooks section of the AppSpec file, and then try again.", clip(text), r)
		}
	}
	return nil
}

func isDefault(word string) bool { return word == "d" || word == "default" }

// aceType reads a type in its short or long form; empty for another word.
func aceType(word string) ACEType {
	switch word {
	case "u", "user":
		return ACEUser
	case "g", "group":
		return ACEGroup
	case "m", "mask":
		return ACEMask
	case "o", "other":
		return ACEOther
	}
	return ""
}

func badACE(text string) error {
	return refuse("The deployment failed because of a problem with the acls permission settings in the application specification file. Invalid acl entry (%s).", clip(text))
}
