package endpoint

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// The alias of the host side carries what the name's hash does not, so that leases can be rebuilt from the kernel alone
// and a person sees at `ip link` whose interface it is:
//
//	fairlead web1 eth0 10.88.1.5,2001:db8:88::5 02:58:0a:58:01:05 4026532345 /run/netns/web1
//
// The kernel keeps 255 bytes. Where that is too little, "-" is the hardware address that follows from the first address,
// "=" is the path /run/netns/<name>, and at last '#' and a hash stand for the path, the name, or both. The words are
// URL-escaped, so no escaped word begins with '#'. A pair that is handed over has its gateways, behind '@', for the path.
const (
	aliasWord = "fairlead"
	aliasMax  = 255
	hashLen   = 16 // hexadecimal digits of a SHA-256
	sameMAC   = "-"
	samePath  = "="
	handed    = "@"
)

// alias is how r is written on its host side: the first of the ways below that fits.
func (r Row) alias() string {
	name, path, mac := escape(r.Name), escape(r.NetNS), r.MAC.String()
	if r.Handed() {
		path = handed + addrList(r.Greets())
	}
	brief, short := mac, path
	if r.MAC == ContainerMAC(r.addrs()[0]) {
		brief = sameMAC
	}
	if r.NetNS == namedNetNS+"/"+r.Name {
		short = samePath
	}
	var s string
	for _, way := range [][3]string{
		{name, mac, path}, {name, brief, path}, {name, brief, short}, {name, brief, digest(r.NetNS)},
		{digest(r.Name), brief, path}, {digest(r.Name), brief, digest(r.NetNS)},
	} {
		if s = r.aliasOf(way[0], way[1], way[2]); len(s) <= aliasMax {
			break
		}
	}
	return s
}

func (r Row) aliasOf(name, mac, path string) string {
	return strings.Join([]string{
		aliasWord, name, r.IfName, addrList(r.addrs()), mac, strconv.FormatUint(r.NSInode, 10), path,
	}, " ")
}

func addrList(all []netip.Addr) string {
	var words []string
	for _, a := range all {
		words = append(words, a.String())
	}
	return strings.Join(words, ",")
}

// parseAlias reads what alias wrote; MTU and HostIf are not in it. Words that were hashed come back as they are.
func parseAlias(s string) (Row, error) {
	words := strings.Split(s, " ")
	if len(words) != 7 || words[0] != aliasWord {
		return Row{}, fmt.Errorf("alias %q is not ours", s)
	}
	r := Row{IfName: words[2]}
	var err error
	if r.Name, err = unescape(words[1]); err != nil {
		return Row{}, err
	}
	gateways, over := strings.CutPrefix(words[6], handed)
	switch {
	case over:
		r.Gateway4, r.Gateway6, err = parseAddrs(gateways)
	case words[6] == samePath:
		r.NetNS = namedNetNS + "/" + r.Name
	default:
		r.NetNS, err = unescape(words[6])
	}
	if err != nil {
		return Row{}, fmt.Errorf("alias %q: %w", s, err)
	}
	if r.NSInode, err = strconv.ParseUint(words[5], 10, 64); err != nil {
		return Row{}, fmt.Errorf("alias %q: %w", s, err)
	}
	if r.IP4, r.IP6, err = parseAddrs(words[3]); err != nil {
		return Row{}, fmt.Errorf("alias %q: %w", s, err)
	}
	if r.MAC, err = parseMAC(words[4], r.addrs()[0]); err != nil {
		return Row{}, fmt.Errorf("alias %q: %w", s, err)
	}
	return r, nil
}

func parseAddrs(list string) (ip4, ip6 netip.Addr, err error) {
	for word := range strings.SplitSeq(list, ",") {
		a, err := netip.ParseAddr(word)
		if err != nil {
			return ip4, ip6, err
		}
		if a.Is4() {
			ip4 = a
		} else {
			ip6 = a
		}
	}
	return ip4, ip6, nil
}

func parseMAC(s string, first netip.Addr) (MAC, error) {
	if s == sameMAC {
		return ContainerMAC(first), nil
	}
	b, err := net.ParseMAC(s)
	if err != nil {
		return MAC{}, err
	}
	if len(b) != len(MAC{}) {
		return MAC{}, fmt.Errorf("hardware address %s is none of Ethernet", s)
	}
	return MAC(b), nil
}

// digest stands for text that is too long.
func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return "#" + hex.EncodeToString(sum[:hashLen/2])
}

// escape keeps a path readable: only what would break the words apart is escaped.
func escape(s string) string {
	return strings.ReplaceAll(url.PathEscape(s), "%2F", "/")
}

func unescape(s string) (string, error) {
	if strings.HasPrefix(s, "#") {
		return s, nil
	}
	t, err := url.PathUnescape(s)
	if err != nil {
		return "", fmt.Errorf("alias word %q: %w", s, err)
	}
	return t, nil
}

// truncated says whether r does not fit into an alias.
func (r Row) truncated() bool {
	back, err := parseAlias(r.alias())
	return err != nil || back.Name != r.Name || back.NetNS != r.NetNS
}

// names says whether r, read from an alias, belongs to the host side hostIf; a hashed name begins as the link's does.
func (r Row) names(hostIf string) bool {
	digits, hashed := strings.CutPrefix(r.Name, "#")
	return HostIf(r.Name) == hostIf || hashed && len(digits) == hashLen && "fl"+digits[:10] == hostIf
}
