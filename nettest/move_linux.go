package nettest

import (
	"fmt"
	"path/filepath"
	"strings"
)

// Unplug takes the host's cable out of its switch; Plug puts it back.
func (n *Node) Unplug() { n.lab.Switches[n.Subnet].IP("link set " + n.Name + " down") }

// Plug is the end of Unplug.
func (n *Node) Plug() { n.lab.Switches[n.Subnet].IP("link set " + n.Name + " up") }

// Down takes the host's own link down; Up brings it back as the host's network configuration would.
func (n *Node) Down() { n.IP("link set eth0 down") }

// Up is the end of Down. The kernel has forgotten IPv6 addresses and all routes meanwhile.
func (n *Node) Up() {
	n.lab.t.Helper()
	n.IP("link set eth0 up")
	if n.Address6.IsValid() {
		n.IP(fmt.Sprintf("-6 addr replace %s/64 dev eth0 nodad", n.Address6))
	}
	n.DefaultRoutes()
}

// Move carries the running host to another subnet: its cable goes from switch to switch, and a DHCP client would then do
// as Renumber does. The other hosts are told by nobody: see Config.
func (n *Node) Move(subnet int) {
	n.lab.t.Helper()
	from, to := n.lab.Switches[n.Subnet], n.lab.Switches[subnet]
	from.IP(fmt.Sprintf("link set %s netns %s", n.Name, filepath.Base(to.Path)))
	to.IP(fmt.Sprintf("link set %s master br0 up", n.Name))
	n.readdress(subnet, numberOf(n.Name))
}

// Renumber gives the host addresses with another number in its subnet instead of those that it has.
func (n *Node) Renumber(number int) {
	n.lab.t.Helper()
	n.readdress(n.Subnet, number)
}

// readdress takes the addresses and routes of eth0 away and sets those of another place.
func (n *Node) readdress(subnet, number int) {
	n.lab.t.Helper()
	n.Unaddress()
	n.Subnet = subnet
	n.Address4, n.Address6 = n.lab.address(n.Host, "eth0", subnet, number)
	n.DefaultRoutes()
}

// Unaddress takes the addresses and routes of eth0 away, as a network manager does when the cable is out. Renumber is its
// end.
func (n *Node) Unaddress() {
	n.lab.t.Helper()
	n.IP("-4 addr flush dev eth0")
	n.IP("-6 addr flush dev eth0 scope global")
	n.IP("-6 route flush dev eth0 proto boot") // the kernel keeps them when the address goes
}

// Unlink takes the first link away, and tells its hardware address.
func (n *Node) Unlink() (mac string) {
	n.lab.t.Helper()
	_, rest, _ := strings.Cut(n.IP("-oneline link show dev eth0"), "link/ether ")
	mac, _, _ = strings.Cut(rest, " ")
	n.IP("link del eth0")
	return mac
}

// Link is the end of Unlink: the link is made again under its name, as the card that it was. Renumber gives it addresses.
func (n *Node) Link(mac string) {
	n.lab.t.Helper()
	n.lab.connect(n.Host, "eth0", n.Subnet, n.Name)
	n.IP("link set eth0 address " + mac)
}

// AddUplink gives the host a second link, eth1, into another subnet, with addresses of its number there.
func (n *Node) AddUplink(subnet int) {
	n.lab.t.Helper()
	n.lab.connect(n.Host, "eth1", subnet, n.Name+"b")
	n.lab.address(n.Host, "eth1", subnet, numberOf(n.Name))
}

// DefaultByUplink adds default routes by the second link, into that subnet, which count as long as the first has none.
func (n *Node) DefaultByUplink(subnet int) {
	n.lab.t.Helper()
	n.Batch(fmt.Sprintf("route add default via %s dev eth1 metric 7000", number4(subnet, 254)),
		fmt.Sprintf("-6 route add default via %s dev eth1 metric 7000", number6(subnet, 254)))
}

// CutUplink takes the second link away.
func (n *Node) CutUplink() {
	n.lab.t.Helper()
	n.IP("link del eth1")
}
