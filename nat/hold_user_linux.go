package nat

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	osuser "os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// user is a socket that has a port.
type user struct {
	ip    netip.Addr
	inode uint32 // 0: no program has it any more
	id    uint32 // of the user whose program it is
	port  uint16
}

// diagRequest is struct inet_diag_req_v2 of include/uapi/linux/inet_diag.h: every socket of a protocol and family with
// this port, whatever its state.
type diagRequest struct {
	family, proto uint8
	port          uint16
}

const (
	diagLen    = 56
	diagSource = 4 + 4 // of the address, in struct inet_diag_msg
	diagUser   = 4 + 60
	diagInode  = 4 + 64 // the last word of it
	diagEnd    = diagInode + 4
)

func (r diagRequest) Len() int { return diagLen }

func (r diagRequest) Serialize() []byte {
	b := make([]byte, diagLen)
	b[0], b[1] = r.family, r.proto
	binary.NativeEndian.PutUint32(b[4:], ^uint32(0))
	binary.BigEndian.PutUint16(b[8:], r.port)
	return b
}

// usersOf asks the kernel which sockets of the thread's network namespace have a port. Sockets of IPv6 may take what
// comes by IPv4 too.
func usersOf(p Port) (users []user, err error) {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
		req.AddData(diagRequest{family, p.Protocol(), p.Number})
		messages, err := req.Execute(unix.NETLINK_INET_DIAG, 0)
		if err != nil {
			return nil, fmt.Errorf("ask for the sockets with a port: %w", err)
		}
		for _, m := range messages {
			if len(m) < diagEnd || binary.BigEndian.Uint16(m[4:]) != p.Number { // UDP gives all that it has
				continue
			}
			u := user{ip: netip.AddrFrom4([4]byte(m[diagSource:])), inode: binary.NativeEndian.Uint32(m[diagInode:]), port: p.Number}
			u.id = binary.NativeEndian.Uint32(m[diagUser:])
			if family == unix.AF_INET6 {
				u.ip = netip.AddrFrom16([16]byte(m[diagSource:])).Unmap()
			}
			if u.has(p.IP) {
				users = append(users, u)
			}
		}
	}
	return users, nil
}

// has tells whether the socket is in the way of an address.
func (u user) has(ip netip.Addr) bool {
	if u.ip == netip.IPv6Unspecified() {
		return true
	}
	return u.ip.Is4() == ip.Is4() && (u.ip == ip || u.ip.IsUnspecified() || ip.IsUnspecified())
}

// allOver tells whether no program has any of the sockets any more.
func allOver(users []user) bool {
	return !slices.ContainsFunc(users, func(u user) bool { return u.inode != 0 })
}

// name says which program has one of the sockets, as far as it can be found out.
func name(users []user) string {
	if len(users) > 0 && allOver(users) {
		return " by a connection that is closing"
	}
	var links []string
	for _, u := range users {
		if u.inode != 0 {
			links = append(links, fmt.Sprintf("socket:[%d]", u.inode))
		}
	}
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, process := range processes {
		if !opens(process, links) {
			continue
		}
		if comm, err := os.ReadFile(process + "/comm"); err == nil {
			return fmt.Sprintf(" by %s (process %s)", strings.TrimSpace(string(comm)), filepath.Base(process))
		}
	}
	return stranger(users)
}

// stranger names the user of a program whose files may not be looked at: the service has no right to those of others.
func stranger(users []user) string {
	i := slices.IndexFunc(users, func(u user) bool { return u.inode != 0 })
	if i < 0 {
		return " by a program that can not be seen from here"
	}
	owner := strconv.Itoa(int(users[i].id))
	if known, err := osuser.LookupId(owner); err == nil {
		owner = known.Username
	}
	return fmt.Sprintf(" by a program of user %s: ss -anp sport = :%d tells which", owner, users[i].port)
}

// opens tells whether a process has a file open that one of the links stands for.
func opens(process string, links []string) bool {
	fds, err := os.ReadDir(process + "/fd")
	if err != nil {
		return false // it has ended, or is none of our business
	}
	return slices.ContainsFunc(fds, func(fd os.DirEntry) bool {
		to, err := os.Readlink(filepath.Join(process, "fd", fd.Name()))
		return err == nil && slices.Contains(links, to)
	})
}
