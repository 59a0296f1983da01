package cli_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/fairlead-net/fairlead/cli"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"fairlead": func() {
			os.Exit(cli.Execute(context.Background(), program(), os.Args[1:], os.Stdout, os.Stderr))
		},
	})
}

// TestStories runs the commands against canned answers: what is tested is how they look and fail. That a daemon gives
// such answers is shown by the stories of the whole program.
func TestStories(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		UpdateScripts:       os.Getenv("FAIRLEAD_UPDATE_STORIES") != "", // writes what is printed as what is wanted
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			// A socket's path has room for 107 bytes, and the work directory may be deep.
			dir, err := os.MkdirTemp("", "fl")
			if err != nil {
				return err
			}
			e.Defer(func() { os.RemoveAll(dir) })
			e.Setenv("FAIRLEAD_API_SOCKET", filepath.Join(dir, "s"))
			e.Setenv("COLUMNS", "80")
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"serve": serve,
			"code":  code,
		},
	})
}

// program stands for what main hands over: it says what it was asked.
func program() cli.Program {
	return cli.Program{
		Version: "0.1.0",
		Run: func(_ context.Context, o cli.RunOptions) error {
			fmt.Printf("run %q recover=%v\n", o.Config, o.Recover)
			if strings.Contains(o.Config, "bad") {
				return errors.New("open store /var/lib/fairlead/fairlead.db: locked")
			}
			return nil
		},
		Check: func(path string) (cli.Verdict, error) {
			text, err := os.ReadFile(path)
			if err != nil {
				return cli.Verdict{}, err
			}
			if bad := strings.TrimSpace(string(text)); bad != "" {
				return cli.Verdict{File: path, Problems: strings.Split(bad, "\n")}, nil
			}
			return cli.Verdict{File: path, Summary: "1 pool, 2 peers"}, nil
		},
		Init: func(o cli.InitOptions) (string, error) {
			return fmt.Sprintf("# %q %v %v %v\n", o.Name, o.Address, o.Pools, o.Peers), nil
		},
		Settings: func(path string) (cli.Settings, error) {
			if strings.Contains(path, "bad") {
				return cli.Settings{}, fmt.Errorf("%s:1:1: unknown key \"sokcet\"", path)
			}
			return cli.Settings{
				File: path, Socket: os.Getenv("FAIRLEAD_API_SOCKET"),
				Paths: cli.Paths{State: "state", Run: "run"},
				BGP:   cli.Ports{BGP: 179, VXLAN: 4789, VNI: 88},
				Pools: []netip.Prefix{netip.MustParsePrefix("10.88.0.0/16")}, NAT: cli.NATSettings{Published: 1, Outgoing: true},
			}, nil
		},
		Uninstall: func(_ context.Context, path string) (cli.Removed, error) {
			return cli.Removed{Count: 2, Objects: []string{"link flvxlan", "route 10.88.2.0/24"}}, nil
		},
		CheckStore: func(file string) error {
			_, err := os.Stat(file)
			return err
		},
	}
}

// serve answers on the socket with the files of a directory: the answer to GET /v1/status is GET_v1_status, its first
// line the status code. The words "hang", "endless" and "hangup" in place of the code do as they say. With a second
// argument, the requests are kept in that file.
func serve(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: serve DIR [LOG]")
	}
	l, err := net.Listen("unix", ts.Getenv("FAIRLEAD_API_SOCKET"))
	ts.Check(err)
	stop := make(chan struct{})
	h := answers{dir: ts.MkAbs(args[0]), stop: stop}
	if len(args) > 1 {
		h.log = ts.MkAbs(args[1])
	}
	s := &http.Server{Handler: h}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	ts.Defer(func() {
		close(stop)
		_ = s.Close()
		<-done
	})
}

type answers struct {
	dir, log string
	stop     <-chan struct{}
}

func (h answers) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h.log != "" {
		h.record(r)
	}
	text, err := os.ReadFile(filepath.Join(h.dir, r.Method+strings.ReplaceAll(r.URL.EscapedPath(), "/", "_")))
	if err != nil {
		http.NotFound(w, r)
		return
	}
	first, body, _ := strings.Cut(string(text), "\n")
	switch first {
	case "hang":
		<-h.stop
	case "hangup":
		panic(http.ErrAbortHandler)
	case "endless":
		for line := []byte(strings.Repeat("x", 1<<16)); err == nil; {
			_, err = w.Write(line)
		}
	default:
		var status int
		_, _ = fmt.Sscan(first, &status)
		// What stands for a time of day is an age, so that the golden output does not change.
		body = strings.ReplaceAll(body, "@AGE@", time.Now().Add(-3*time.Hour-5*time.Minute).Format(time.RFC3339))
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
}

// record keeps a request, but for the fields that ask for nothing.
func (h answers) record(r *http.Request) {
	line := r.Method + " " + r.URL.RequestURI()
	var fields map[string]any
	if json.NewDecoder(r.Body).Decode(&fields) == nil {
		maps.DeleteFunc(fields, func(_ string, v any) bool { return v == nil || v == "" || v == 0.0 })
		text, _ := json.Marshal(fields)
		line += " " + string(text)
	}
	f, err := os.OpenFile(h.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return
	}
	defer f.Close()
	_, _ = fmt.Fprintln(f, line)
}

// code runs a program and expects exactly this exit code: code 2 fairlead attach.
func code(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N PROGRAM ARGS...")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	var exit interface{ ExitCode() int }
	if errors.As(err, &exit) {
		got = fmt.Sprint(exit.ExitCode())
	}
	if got != args[0] {
		ts.Fatalf("exit code %s, want %s: %v", got, args[0], err)
	}
}
