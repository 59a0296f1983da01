package nat

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// SCTP has a bind of its own, which the programs at the control group do not hear of. What hears of it are the security
// hooks of bind(2) and of sctp_bindx(3): programs there may say no (fmod_ret), with any security module or without.
const (
	hookBind  = "security_socket_bind"
	hookBindx = "security_sctp_bind_connect"

	bindxAdd = 100 // SCTP_SOCKOPT_BINDX_ADD, include/uapi/linux/sctp.h

	atSockaddr  = -96 // on the stack: the first bytes of what is bound
	sockaddrLen = 28  // sizeof(struct sockaddr_in6)
)

// layout is where this kernel has what the programs read.
type layout struct {
	sk, proto, net, cookie, sockCookie int16
	only                               bit
}

func findLayout() (l layout, err error) {
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return l, fmt.Errorf("read the kernel's description of itself: %w", err)
	}
	offset := func(structure, member string) int16 {
		var s *btf.Struct
		if e := kernel.TypeByName(structure, &s); e != nil {
			err = errors.Join(err, e)
			return 0
		}
		for _, m := range s.Members {
			if m.Name == member {
				return int16(m.Offset / 8)
			}
		}
		err = errors.Join(err, fmt.Errorf("struct %s has no %s", structure, member))
		return 0
	}
	l = layout{
		sk: offset("socket", "sk"), proto: offset("sock", "sk_protocol"), cookie: offset("net", "net_cookie"),
		net: offset("sock_common", "skc_net"), sockCookie: offset("sock_common", "skc_cookie"), only: findOnly(),
	}
	return l, err
}

// streamCode writes those programs. R6 is what the program is told, R8 the socket.
type streamCode struct {
	ports, excused *ebpf.Map
	proto          int32 // of the sockets that it looks at
	in             layout
}

// spec is the program at a hook.
func (c streamCode) spec(hook string) *ebpf.ProgramSpec {
	spec := &ebpf.ProgramSpec{
		Type: ebpf.Tracing, AttachType: ebpf.AttachModifyReturn, AttachTo: hook, Name: "fl_hold_sctp", License: "Dual BSD/GPL",
	}
	parts := []asm.Instructions{c.bind(), c.copySockaddr(8), c.lookAddress(), c.end()}
	if hook == hookBindx {
		parts = []asm.Instructions{c.bindx(), c.copySockaddr(16), c.lookNumber(), c.end()}
	}
	for _, part := range parts {
		spec.Instructions = append(spec.Instructions, part...)
	}
	return spec
}

// bind is told (struct socket *, struct sockaddr *, int), and what programs before it have said.
func (c streamCode) bind() asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R7, asm.R6, 24, asm.DWord),
		asm.JNE.Imm(asm.R7, 0, "said"),
		asm.LoadMem(asm.R8, asm.R6, 0, asm.DWord),
		asm.LoadMem(asm.R8, asm.R8, c.in.sk, asm.DWord),
		asm.JEq.Imm(asm.R8, 0, "allow"),
	}
}

// bindx is told (struct sock *, int, struct sockaddr *, int).
func (c streamCode) bindx() asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R7, asm.R6, 32, asm.DWord),
		asm.JNE.Imm(asm.R7, 0, "said"),
		asm.LoadMem(asm.R1, asm.R6, 8, asm.Word),
		asm.JNE.Imm(asm.R1, bindxAdd, "allow"),
		asm.LoadMem(asm.R8, asm.R6, 0, asm.DWord),
		asm.JEq.Imm(asm.R8, 0, "allow"),
	}
}

// copySockaddr lets pass what is no socket of ours and binds no port of its own choice, and begins the key. The sockaddr
// is what argument says.
func (c streamCode) copySockaddr(argument int16) asm.Instructions {
	return asm.Instructions{
		asm.LoadMem(asm.R1, asm.R8, c.in.proto, asm.Half),
		asm.JNE.Imm(asm.R1, c.proto, "allow"),
		asm.StoreMem(asm.R10, atProto, asm.R1, asm.Byte),
		asm.StoreImm(asm.R10, atPad, 0, asm.Word),
		asm.LoadMem(asm.R1, asm.R8, c.in.net, asm.DWord),
		asm.JEq.Imm(asm.R1, 0, "allow"),
		asm.LoadMem(asm.R2, asm.R1, c.in.cookie, asm.DWord),
		asm.StoreMem(asm.R10, atKey, asm.R2, asm.DWord),
		asm.Mov.Reg(asm.R1, asm.R10),
		asm.Add.Imm(asm.R1, atSockaddr),
		asm.Mov.Imm(asm.R2, sockaddrLen),
		asm.LoadMem(asm.R3, asm.R6, argument, asm.DWord),
		asm.FnProbeReadKernel.Call(),
		asm.JNE.Imm(asm.R0, 0, "allow"),
		asm.LoadMem(asm.R7, asm.R10, atSockaddr+2, asm.Half),
		asm.JEq.Imm(asm.R7, 0, "allow"),
		asm.StoreMem(asm.R10, atPort, asm.R7, asm.Half),
	}
}

