package nat

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-net/fairlead/reconcile"
)

const (
	lockTime = "2"         // seconds to wait for the lock of the old back end; the loop tries again
	pipeTime = time.Second // for what it started to let go of its output after it was ended
	exitBusy = 4           // of iptables: the lock, or another resource, was not to be had
)

// refusal is a run of iptables that ended by itself, but without success.
type refusal struct {
	command string
	status  int
	said    string
}

func (r *refusal) Error() string {
	return fmt.Sprintf("run %s: exit status %d: %s", r.command, r.status, r.said)
}

// run has iptables do something with our table and returns the lines that it prints.
func (t *tool) run(ctx context.Context, args ...string) (printed []string, err error) {
	return start(ctx, "", t.path, append([]string{"-w", lockTime, "-t", t.table}, args...)...)
}

// start runs a program of iptables and returns the lines that it prints. When ctx ends it is killed: what it changes it
// changes at once or not at all. The error is a refusal where it said no.
func start(ctx context.Context, told, path string, args ...string) (printed []string, err error) {
	var out, said bytes.Buffer
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = strings.NewReader(told), &out, &said, pipeTime
	err = cmd.Run()
	var exit *exec.ExitError
	switch command := strings.Join(cmd.Args, " "); {
	case err == nil:
		return strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n"), nil
	case ctx.Err() != nil:
		return nil, fmt.Errorf("wait for the end of %s: %w", command, ctx.Err())
	case errors.As(err, &exit) && exit.Exited():
		return nil, &refusal{command, exit.ExitCode(), said.String()}
	default:
		return nil, fmt.Errorf("run %s: %w", command, err)
	}
}

// list prints the rules of a chain.
func (t *tool) list(ctx context.Context, chain string, options ...string) (printed []string, err error) {
	return t.run(ctx, append(options, "-S", chain)...)
}

// do has iptables change something.
func (t *tool) do(ctx context.Context, args ...string) error {
	_, err := t.run(ctx, args...)
	return err
}

// undo has iptables remove something, which may be gone already.
func (t *tool) undo(ctx context.Context, args ...string) error {
	if err := t.do(ctx, args...); err != nil && !gone(err) {
		return explain(err)
	}
	return nil
}

// refused is the error where iptables ended with the word that there is no such thing, or that it can not be shown.
func refused(err error) bool {
	var r *refusal
	return errors.As(err, &r) && r.status != exitBusy
}

// unmatched is the error for a rule that is not in a chain that is there.
func unmatched(err error) bool {
	var r *refusal
	return errors.As(err, &r) && strings.Contains(r.said, noRule)
}

// noRule is what iptables says then.
const noRule = "does a matching rule exist in that chain?"

// gone is the error for what is not there any more.
func gone(err error) bool {
	var r *refusal
	return errors.As(err, &r) && slices.ContainsFunc([]string{
		noRule, "No chain/target/match by that name", "No such file or directory", "does not exist",
		"Index of deletion too big",
	}, func(text string) bool { return strings.Contains(r.said, text) })
}

// explain is an error of iptables without what it says about its usage, and with the cure where the cause is common.
func explain(err error) error {
	var r *refusal
	if !errors.As(err, &r) {
		return err
	}
	text, _, _ := strings.Cut(r.Error(), "\n")
	switch {
	case strings.Contains(text, "Set ") && strings.Contains(text, "doesn't exist"):
		return fmt.Errorf("%w: %s", reconcile.ErrWaits, text)
	case strings.Contains(r.said, "open socket to ipset") || strings.Contains(r.said, "you must be root"):
		return fmt.Errorf("iptables needs CAP_NET_ADMIN and CAP_NET_RAW: %s", text)
	case strings.Contains(r.said, "xtables lock"):
		return fmt.Errorf("another program holds the lock of the packet filter: %s", text)
	}
	return errors.New(text)
}
