package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"time"
)

const (
	engineTimeout = 10 * time.Second // of an answer; an engine that is starting answers nothing until it has started
	engineMost    = 16 << 20         // bytes of an answer: some thousands of containers
)

// errEngineUnknown says that Docker has no such thing.
var errEngineUnknown = errors.New("not known to Docker")

// engine asks Docker over its socket.
//
// The paths carry no version, which each engine takes for its newest (moby, api/server/middleware/version.go): 20.10 knows
// none above 1.41, and 29.0 takes none below 1.44. What is read here is the same in all of them.
type engine struct {
	client *http.Client
}

// engineContainer is a container that runs, starts again or is paused.
type engineContainer struct {
	ID              string `json:"Id"`
	Names           []string
	Image           string
	Labels          map[string]string
	NetworkSettings struct {
		Networks map[string]engineEndpoint // by the network's name
	}
}

// engineEndpoint is what a container has on one network.
type engineEndpoint struct {
	NetworkID         string
	EndpointID        string // "" while it is not connected
	IPAddress         engineAddress
	GlobalIPv6Address engineAddress
	Gateway           engineAddress
	IPv6Gateway       engineAddress
}

// engineNetwork is a network as Docker keeps it.
type engineNetwork struct {
	ID         string `json:"Id"`
	Name       string
	Driver     string
	Internal   bool
	EnableIPv6 bool
	IPAM       struct {
		Driver string
		Config []enginePool
	}
	Options    map[string]string
	Containers map[string]engineAttachment // only when one network is asked for
}

// enginePool is a subnet of a network, as the user asked for it: a gateway that the IPAM driver chose may be missing.
type enginePool struct {
	Subnet             string
	IPRange            string
	Gateway            engineAddress
	AuxiliaryAddresses map[string]engineAddress
}

// engineAttachment is an endpoint of a network, whether its container runs, starts or has gone without a word.
type engineAttachment struct {
	EndpointID  string
	IPv4Address engineAddress
	IPv6Address engineAddress
}

// engineAddress is an address of Docker's, with or without the length of its network behind it; zero when there is none.
type engineAddress struct {
	netip.Addr
}

// UnmarshalText takes the words for "none" of all engines too. Anything else that is no address is an error: who can not
// read what Docker has must not judge what it lacks.
func (a *engineAddress) UnmarshalText(text []byte) error {
	switch s := string(text); s {
	case "", "<nil>", "invalid IP", "invalid Prefix":
		a.Addr = netip.Addr{}
		return nil
	default:
		if p, err := netip.ParsePrefix(s); err == nil {
			a.Addr = p.Addr().Unmap()
			return nil
		}
		addr, err := netip.ParseAddr(s)
		a.Addr = addr.Unmap()
		return err
	}
}

func newEngine(socket string) *engine {
	var dialer net.Dialer
	return &engine{&http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return dialer.DialContext(ctx, "unix", socket)
			},
			ResponseHeaderTimeout:  engineTimeout,
			MaxResponseHeaderBytes: 64 << 10,
			DisableCompression:     true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// containers lists those that run.
func (e *engine) containers(ctx context.Context) (all []engineContainer, err error) {
	err = e.get(ctx, "/containers/json", nil, &all)
	if err == nil && (all == nil || slices.ContainsFunc(all, func(c engineContainer) bool { return c.ID == "" })) {
		err = engineNonsense("/containers/json")
	}
	return all, err
}

// networks lists those of all drivers, without their endpoints.
func (e *engine) networks(ctx context.Context) (all []engineNetwork, err error) {
	err = e.get(ctx, "/networks", nil, &all)
	if err == nil && (all == nil || slices.ContainsFunc(all, func(n engineNetwork) bool { return checkID("Id", n.ID) != nil })) {
		err = engineNonsense("/networks")
	}
	return all, err
}

// network is one with its endpoints. The error wraps errEngineUnknown when Docker has none of that ID.
func (e *engine) network(ctx context.Context, id string) (n engineNetwork, err error) {
	err = e.get(ctx, "/networks/"+id, nil, &n)
	if err == nil && n.ID != id {
		err = engineNonsense("/networks/" + id)
	}
	return n, err
}

// engineNonsense refuses what can be read and can not be so. Taken for an answer, it would say that Docker has nothing.
func engineNonsense(path string) error {
	return fmt.Errorf("read Docker's %s: it is not what was asked for", path)
}

// events is a stream that says something whenever containers or networks have changed, until it is closed.
//
// Health checks are left out: they run something in each container every few seconds.
func (e *engine) events(ctx context.Context) (io.ReadCloser, error) {
	return e.open(ctx, "/events", map[string][]string{
		"type":  {"container", "network"},
		"event": {"create", "start", "die", "rename", "destroy", "connect", "disconnect"},
	})
}

func (e *engine) get(ctx context.Context, path string, filters map[string][]string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, engineTimeout)
	defer cancel()
	body, err := e.open(ctx, path, filters)
	if err != nil {
		return err
	}
	defer body.Close()
	bounded := &io.LimitedReader{R: body, N: engineMost}
	err = json.NewDecoder(bounded).Decode(into)
	switch {
	case err != nil && bounded.N <= 0:
		return fmt.Errorf("read Docker's %s: more than %d bytes", path, engineMost)
	case err != nil:
		return fmt.Errorf("read Docker's %s: %w", path, err)
	}
	return nil
}

// open asks for a path; the answer's body is the caller's to close.
func (e *engine) open(ctx context.Context, path string, filters map[string][]string) (io.ReadCloser, error) {
	address := url.URL{Scheme: "http", Host: "docker", Path: path}
	if filters != nil {
		text, err := json.Marshal(filters)
		if err != nil {
			return nil, fmt.Errorf("ask Docker for %s: %w", path, err)
		}
		address.RawQuery = url.Values{"filters": {string(text)}}.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("ask Docker for %s: %w", path, err)
	}
	resp, err := e.client.Do(req)
	if err != nil {
		// The address that the client puts before the cause is made up.
		var whole *url.Error
		if errors.As(err, &whole) {
			err = whole.Err
		}
		return nil, fmt.Errorf("ask Docker for %s: %w", path, err)
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		return nil, fmt.Errorf("ask Docker for %s: %w", path, engineRefusal(resp))
	}
	return resp.Body, nil
}

// engineRefusal is why Docker does not answer with what it was asked for.
func engineRefusal(resp *http.Response) error {
	if resp.StatusCode == http.StatusNotFound {
		return errEngineUnknown
	}
	var said struct {
		Message string `json:"message"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 4<<10)).Decode(&said); err != nil || said.Message == "" {
		return errors.New(resp.Status)
	}
	return fmt.Errorf("%s: %s", resp.Status, said.Message)
}
