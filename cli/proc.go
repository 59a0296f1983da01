package cli

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"strconv"
	"strings"
)

// parseSockets reads /proc/net/tcp, tcp6, udp or udp6: what listens, and the inode of each.
func parseSockets(proto, text string) (sockets []socketFacts, inodes []string) {
	for line := range strings.Lines(text) {
		w := strings.Fields(line)
		// TCP_LISTEN is 0A, and an unconnected UDP socket is in TCP_CLOSE, 07: include/net/tcp_states.h.
		if len(w) < 10 || proto == "tcp" && w[3] != "0A" || proto == "udp" && w[3] != "07" {
			continue
		}
		if local, ok := parseSocketAddress(w[1]); ok {
			sockets = append(sockets, socketFacts{proto: proto, local: local})
			inodes = append(inodes, w[9])
		}
	}
	return sockets, inodes
}

// parseSocketAddress reads "0100007F:00B3": 32-bit words in the byte order of this machine, then the port.
func parseSocketAddress(s string) (netip.AddrPort, bool) {
	host, port, _ := strings.Cut(s, ":")
	raw, err := hex.DecodeString(host)
	n, errPort := strconv.ParseUint(port, 16, 16)
	if err != nil || errPort != nil || len(raw) != 4 && len(raw) != 16 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	a, ok := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(a.Unmap(), uint16(n)), ok
}

// parseCapable reads /proc/PID/status: whether CAP_NET_ADMIN and CAP_SYS_ADMIN are effective.
func parseCapable(text string) bool {
	const netAdmin, sysAdmin = 1 << 12, 1 << 21 // include/uapi/linux/capability.h
	for line := range strings.Lines(text) {
		if value, is := strings.CutPrefix(line, "CapEff:"); is {
			caps, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
			return err == nil && caps&netAdmin != 0 && caps&sysAdmin != 0
		}
	}
	return false
}

// parseOpenFiles reads the hard limit of "Max open files" in /proc/PID/limits, 0 when there is none.
func parseOpenFiles(text string) uint64 {
	for line := range strings.Lines(text) {
		if value, is := strings.CutPrefix(line, "Max open files"); is {
			if w := strings.Fields(value); len(w) > 1 {
				n, _ := strconv.ParseUint(w[1], 10, 64)
				return n
			}
		}
	}
	return 0
}

// parseUnit is the systemd unit of /proc/PID/cgroup, "" when it belongs to none.
func parseUnit(text string) string {
	for line := range strings.Lines(text) {
		for part := range strings.SplitSeq(strings.TrimSpace(line), "/") {
			if strings.HasSuffix(part, ".service") {
				return part
			}
		}
	}
	return ""
}
