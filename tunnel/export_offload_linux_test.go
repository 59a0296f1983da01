package tunnel

// ReadOffload is readOffload.
func (k *Kernel) ReadOffload(name string) (Offload, error) { return k.readOffload(name) }

// SetOffload is setOffload.
func (k *Kernel) SetOffload(name string, o Offload) error { return k.setOffload(name, o) }

// JudgeOffload is judge, of questions asked and answered.
func JudgeOffload(asked, answered, controls int) Verdict {
	return judge(tally{asked, answered}, tally{asked, controls})
}
