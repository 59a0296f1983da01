// Package cli is Fairlead's command line: the commands, and how their answers look.
//
// All but a few commands are questions to the running daemon over its unix socket. What the others need, main hands
// over as a Program, so that this room knows neither how a config file is read nor how a daemon is built.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/spf13/cobra"
)

// Exit codes that scripts are held to.
const (
	exitDone   = 0
	exitFailed = 1
	exitMisuse = 2
)

// Program is what main hands the commands. Every function is required.
//
// A config path is what --config said: empty means the default file, and no such file means the defaults.
type Program struct {
	Version string

	// Run is the daemon. It returns when ctx ends or when it can not go on.
	Run func(ctx context.Context, o RunOptions) error
	// Check reads the config file as the daemon would. Mistakes in it are in the Verdict, not an error.
	Check func(path string) (Verdict, error)
	// Init writes the text of a commented config file for this host.
	Init func(o InitOptions) (string, error)
	// Settings reads the config and returns what the commands want to know of it. Beside an error it returns as much as
	// it could find out; a socket at least is always worth a try.
	Settings func(path string) (Settings, error)
	// Uninstall takes everything of ours out of the kernel, in this process. It is called only while no daemon runs.
	Uninstall func(ctx context.Context, path string) (Removed, error)
	// CheckStore reads the store file from end to end. It runs in a child process, because a corrupt file may kill it.
	CheckStore func(file string) error
}

// RunOptions are the flags of `fairlead run`.
type RunOptions struct {
	Config  string // path of the config file, empty for the default
	Recover bool   // set a bad store aside and rebuild the leases from the kernel
}

// Verdict is what a check of a config file came to.
type Verdict struct {
	File     string   `json:"file"`     // the file that was read
	Problems []string `json:"problems"` // every mistake, as file:line:col: message; none when the config is good
	Summary  string   `json:"summary"`  // one line on what the config asks for
}

// InitOptions are the facts of a host that `fairlead init` was told; the zero value of each leaves it to the default.
type InitOptions struct {
	Name    string
	Address netip.Addr
	Pools   []netip.Prefix
	Peers   []netip.Addr
}

// Settings is the part of a config that the commands need: to find the daemon, and to judge the host.
type Settings struct {
	File    string // the config file
	Socket  string // of the API
	Paths   Paths
	Node    NodeSettings
	BGP     Ports
	Pools   []netip.Prefix
	Peers   []netip.Addr
	Secrets []string // password files
	Mode    string   // how other hosts are reached: [tunnel] mode
	Accept  string   // who may send into the tunnels: [tunnel] accept
	NAT     NATSettings
	Docker  DockerSettings

	Interval time.Duration // between two passes of a daemon that nothing disturbs; 0: a minute
}

// NATSettings are what the config wants of address translation.
type NATSettings struct {
	Published int  // ports that it fixes for endpoints
	Outgoing  bool // containers of a pool are seen as this host outside the pools
}

// DockerSettings are how Docker and the daemon find each other.
type DockerSettings struct {
	Enable string // "on", "off", or "auto": where there is Docker
	Socket string // that Docker calls
	API    string // where Docker is asked for names, "" = nowhere
}

// Paths are the directories of a daemon.
type Paths struct {
	State string
	Run   string
	Pins  string // of eBPF
}

// NodeSettings is this host as its config describes it.
type NodeSettings struct {
	Address netip.Addr // zero: the source address of the default route
	MTU     int        // of containers in bytes, 0: the underlay's less the overhead
}

// Ports are what the daemon listens on, for BGP and for VXLAN.
type Ports struct {
	Listen netip.Addr // zero: the node's address
	BGP    int
	VXLAN  int
	VNI    int
}

// Removed is what an uninstall took out of the kernel.
type Removed struct {
	Count   int      `json:"removed"`
	Objects []string `json:"objects,omitempty"` // each in words
}

// Execute runs the command line args, without the program's name, and returns the exit code: 0 done, 1 failed, 2 misuse.
func Execute(ctx context.Context, p Program, args []string, stdout, stderr io.Writer) int {
	a := &app{Program: p, out: stdout, err: stderr}
	root := a.root()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitDone
	}
	return a.fail(cmd, err)
}

// app is one run of the program: the global flags and where answers go.
type app struct {
	Program
	out, err io.Writer

	config  string
	socket  string
	format  format
	timeout time.Duration
	begun   bool // the command line was understood and the command has started
}

// misuse is a command line that can not be meant.
type misuse struct{ text string }

func (m misuse) Error() string { return m.text }

func misusef(format string, args ...any) error { return misuse{fmt.Sprintf(format, args...)} }

// errReported ends a command with exit code 1 whose answer has said everything already.
var errReported = errors.New("reported")

// fail says what went wrong and returns the exit code for it.
func (a *app) fail(cmd *cobra.Command, err error) int {
	if errors.Is(err, errReported) {
		return exitFailed
	}
	fmt.Fprintf(a.err, "fairlead: %s\n", visible(err.Error()))
	var m misuse
	if a.begun && !errors.As(err, &m) {
		return exitFailed
	}
	fmt.Fprintf(a.err, "see '%s --help'\n", cmd.CommandPath())
	return exitMisuse
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "fairlead",
		Short:         "Routable container networking for plain hosts",
		Long:          "Fairlead connects the containers of many hosts: routed, without NAT, one file per host.",
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       a.Version,
		Args:          noCommand,
		RunE:          noCommand,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if a.timeout < 0 {
				return misusef("--timeout %s: want a positive time", a.timeout)
			}
			a.begun = true
			return nil
		},
		CompletionOptions:          cobra.CompletionOptions{DisableDefaultCmd: true},
		SuggestionsMinimumDistance: 2,
	}
	root.SetVersionTemplate("fairlead {{.Version}}\n")
	root.SetHelpCommandGroupID(groupHost)
	root.AddGroup(&cobra.Group{ID: groupUse, Title: "Containers:"},
		&cobra.Group{ID: groupSee, Title: "What is there:"},
		&cobra.Group{ID: groupHost, Title: "This host:"})
	a.globalFlags(root)
	root.AddCommand(a.attach(), a.detach(), a.publish(), a.unpublish(), a.env(), a.reserve())
	root.AddCommand(a.status(), a.endpoints(), a.peers(), a.routes(), a.ports(), a.leases(), a.events(), a.trace())
	root.AddCommand(a.run(), a.init(), a.check(), a.reload(), a.drain(), a.doctor(), a.uninstall())
	root.AddCommand(a.version(), a.completion(), a.checkStore())
	return root
}

// Groups of commands in the help.
const (
	groupUse  = "use"
	groupSee  = "see"
	groupHost = "host"
)

func (a *app) globalFlags(root *cobra.Command) {
	f := root.PersistentFlags()
	f.VarP(&a.format, "output", "o", "how to print: table, json or yaml")
	f.StringVar(&a.socket, "socket", "", "`PATH` of the daemon's socket (default: as in the config, /run/fairlead/fairlead.sock)")
	f.StringVar(&a.config, "config", "", "config `FILE` (default /etc/fairlead/fairlead.toml)")
	f.DurationVar(&a.timeout, "timeout", 0, "how long to wait for the daemon, such as 5s (default: as suits the command)")
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats(), cobra.ShellCompDirectiveNoFileComp))
}