func (c streamCode) lookAddress() asm.Instructions {
	code := asm.Instructions{
		asm.LoadMem(asm.R7, asm.R10, atSockaddr, asm.Half),
		asm.JEq.Imm(asm.R7, unix.AF_INET6, "inet6"),
		asm.JNE.Imm(asm.R7, unix.AF_INET, "allow"),
	}
	code = append(code, look(c.ports, "inet", 4, quad{asm.R10, []int16{atSockaddr + 4}})...)
	code = append(code, asm.Ja.Label("allow"), asm.Mov.Imm(asm.R0, 0).WithSymbol("inet6"))
	var passOnly asm.Instructions
	if c.in.only.mask != 0 {
		passOnly = asm.Instructions{
			asm.LoadMem(asm.R1, asm.R8, c.in.only.offset, asm.Byte),
			asm.And.Imm(asm.R1, c.in.only.mask),
			asm.JNE.Imm(asm.R1, 0, "allow"),
		}
	}
	at := []int16{atSockaddr + 8, atSockaddr + 12, atSockaddr + 16, atSockaddr + 20}
	return append(code, look6(c.ports, quad{asm.R10, at}, passOnly)...)
}

// lookNumber refuses a list of addresses, which may be of both families, when any address of the host is held with that
// port.
func (c streamCode) lookNumber() asm.Instructions {
	return append(look(c.ports, "any4", 4, quad{}), look(c.ports, "any6", 6, quad{})...)
}

// end is where programs are refused, but for one that we sent ourselves.
func (c streamCode) end() asm.Instructions {
	code := asm.Instructions{
		asm.Ja.Label("allow"),
		asm.LoadMem(asm.R1, asm.R8, c.in.sockCookie, asm.DWord).WithSymbol("deny"),
		asm.StoreMem(asm.R10, atCookie, asm.R1, asm.DWord),
	}
	code = append(code, lookup(c.excused, atCookie)...)
	return append(code,
		asm.JNE.Imm(asm.R0, 0, "allow"),
		asm.Mov.Imm(asm.R0, -int32(unix.EADDRINUSE)),
		asm.Return(),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("allow"),
		asm.Return(),
		asm.Mov.Reg(asm.R0, asm.R7).WithSymbol("said"),
		asm.Return(),
	)
}

// adoptSCTP is adopt for those programs. They are there only since an SCTP port was held for the first time: a kernel that
// will not have them holds the others all the same. The directory is locked.
func (p *pins) adoptSCTP() error {
	in, err := findLayout()
	if err != nil {
		return err
	}
	code := streamCode{p.ports, p.excused, unix.IPPROTO_SCTP, in}
	for _, at := range []struct{ name, hook string }{{pinSCTPx, hookBindx}, {pinSCTP, hookBind}} {
		program, err := ebpf.NewProgram(code.spec(at.hook))
		if err != nil {
			return fmt.Errorf("load program for %s: %w", at.hook, err)
		}
		if err := errors.Join(p.adoptTracing(at.name, program), program.Close()); err != nil {
			return err
		}
	}
	return p.remember()
}

// adoptTracing keeps the link that is pinned if it has the program. Such links can not be detached, nor be given another
// program, so there may be two for a moment.
func (p *pins) adoptTracing(name string, program *ebpf.Program) error {
	path := filepath.Join(p.dir, name)
	had := p.links[name]
	l, err := link.LoadPinnedLink(path, nil)
	if err == nil && !runs(l, program) {
		err = errors.Join(errors.New("runs another program"), l.Close())
	}
	if err != nil {
		if l, err = link.AttachTracing(link.TracingOptions{Program: program}); err != nil {
			return fmt.Errorf("attach program: %w", err)
		}
		os.Remove(path)
		if err := l.Pin(path); err != nil {
			return fmt.Errorf("pin link: %w", errors.Join(err, l.Close()))
		}
	}
	p.links[name] = l
	if had != nil {
		return had.Close()
	}
	return nil
}
