package fastpath_test

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// skbuff is struct __sk_buff of linux/bpf.h. A test run takes and gives only some of it: not tc_index, not the protocol.
// What else is to go in and out is therefore carried in cb, which the programs do not use.
type skbuff struct {
	Len, PktType, Mark, QueueMapping, Protocol     uint32
	VlanPresent, VlanTCI, VlanProto, Priority      uint32
	IngressIfindex, Ifindex, TCIndex               uint32
	CB                                             [5]uint32
	Hash, TCClassid, Data, DataEnd, NapiID, Family uint32
	RemoteIP4, LocalIP4                            uint32
	RemoteIP6, LocalIP6                            [4]uint32
	RemotePort, LocalPort, DataMeta                uint32
	FlowKeys, Tstamp                               uint64
	WireLen, GSOSegs                               uint32
	SK                                             uint64
	GSOSize, TstampType                            uint32
	HWTstamp                                       uint64
}

// Offsets in skbuff, and what the words of cb are before and after a run.
const (
	atProtocol    = 16
	atVlanPresent = 20
	atTCIndex     = 44
	atCB          = 48

	cbMark     = 0 // tc_index, in and out
	cbTag      = 1 // in: a VLAN tag to be put on as a card would; 0: none
	cbProtocol = 1 // out
	cbHash     = 2 // out: the kernel's hash of the flow
	cbTagged   = 3 // out: whether there is a tag
	cbLength   = 4 // in: what the frame is to be cut to, since no test run takes less than an IP header; 0: it is whole
)

// seen is where the programs say to whom they hand a packet, since a test run does not.
type seen struct {
	Kind uint32 // handedPeer, handedNeighbour or handedIn, 0: to nobody
	Link uint32
	Next [5]uint32 // struct bpf_redir_neigh
	Flag uint32    // the second argument of those that have two
}

const (
	handedPeer      = 1
	handedNeighbour = 2
	handedIn        = 3
	seenMap         = "seen"
)

// observe puts a program of ours around one of the specification, that carries what a test run does not, and watches
// its calls of the helpers that redirect. Nothing else of it is touched.
func observe(spec *ebpf.ProgramSpec) {
	name, line := spec.Name, spec.Instructions[0].Source() // the kernel wants to know a line for each function
	watched := map[string]asm.Instructions{}
	for i, ins := range spec.Instructions {
		if !ins.IsBuiltinCall() {
			continue
		}
		switch helper := asm.BuiltinFunc(ins.Constant); helper {
		case asm.FnRedirectPeer:
			spec.Instructions[i] = redirected(ins, "see_peer")
			watched["see_peer"] = function(line, "see_peer", 2, watch("see_peer", 2, helper, handedPeer))
		case asm.FnRedirect:
			spec.Instructions[i] = redirected(ins, "see_redirect")
			watched["see_redirect"] = function(line, "see_redirect", 2, watch("see_redirect", 2, helper, handedIn))
		case asm.FnRedirectNeigh:
			spec.Instructions[i] = redirected(ins, "see_neighbour")
			watched["see_neighbour"] = function(line, "see_neighbour", 4, watch("see_neighbour", 4, helper, handedNeighbour))
		}
	}
	spec.Instructions = append(function(line, "around", 1, around(name)), spec.Instructions...)
	for _, body := range watched {
		spec.Instructions = append(spec.Instructions, body...)
	}
}

// redirected makes the call of a helper one of a function. The instruction keeps its label and its metadata.
func redirected(ins asm.Instruction, to string) asm.Instruction {
	ins.Src = asm.PseudoCall
	ins.Constant = -1
	return ins.WithReference(to)
}

