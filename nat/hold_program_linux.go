package nat

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// Where the key lies on the stack of a program, and what a program is told: struct bpf_sock_addr of
// include/uapi/linux/bpf.h.
const (
	atKey    = -32
	atAddr   = atKey + 8
	atPort   = atKey + 24
	atProto  = atKey + 26
	atFamily = atKey + 27
	atPad    = atKey + 28
	atCookie = -40 // of the socket
	atCopy   = -64 // of the beginning of the socket
	copyLen  = 24

	ctxIP4   = 4
	ctxIP6   = 8
	ctxPort  = 24
	ctxProto = 36
	ctxSock  = 64
)

// abilities are what the programs may ask of this kernel.
type abilities struct {
	says bool // which error a program gets that is refused: Linux 6.0, and before that it is EPERM
	only bit  // of a socket that keeps to IPv6; without it every socket of IPv6 counts as one for both
}

// bit is a place in struct sock.
type bit struct {
	offset int16
	mask   int32 // 0: not known
}

// findOnly asks the kernel's own description where a socket says that it keeps to IPv6.
func findOnly() bit {
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return bit{}
	}
	var common *btf.Struct
	if err := kernel.TypeByName("sock_common", &common); err != nil { // struct sock begins with it
		return bit{}
	}
	for _, m := range common.Members {
		if at := m.Offset / 8; m.Name == "skc_ipv6only" && m.BitfieldSize == 1 && at < copyLen {
			return bit{int16(at), 1 << (m.Offset % 8)}
		}
	}
	return bit{}
}

// bindSpec is the program that looks at each bind of IPv4 or IPv6 sockets (cgroup/bind4, cgroup/bind6).
func bindSpec(family uint8, ports, excused *ebpf.Map, can abilities) *ebpf.ProgramSpec {
	b := bindCode{ports, excused, can}
	spec := &ebpf.ProgramSpec{
		Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Bind, Name: "fl_hold_bind4", License: "Dual BSD/GPL",
	}
	look := b.looks4()
	if family == 6 {
		spec.AttachType, spec.Name = ebpf.AttachCGroupInet6Bind, "fl_hold_bind6"
		look = b.looks6()
	}
	for _, part := range []asm.Instructions{b.begin(), look, b.end()} {
		spec.Instructions = append(spec.Instructions, part...)
	}
	return spec
}

// bindCode writes it. R6 is what the program is told.
type bindCode struct {
	ports, excused *ebpf.Map
	can            abilities
}

// quad is where a program finds the words of an address.
type quad struct {
	base asm.Register
	at   []int16
}

// begin lets pass what binds no port of its own choice and what is no TCP and no UDP, and begins the key.
func (b bindCode) begin() asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R7, asm.R6, ctxPort, asm.Word),
		asm.JEq.Imm(asm.R7, 0, "allow"),
		asm.LoadMem(asm.R8, asm.R6, ctxProto, asm.Word),
		asm.JEq.Imm(asm.R8, unix.IPPROTO_TCP, "ours"),
		asm.JNE.Imm(asm.R8, unix.IPPROTO_UDP, "allow"),
		asm.StoreMem(asm.R10, atPort, asm.R7, asm.Half).WithSymbol("ours"),
		asm.StoreMem(asm.R10, atProto, asm.R8, asm.Byte),
		asm.StoreImm(asm.R10, atPad, 0, asm.Word),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.FnGetNetnsCookie.Call(),
		asm.StoreMem(asm.R10, atKey, asm.R0, asm.DWord),
	}
}

// end is where programs are refused, but for one that we sent ourselves.
func (b bindCode) end() asm.Instructions {
	code := asm.Instructions{
		asm.Ja.Label("allow"),
		asm.Mov.Reg(asm.R1, asm.R6).WithSymbol("deny"),
		asm.FnGetSocketCookie.Call(),
		asm.StoreMem(asm.R10, atCookie, asm.R0, asm.DWord),
	}
	code = append(code, lookup(b.excused, atCookie)...)
	code = append(code, asm.JNE.Imm(asm.R0, 0, "allow"))
	if b.can.says {
		code = append(code, asm.Mov.Imm(asm.R1, -int32(unix.EADDRINUSE)), asm.FnSetRetval.Call())
	}
	return append(code,
		asm.Mov.Imm(asm.R0, 0),
		asm.Return(),
		asm.Mov.Imm(asm.R0, 1).WithSymbol("allow"),
		asm.Return(),
	)
}

func (b bindCode) looks4() asm.Instructions {
	return look(b.ports, "bind4", 4, quad{asm.R6, []int16{ctxIP4}})
}

func (b bindCode) looks6() asm.Instructions {
	return look6(b.ports, quad{asm.R6, []int16{ctxIP6, ctxIP6 + 4, ctxIP6 + 8, ctxIP6 + 12}}, b.passOnly())
}

