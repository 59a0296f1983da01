package tunnel

// Offload tells who fills in the checksums of the packets that enter a tunnel device.
type Offload string

const (
	OffloadOn  Offload = "on"  // the hardware that the packet leaves by, where it can
	OffloadOff Offload = "off" // the kernel, before the packet is wrapped; large packets are then cut there as well
)

// Verdict is what a test of the offload has shown.
type Verdict string

const (
	VerdictGood    Verdict = "good"
	VerdictBad     Verdict = "bad"     // what is left to the hardware does not arrive whole
	VerdictUnknown Verdict = "unknown" // nobody answered, or not clearly
)

// ChooseOffload is how a tunnel device shall be. What is off stays off: it was turned off by hand, or for an earlier
// verdict, and with it off no test can show that it would work. Whoever deletes the device has it tested anew.
func ChooseOffload(v Verdict, have Offload) Offload {
	if v == VerdictBad || have == OffloadOff {
		return OffloadOff
	}
	return OffloadOn
}

// Together is the verdict on one host's hardware from those of several peers. One bad one decides: two machines of the same
// hypervisor exchange packets whose checksums nobody ever fills in, so that a good one proves less.
func Together(all ...Verdict) Verdict {
	sum := VerdictUnknown
	for _, v := range all {
		if v == VerdictBad {
			return v
		}
		if v == VerdictGood {
			sum = v
		}
	}
	return sum
}

// tally counts questions to a peer and its answers.
type tally struct{ asked, answered int }

// Questions of each kind in a test, and the answers that prove that the peer answers at all. They are more than a peer
// gives whose limit of answers is used up: one a second, inet_peer's default.
const (
	offloadTries  = 4
	offloadProofs = 3
)

// judge compares how the same questions fare with a checksum of the hardware and with one of the kernel.
func judge(hardware, kernel tally) Verdict {
	switch {
	case hardware.answered > 0:
		return VerdictGood
	case hardware.asked >= offloadTries && kernel.answered >= offloadProofs:
		return VerdictBad
	default:
		return VerdictUnknown
	}
}
