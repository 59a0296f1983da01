package agent

import (
	"cmp"
	"net"
	"net/netip"
	"time"

	"github.com/fairlead-net/fairlead/endpoint"
	"github.com/fairlead-net/fairlead/store"
)

// record is an endpoint as it is kept in the store, by name.
type record struct {
	Name      string            `json:"name"`
	ID        string            `json:"id"`
	Network   string            `json:"network"`
	NetNS     string            `json:"netns"`
	NSInode   uint64            `json:"ns_inode"`
	IfName    string            `json:"ifname"`
	Addresses []netip.Addr      `json:"addresses"`
	Labels    map[string]string `json:"labels"`
	Created   time.Time         `json:"created"`
	Guest     guest             `json:"guest,omitzero"`
}

// guest is what is kept besides of an endpoint whose inside another program puts into its container. That program knows it
// by the record's ID, and its network by the record's Network.
type guest struct {
	Stage     stage        `json:"stage"`
	MAC       string       `json:"mac"`
	MTU       int          `json:"mtu"`      // bytes, 0 = the node's
	Gateways  []netip.Addr `json:"gateways"` // one for each address
	Container string       `json:"container,omitempty"`
}

// stage is how far a guest has come. An endpoint that is none has no stage.
type stage string

const (
	stageAdmitted stage = "admitted" // it has its addresses and no link
	stageJoining  stage = "joining"  // its link is being made
	stageJoined   stage = "joined"   // its link was handed over: once that is gone it is not made again
)

// title is what people call it.
func (r record) title() string { return cmp.Or(r.Guest.Container, r.Name) }

func endpoints() store.Bucket[record] { return store.Bucket[record]{Name: "endpoints"} }

// sysctls keeps what kernel parameters were before we set them, by path, for uninstall.
func sysctls() store.Bucket[string] { return store.Bucket[string]{Name: "sysctls"} }

// intents keeps what was asked for and takes longer than one commit, by its name, so that a daemon that is killed in the
// midst of it goes on with it at its next start.
func intents() store.Bucket[bool] { return store.Bucket[bool]{Name: "intents"} }

const intentUninstall = "uninstall"

// leaving tells whether an uninstall is under way, as the disk knows it.
func leaving(tx *store.Tx) (bool, error) {
	wanted, _, err := intents().Get(tx, intentUninstall)
	return wanted, err
}

// row is the endpoint as the kernel should have it, but for the MTU, which depends on the network.
func (r record) row() endpoint.Row {
	row := endpoint.Row{
		Name: r.Name, HostIf: endpoint.HostIf(r.Name), NetNS: r.NetNS, NSInode: r.NSInode, IfName: r.IfName,
	}
	for _, a := range r.Addresses {
		if a.Is4() {
			row.IP4 = a
		} else {
			row.IP6 = a
		}
	}
	row.MAC = endpoint.ContainerMAC(r.Addresses[0])
	if r.Guest.Stage != "" {
		r.Guest.furnish(&row)
	}
	return row
}

func (g guest) furnish(row *endpoint.Row) {
	row.NetNS, row.NSInode, row.IfName = "", 0, endpoint.PeerIf(row.Name)
	for _, a := range g.Gateways {
		if a.Is4() {
			row.Gateway4 = a
		} else {
			row.Gateway6 = a
		}
	}
	if mac, err := net.ParseMAC(g.MAC); err == nil && len(mac) == len(row.MAC) {
		row.MAC = endpoint.MAC(mac)
	}
}
