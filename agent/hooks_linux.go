package agent

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// hookPath is all that a hook has of an environment: variables that begin with FAIRLEAD_ are settings of the daemon, and
// the others are the service manager's business.
const hookPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// strayPatience is how long a process that left the group may hold the program's outputs open.
const strayPatience = time.Second

var errCut = errors.New("killed: the daemon ends")

// execute runs a program with input as its standard input, no longer than limit nor, much, than until cut is closed. What
// it started goes with it. said is the first line that it printed.
func execute(path string, input []byte, limit time.Duration, cut <-chan struct{}) (said string, err error) {
	printed := new(head)
	cmd := &exec.Cmd{
		Path: path, Args: []string{path}, Env: []string{hookPath}, Dir: "/",
		Stdin: bytes.NewReader(input), Stdout: printed, Stderr: printed, WaitDelay: strayPatience,
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true}, // its process id is that of its group
	}
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("start: %w", err)
	}
	group := cmd.Process.Pid
	ended := make(chan struct{})
	go func() {
		awaitExit(group)
		close(ended)
	}()
	clock := time.NewTimer(limit)
	defer clock.Stop()
	select {
	case <-ended:
	case <-clock.C:
		err = errOverdue
	case <-cut:
		err = errCut
	}
	// Until Wait takes the zombie away, nobody else can be given the number of the group.
	_ = unix.Kill(-group, unix.SIGKILL)
	<-ended
	end := cmd.Wait()
	if err == nil && !errors.Is(end, exec.ErrWaitDelay) {
		err = end
	}
	return printed.line(), err
}

// awaitExit waits for the end of a child and leaves its zombie where it is.
func awaitExit(pid int) {
	for err := error(unix.EINTR); errors.Is(err, unix.EINTR); {
		err = unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
	}
}

// head keeps the beginning of what is written to it.
type head struct{ text []byte }

const mostHead = 512 // bytes

func (h *head) Write(p []byte) (int, error) {
	h.text = append(h.text, p[:min(len(p), mostHead-len(h.text))]...)
	return len(p), nil
}

// line is the first one, fit for a log.
func (h *head) line() string {
	first, _, _ := strings.Cut(strings.TrimLeft(string(h.text), "\r\n"), "\n")
	return graphic(strings.TrimRight(first, "\r"))
}