// look6 takes an address that is mapped into IPv6 for what it is, and :: for both families, but for what passOnly lets
// pass.
func look6(ports *ebpf.Map, ip quad, passOnly asm.Instructions) asm.Instructions {
	code := asm.Instructions{
		asm.LoadMem(asm.R1, ip.base, ip.at[0], asm.Word),
		asm.LoadMem(asm.R2, ip.base, ip.at[1], asm.Word),
		asm.Or.Reg(asm.R1, asm.R2),
		asm.JNE.Imm(asm.R1, 0, "six"),
		asm.LoadMem(asm.R2, ip.base, ip.at[2], asm.Word),
		asm.HostTo(asm.BE, asm.R2, asm.Word),
		asm.JNE.Imm(asm.R2, 0xffff, "six"),
	}
	code = append(code, look(ports, "mapped", 4, quad{ip.base, ip.at[3:]})...)
	code = append(code, asm.Ja.Label("allow"))
	six := look(ports, "six", 6, ip)
	six[0] = six[0].WithSymbol("six")
	code = append(code, six...)
	code = append(code, ip.or()...)
	code = append(code, asm.JNE.Imm(asm.R1, 0, "allow"))
	code = append(code, passOnly...)
	return append(code, look(ports, "both", 4, quad{})...)
}

// passOnly lets pass a socket that keeps to IPv6.
func (b bindCode) passOnly() asm.Instructions {
	if b.can.only.mask == 0 {
		return nil
	}
	return asm.Instructions{
		asm.LoadMem(asm.R3, asm.R6, ctxSock, asm.DWord),
		asm.JEq.Imm(asm.R3, 0, "unknown"),
		asm.Mov.Reg(asm.R1, asm.R10),
		asm.Add.Imm(asm.R1, atCopy),
		asm.Mov.Imm(asm.R2, copyLen),
		asm.FnProbeReadKernel.Call(),
		asm.JNE.Imm(asm.R0, 0, "unknown"),
		asm.LoadMem(asm.R1, asm.R10, atCopy+b.can.only.offset, asm.Byte),
		asm.And.Imm(asm.R1, b.can.only.mask),
		asm.JNE.Imm(asm.R1, 0, "allow"),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("unknown"),
	}
}

// look refuses an address of a family if it is held, or if it is zero and any of its family is. No quad is zero.
func look(ports *ebpf.Map, name string, family int64, ip quad) asm.Instructions {
	next := name + " free"
	code := asm.Instructions{
		asm.Mov.Imm(asm.R1, 0),
		asm.StoreMem(asm.R10, atAddr, asm.R1, asm.DWord),
		asm.StoreMem(asm.R10, atAddr+8, asm.R1, asm.DWord),
		asm.StoreImm(asm.R10, atFamily, family, asm.Byte),
	}
	code = append(code, lookup(ports, atKey)...)
	code = append(code, asm.JEq.Imm(asm.R0, 0, next))
	if len(ip.at) == 0 {
		code = append(code, asm.Ja.Label("deny"))
	} else {
		code = append(code,
			asm.LoadMem(asm.R1, asm.R0, 0, asm.Word),
			asm.And.Imm(asm.R1, int32(heldRow)),
			asm.JNE.Imm(asm.R1, 0, "deny"),
		)
		code = append(code, ip.or()...)
		code = append(code, asm.JEq.Imm(asm.R1, 0, "deny"))
		for i, at := range ip.at {
			code = append(code,
				asm.LoadMem(asm.R1, ip.base, at, asm.Word),
				asm.StoreMem(asm.R10, atAddr+int16(4*i), asm.R1, asm.Word),
			)
		}
		code = append(code, lookup(ports, atKey)...)
		code = append(code, asm.JNE.Imm(asm.R0, 0, "deny"))
	}
	return append(code, asm.Mov.Imm(asm.R0, 0).WithSymbol(next))
}

// or leaves in R1 what is zero only if the whole address is.
func (ip quad) or() asm.Instructions {
	code := asm.Instructions{asm.LoadMem(asm.R1, ip.base, ip.at[0], asm.Word)}
	for _, at := range ip.at[1:] {
		code = append(code, asm.LoadMem(asm.R2, ip.base, at, asm.Word), asm.Or.Reg(asm.R1, asm.R2))
	}
	return code
}

// lookup leaves in R0 where the value is for the key on the stack, or 0.
func lookup(m *ebpf.Map, at int32) asm.Instructions {
	return asm.Instructions{
		asm.LoadMapPtr(asm.R1, m.FD()),
		asm.Mov.Reg(asm.R2, asm.R10),
		asm.Add.Imm(asm.R2, at),
		asm.FnMapLookupElem.Call(),
	}
}

// loadBind loads the programs with as much as the kernel lets them have, which is found out once.
func (p *pins) loadBind() (bind4, bind6 *ebpf.Program, err error) {
	try := p.can
	if len(try) == 0 {
		only := findOnly()
		try = []abilities{{true, only}, {true, bit{}}, {false, only}, {}}
	}
	for _, can := range try {
		bind6, err = ebpf.NewProgram(bindSpec(6, p.ports, p.excused, can))
		if err != nil {
			continue
		}
		bind4, err = ebpf.NewProgram(bindSpec(4, p.ports, p.excused, can))
		if err == nil {
			p.can = []abilities{can}
			return bind4, bind6, nil
		}
		err = errors.Join(err, bind6.Close())
	}
	return nil, nil, fmt.Errorf("load programs: %w", err)
}
