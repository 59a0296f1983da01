package docker_test

import (
	"strings"
	"testing"
	"time"
)

const (
	answerNet   = "1111111111111111111111111111111111111111111111111111111111111111"
	answerGuest = "2222222222222222222222222222222222222222222222222222222222222222"
	answerOrder = "docker network create -d fairlead --ipam-driver fairlead --subnet 10.88.0.0/16 NAME"
	answerBoth  = "docker network create -d fairlead --ipam-driver fairlead --ipv6 --subnet 10.88.0.0/16 --subnet fd88::/64 NAME"
)

// Each request and a part of its answer, or of what the host then has, one after the other on one host. With "!" it is what
// must not be there.
func TestAnswers(t *testing.T) {
	network := func(rest string) string { return `{"NetworkID":"` + answerNet + `",` + rest + `}` }
	subnets := func(options, four string) string {
		return network(`"Options":{` + options + `},"IPv4Data":[` + four + `],"IPv6Data":[]`)
	}
	const four, six = `{"AddressSpace":"fairlead","Pool":"10.88.0.0/16","Gateway":"169.254.9.1/32"}`, `{"AddressSpace":"fairlead","Pool":"fd88::/64"}`
	generic := func(options string) string { return `"com.docker.network.generic":{` + options + `}` }
	for name, story := range map[string][][3]string{
		"the command is told": {
			{"IpamDriver.RequestPool", `{"AddressSpace":"fairlead","Pool":"","V6":false}`, answerOrder},
			{"IpamDriver.RequestPool", `{"AddressSpace":"fairlead","Pool":"","V6":true}`, answerBoth},
			{"IpamDriver.RequestPool", `{"AddressSpace":"other","Pool":"10.88.0.0/16"}`, answerOrder},
			{"NetworkDriver.CreateNetwork", subnets("", ""), answerOrder},
			{"NetworkDriver.CreateNetwork", subnets("", `{"AddressSpace":"LocalDefault","Pool":"172.18.0.0/16","Gateway":"172.18.0.1/16"}`), answerOrder},
			{"NetworkDriver.CreateNetwork", subnets("", `{"AddressSpace":"LocalDefault","Pool":"10.88.4.0/24"}`), "--subnet 10.88.4.0/24 NAME"},
			{"NetworkDriver.CreateNetwork", network(`"IPv4Data":[{"AddressSpace":"LocalDefault","Pool":"172.18.0.0/16"}],"IPv6Data":[{"AddressSpace":"LocalDefault","Pool":"fd88::/64"}]`), answerBoth},
			{"NetworkDriver.CreateNetwork", network(`"IPv6Data":[{"AddressSpace":"LocalDefault","Pool":"fd88::/80"}]`), "--ipv4=false --ipv6 --subnet fd88::/80 NAME"},
			{"NetworkDriver.AllocateNetwork", "{}", "networks of a swarm are not supported"},
		},
		"subnets that can not be": {
			{"IpamDriver.RequestPool", `{"AddressSpace":"fairlead","Pool":"10.99.0.0/16"}`, `it has apps (10.88.0.0/16), data (10.89.0.0/16), six (fd88::/64); choose a subnet of one, or add to the config of every host: [[pool]] name = \"NAME\" cidr = \"10.99.0.0/16\"`},
			{"IpamDriver.RequestPool", `{"AddressSpace":"fairlead","Pool":"10.0.0.0/8"}`, "lies in no [[pool]]"},
			{"IpamDriver.RequestPool", `{"AddressSpace":"fairlead","Pool":"10.88.1.1/16"}`, "use --subnet 10.88.0.0/16"},
			{"IpamDriver.RequestPool", `{"AddressSpace":"fairlead","Pool":"10.88.0.0/16","SubPool":"10.89.1.0/24"}`, "range 10.89.1.0/24 is not a part of subnet"},
			{"IpamDriver.RequestPool", `{"AddressSpace":"fairlead","Pool":"10.88.0.0/16","Options":{"fairlead.mtu":"1400"}}`, "use -o instead of --ipam-opt"},
			{"NetworkDriver.CreateNetwork", subnets("", four+","+four), "create a network for each subnet"},
			{"NetworkDriver.CreateNetwork", subnets("", `{"AddressSpace":"fairlead","Pool":"10.88.0.0/16","Gateway":"10.88.0.1/16"}`), "leave --gateway out"},
			{"IpamDriver.RequestAddress", `{"PoolID":"10.88.0.0/16","Address":"fe80::1","Options":{"RequestAddressType":"com.docker.network.gateway"}}`, "leave --gateway out"},
		},
		"options": {
			{"NetworkDriver.GwAllocCheck", `{"Options":{` + generic(`"fairlead.pools":"a"`) + `}}`, "option fairlead.pools is unknown: there are fairlead.pool, fairlead.mtu, fairlead.nat, fairlead.isolate"},
			{"NetworkDriver.GwAllocCheck", `{"Options":{` + generic(`"com.docker.network.bridge.name":"a","parent":"b"`) + `}}`, `{"SkipIPv4":false,"SkipIPv6":false}`},
			{"NetworkDriver.CreateNetwork", subnets(generic(`"fairlead.nat":"yes"`), four), "option fairlead.nat=yes: want on or off"},
			{"NetworkDriver.CreateNetwork", subnets(generic(`"fairlead.pool":"data"`), four), "subnet 10.88.0.0/16 is of apps"},
			{"NetworkDriver.CreateNetwork", subnets(generic(`"fairlead.pool":"nil"`), four), "the config has apps, data, six"},
			{"NetworkDriver.CreateNetwork", subnets(generic(`"fairlead.mtu":"60"`), four), "want 68 to 65535"},
			{"NetworkDriver.CreateNetwork", network(`"Options":{` + generic(`"fairlead.mtu":"1000"`) + `},"IPv6Data":[` + six + `]`), "want 1280 to 65535"},
			{"NetworkDriver.CreateNetwork", subnets(generic(`"fairlead.mtu":"1300","com.docker.network.driver.mtu":"1400","fairlead.nat":"on","fairlead.isolate":"off"`), four), "{}"},
			{"", "", "via 169.254.9.1 mtu=1300 outgoing=\"on\" isolated=false internal=false"},
			{"NetworkDriver.CreateNetwork", subnets("", four), "is there and another one"},
			{"NetworkDriver.CreateNetwork", network(`"IPv4Data":[` + four + `],"IPv6Data":[` + six + `]`), "is there and another one"},
			{"", "", "!gateway fe80::1"},
			{"NetworkDriver.CreateEndpoint", network(`"EndpointID":"` + answerGuest + `","Interface":{"Address":"10.88.1.1/32"},"Options":{"fairlead.nat":"on"}`), "use -o with docker network create"},
		},
		"hardware addresses": {
			{"NetworkDriver.CreateNetwork", subnets("", four), "{}"},
			{"IpamDriver.RequestAddress", `{"PoolID":"10.88.0.0/16","Address":""}`, `"Address":"10.88.1.1/32"`},
			{"NetworkDriver.CreateEndpoint", answerEndpoint("", `"com.docker.network.endpoint.macaddress":"AkKqu8z="`), "is not of six bytes"},
			{"NetworkDriver.CreateEndpoint", answerEndpoint("", `"com.docker.network.endpoint.macaddress":"?"`), "is not base64"},
			{"NetworkDriver.CreateEndpoint", answerEndpoint("03:42:aa:bb:cc:dd", ""), "clear the lowest bit of its first byte"},
			{"NetworkDriver.CreateEndpoint", answerEndpoint("", `"com.docker.network.endpoint.macaddress":"AkKqu8zd"`), `{"Interface":{"MacAddress":"02:42:aa:bb:cc:dd"}}`},
			{"NetworkDriver.CreateEndpoint", answerEndpoint("02:42:aa:bb:cc:dd", ""), "{}"},
			{"NetworkDriver.CreateEndpoint", answerEndpoint("02:42:aa:bb:cc:de", ""), "is there and another one"},
		},
		"ports of one family": {
			{"NetworkDriver.CreateNetwork", network(`"IPv4Data":[` + four + `],"IPv6Data":[` + six + `]`), "{}"},
			{"IpamDriver.RequestAddress", `{"PoolID":"10.88.0.0/16","Address":""}`, `"Address":"10.88.1.1/32"`},
			{"NetworkDriver.CreateEndpoint", answerEndpoint("", ""), "MacAddress"},
			{"NetworkDriver.Join", answerEndpoint("", ""), `"Gateway":"169.254.9.1","StaticRoutes":[{"Destination":"169.254.9.1/32","RouteType":1},{"Destination":"10.88.0.0/16","RouteType":0,"NextHop":"169.254.9.1"}]}`},
			{"NetworkDriver.ProgramExternalConnectivity", answerEndpoint("", `"com.docker.network.portmap":[{"Proto":6,"Port":80,"HostIP":"::","HostPort":8080,"HostPortEnd":8080},{"Proto":132,"Port":9,"HostIP":"0.0.0.0"}]`), "{}"},
			{"", "", "ports=[0.0.0.0::9/sctp]"},
			{"NetworkDriver.ProgramExternalConnectivity", answerEndpoint("", `"com.docker.network.portmap":[{"Proto":6,"Port":80,"HostIP":"2001:db8::1","HostPort":8080}]`), `"Err":"`},
			{"NetworkDriver.ProgramExternalConnectivity", answerEndpoint("", `"com.docker.network.portmap":[{"Proto":6,"Port":80,"HostPort":9,"HostPortEnd":8}]`), "are no range"},
			{"NetworkDriver.Leave", answerEndpoint("", ""), "{}"},
			{"", "", "ports=[]"},
			{"NetworkDriver.DeleteNetwork", network(`"x":1`), "has endpoint"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newDriverHost()
			s := serveDriver(t, h, 5*time.Second)
			for _, step := range story {
				text := h.String()
				if call := step[0]; call != "" {
					_, answer := s.post(t, call, []byte(step[1]))
					text = string(answer)
				}
				want, no := strings.CutPrefix(step[2], "!")
				if strings.Contains(text, want) == no {
					t.Errorf("%s %s: %s does not say %s", step[0], step[1], text, step[2])
				}
			}
		})
	}
}

func answerEndpoint(mac, options string) string {
	return `{"NetworkID":"` + answerNet + `","EndpointID":"` + answerGuest + `","SandboxKey":"/var/run/docker/netns/1","Interface":{"Address":"10.88.1.1/32",` +
		`"AddressIPv6":"","MacAddress":"` + mac + `"},"Options":{` + options + `}}`
}
