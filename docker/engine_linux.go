package docker

import (
	"bufio"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// errEngineAsleep says that Docker does not run, and that who asks it would start it.
var errEngineAsleep = errors.New("systemd waits for somebody to ask")

// engineAsleep tells whether Docker does not run while its socket is there all the same: systemd holds it and starts
// Docker for the first who asks. Docker that was stopped must not come back because we are curious. One that is just
// ending has let go of the socket while its containers still stop, and who asks then has it started again.
//
// proc is where proc(5) is mounted. In a container with processes of its own nobody there holds the socket, and Docker
// counts as awake.
func engineAsleep(proc, socket string) bool {
	inodes := engineListening(proc, socket)
	if len(inodes) == 0 || !engineHeld(filepath.Join(proc, "1/fd"), inodes) {
		return false
	}
	names, _ := filepath.Glob(filepath.Join(proc, "[0-9]*/comm"))
	return !slices.ContainsFunc(names, func(name string) bool {
		// Some distributions start it by a wrapper of another name: ".dockerd-wrapped".
		comm, err := os.ReadFile(name)
		return err == nil && strings.Contains(string(comm), "dockerd") && engineHeld(filepath.Join(filepath.Dir(name), "fd"), inodes)
	})
}

// engineHeld tells whether one of a process's file descriptors is one of the sockets.
func engineHeld(dir string, inodes map[string]bool) bool {
	fds, _ := os.ReadDir(dir) // a process that has ended holds nothing
	return slices.ContainsFunc(fds, func(fd os.DirEntry) bool {
		target, err := os.Readlink(filepath.Join(dir, fd.Name()))
		return err == nil && inodes[target]
	})
}

// engineListening are the sockets that listen on the path, as links of file descriptors call them.
func engineListening(proc, socket string) map[string]bool {
	const listens = "00010000" // __SO_ACCEPTCON
	wanted, err := os.Stat(socket)
	if err != nil {
		return nil
	}
	table, err := os.Open(filepath.Join(proc, "net/unix"))
	if err != nil {
		return nil
	}
	defer table.Close()
	inodes := make(map[string]bool)
	for lines := bufio.NewScanner(table); lines.Scan(); {
		// Num RefCount Protocol Flags Type St Inode Path
		f := strings.Fields(lines.Text())
		if len(f) != 8 || f[3] != listens || filepath.Base(f[7]) != filepath.Base(socket) {
			continue
		}
		// /var/run is a link to /run, and systemd may have been told either.
		if found, err := os.Stat(f[7]); err == nil && os.SameFile(found, wanted) {
			inodes["socket:["+f[6]+"]"] = true
		}
	}
	return inodes
}