// around is the program that calls the one under test.
func around(name string) asm.Instructions {
	cb := func(word int) int16 { return int16(atCB + 4*word) }
	ctx, kept := asm.R6, asm.R7
	body := asm.Instructions{
		asm.Mov.Reg(ctx, asm.R1),
		asm.LoadMem(asm.R2, ctx, cb(cbMark), asm.Word),
		asm.StoreMem(ctx, atTCIndex, asm.R2, asm.Word),
		asm.LoadMem(asm.R3, ctx, cb(cbTag), asm.Word),
		asm.JEq.Imm(asm.R3, 0, "untagged"),
		asm.Mov.Reg(asm.R1, ctx),
		asm.Mov.Imm(asm.R2, 0x0081), // ETH_P_8021Q as it is on the wire
		asm.FnSkbVlanPush.Call(),
		asm.LoadMem(asm.R2, ctx, cb(cbLength), asm.Word).WithSymbol("untagged"),
		asm.JEq.Imm(asm.R2, 0, "uncut"),
		asm.Mov.Reg(asm.R1, ctx),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnSkbChangeTail.Call(),
		asm.Mov.Reg(asm.R1, ctx).WithSymbol("uncut"),
		asm.FnGetHashRecalc.Call(),
		asm.StoreMem(ctx, cb(cbHash), asm.R0, asm.Word),
		asm.Mov.Reg(asm.R1, ctx),
		asm.Call.Label(name),
		asm.Mov.Reg(kept, asm.R0),
	}
	for _, copied := range []struct {
		from int16
		to   int
	}{{atTCIndex, cbMark}, {atProtocol, cbProtocol}, {atVlanPresent, cbTagged}} {
		body = append(body,
			asm.LoadMem(asm.R2, ctx, copied.from, asm.Word),
			asm.StoreMem(ctx, cb(copied.to), asm.R2, asm.Word))
	}
	return append(body, asm.Mov.Reg(asm.R0, kept), asm.Return())
}

// watch is a function that notes with what a helper is called, and calls it.
func watch(name string, args int, helper asm.BuiltinFunc, kind int32) asm.Instructions {
	given := []asm.Register{asm.R1, asm.R2, asm.R3, asm.R4}[:args]
	kept := []asm.Register{asm.R6, asm.R7, asm.R8, asm.R9}[:args]
	var body asm.Instructions
	for i := range given {
		body = append(body, asm.Mov.Reg(kept[i], given[i]))
	}
	out := name + "_out"
	body = append(body,
		asm.StoreImm(asm.RFP, -4, 0, asm.Word),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.LoadMapPtr(asm.R1, 0).WithReference(seenMap),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, out),
		asm.StoreImm(asm.R0, 0, int64(kind), asm.Word),
		asm.StoreMem(asm.R0, 4, kept[0], asm.Word))
	if args == 4 { // the second is where the next hop is
		for i := int16(0); i < 5; i++ {
			body = append(body,
				asm.LoadMem(asm.R1, kept[1], 4*i, asm.Word),
				asm.StoreMem(asm.R0, 8+4*i, asm.R1, asm.Word))
		}
	}
	if args == 2 {
		body = append(body, asm.StoreMem(asm.R0, 28, kept[1], asm.Word))
	}
	for i := range given {
		again := asm.Mov.Reg(given[i], kept[i])
		if i == 0 {
			again = again.WithSymbol(out)
		}
		body = append(body, again)
	}
	return append(body, helper.Call(), asm.Return())
}

// function gives instructions a name and a type, which the kernel wants of all functions when it has it of one.
func function(line fmt.Stringer, name string, args int, body asm.Instructions) asm.Instructions {
	whole := &btf.Int{Name: "long", Size: 8, Encoding: btf.Signed}
	proto := &btf.FuncProto{Return: whole}
	for i := range args {
		proto.Params = append(proto.Params, btf.FuncParam{Name: fmt.Sprintf("a%d", i), Type: whole})
	}
	body[0] = body[0].WithSource(line)
	body[0] = btf.WithFuncMetadata(body[0].WithSymbol(name), &btf.Func{Name: name, Type: proto, Linkage: btf.StaticFunc})
	return body
}
