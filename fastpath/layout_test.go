package fastpath

import (
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// TestLayoutsAreThoseOfThePrograms compares every struct with the one in the compiled programs: names, offsets, sizes.
func TestLayoutsAreThoseOfThePrograms(t *testing.T) {
	spec, err := loadDatapath()
	if err != nil {
		t.Fatal(err)
	}
	for name, mine := range map[string]any{
		"fl_endpoints4": endpointValue{}, "fl_endpoints6": endpointValue{}, "fl_sides": sideValue{}, "fl_routes4": routeValue{},
		"fl_routes6": routeValue{}, "fl_nodes4": uint32(0), "fl_nodes6": uint32(0), "fl_settings": settingsValue{},
		"fl_counts": Count{}, "fl_ports": targetValue{}, "fl_here": uint32(0), "fl_reasons": uint64(0), "fl_trace": pairValue{},
	} {
		theirs := spec.Maps[name]
		if theirs == nil {
			t.Errorf("the programs have no map %s", name)
			continue
		}
		if diff := cmp.Diff(fieldsOf(theirs.Value), fieldsIn(reflect.TypeOf(mine))); diff != "" {
			t.Errorf("values of %s (-C +Go):\n%s", name, diff)
		}
		if size := int(reflect.TypeOf(mine).Size()); size != int(theirs.ValueSize) {
			t.Errorf("values of %s: %d bytes, want %d", name, size, theirs.ValueSize)
		}
	}
	for name, mine := range map[string]any{
		"fl_routes4": prefix4{}, "fl_routes6": prefix6{}, "fl_here": hostKey{}, "fl_ports": portKey{}, "fl_tuples": tuple{},
	} {
		if diff := cmp.Diff(fieldsOf(spec.Maps[name].Key), fieldsIn(reflect.TypeOf(mine))); diff != "" {
			t.Errorf("keys of %s (-C +Go):\n%s", name, diff)
		}
	}
	for name, size := range map[string]uint32{
		"fl_endpoints4": 4, "fl_endpoints6": 16, "fl_sides": 4, "fl_nodes4": 4, "fl_nodes6": 16, "fl_settings": 4, "fl_counts": 4,
	} {
		if spec.Maps[name].KeySize != size {
			t.Errorf("keys of %s: %d bytes, want %d", name, spec.Maps[name].KeySize, size)
		}
	}
}

// fieldsOf lists what a type of C has, each with its place: "hop[2].mtu @84 2".
func fieldsOf(t btf.Type) (fields []string) {
	var walk func(t btf.Type, name string, at uint32)
	walk = func(t btf.Type, name string, at uint32) {
		switch u := btf.UnderlyingType(t).(type) {
		case *btf.Struct:
			for _, m := range u.Members {
				walk(m.Type, name+"."+m.Name, at+m.Offset.Bytes())
			}
			return
		case *btf.Array:
			if _, deep := btf.UnderlyingType(u.Type).(*btf.Struct); deep {
				size, _ := btf.Sizeof(u.Type)
				for i := range u.Nelems {
					walk(u.Type, fmt.Sprintf("%s[%d]", name, i), at+i*uint32(size))
				}
				return
			}
		}
		size, _ := btf.Sizeof(t)
		fields = append(fields, fmt.Sprintf("%s @%d %d", strings.ReplaceAll(strings.TrimPrefix(name, "."), "_", ""), at, size))
	}
	walk(t, "", 0)
	return fields
}

// fieldsIn is the same of a type of ours.
func fieldsIn(t reflect.Type) (fields []string) {
	var walk func(t reflect.Type, name string, at uintptr)
	walk = func(t reflect.Type, name string, at uintptr) {
		switch {
		case t.Kind() == reflect.Struct:
			for i := range t.NumField() {
				f := t.Field(i)
				walk(f.Type, name+"."+strings.ToLower(f.Name), at+f.Offset)
			}
		case t.Kind() == reflect.Array && t.Elem().Kind() == reflect.Struct:
			for i := range t.Len() {
				walk(t.Elem(), fmt.Sprintf("%s[%d]", name, i), at+uintptr(i)*t.Elem().Size())
			}
		default:
			fields = append(fields, fmt.Sprintf("%s @%d %d", strings.TrimPrefix(name, "."), at, t.Size()))
		}
	}
	walk(t, "", 0)
	return fields
}

// enum reads the names of an enum of layout.h and their numbers.
func enum(t *testing.T, name string) map[string]int {
	t.Helper()
	text, err := os.ReadFile("layout.h")
	if err != nil {
		t.Fatal(err)
	}
	body := regexp.MustCompile(`(?s)enum ` + name + ` \{(.*?)\};`).FindSubmatch(text)
	if body == nil {
		t.Fatalf("layout.h has no enum %s", name)
	}
	all := make(map[string]int)
	next := 0
	for _, m := range regexp.MustCompile(`(?m)^\s*([A-Z0-9_]+)(?: = (\d+))?,`).FindAllSubmatch(body[1], -1) {
		if len(m[2]) > 0 {
			_, _ = fmt.Sscan(string(m[2]), &next)
		}
		all[string(m[1])] = next
		next++
	}
	return all
}

func TestWordsAreThoseOfThePrograms(t *testing.T) {
	reasons := map[string]int{"REASONS": len(Reasons())}
	for _, r := range Reasons() {
		reasons[strings.ToUpper(strings.ReplaceAll(r.String(), "-", "_"))] = int(r)
	}
	if diff := cmp.Diff(enum(t, "reason"), reasons); diff != "" {
		t.Errorf("reasons (-C +Go):\n%s", diff)
	}
	if words := []string{Reason(-1).String(), (DropARP + 1).String()}; !cmp.Equal(words, []string{"unknown", "unknown"}) {
		t.Errorf("what is no reason is called %q", words)
	}
	kinds := make(map[string]int)
	for _, e := range []Encap{Direct, IPIP, VXLAN} {
		n, err := e.number()
		if err != nil {
			t.Error(err)
		}
		kinds["ENCAP_"+strings.ToUpper(string(e))] = int(n)
	}
	if diff := cmp.Diff(enum(t, "encap"), kinds); diff != "" {
		t.Errorf("encapsulations (-C +Go):\n%s", diff)
	}
	flags := make(map[string]int)
	for f := Flags(1); f.String() != ""; f <<= 1 {
		flags[strings.ToUpper(strings.ReplaceAll(f.String(), "-", "_"))] = int(f)
	}
	if diff := cmp.Diff(enum(t, "setting"), flags); diff != "" {
		t.Errorf("settings (-C +Go):\n%s", diff)
	}
}

// TestRoutesSurviveTheKernelsForm: whatever can be written is read as it was.
func TestRoutesSurviveTheKernelsForm(t *testing.T) {
	index := func(name string) (n uint32, _ error) { _, err := fmt.Sscanf(name, "l%d", &n); return n, err }
	name := func(n uint32) (string, bool) { return fmt.Sprintf("l%d", n), true }
	rapid.Check(t, func(t *rapid.T) {
		var r Route
		for i := range rapid.IntRange(0, MaxHops).Draw(t, "hops") {
			r.Hops[i] = drawHop(t)
		}
		v, err := r.encode(index, 7)
		if err != nil {
			t.Fatal(err)
		}
		if have := v.decode(name); have != r {
			t.Fatalf("%v became %v", r, have)
		}
		if gone := v.decode(func(uint32) (string, bool) { return "", false }); r != (Route{}) && gone.Fault != FaultLink {
			t.Fatalf("without links it is %v", gone)
		}
	})
}

func drawHop(t *rapid.T) Hop {
	is4 := rapid.Bool().Draw(t, "is4")
	h := Hop{
		Link: fmt.Sprintf("l%d", rapid.IntRange(1, 9).Draw(t, "link")), MTU: rapid.IntRange(0, 65535).Draw(t, "mtu"),
		Encap: rapid.SampledFrom([]Encap{Direct, IPIP, VXLAN}).Draw(t, "encap"), Next: drawAddr(t, is4),
	}
	if h.Encap != Direct {
		h.Local, h.End = drawAddr(t, is4), drawAddr(t, is4)
	}
	copy(h.MAC[:], rapid.SliceOfN(rapid.Byte(), 6, 6).Draw(t, "mac"))
	return h
}

func drawAddr(t *rapid.T, is4 bool) netip.Addr {
	if is4 {
		return netip.AddrFrom4([4]byte(append([]byte{10}, rapid.SliceOfN(rapid.Byte(), 3, 3).Draw(t, "address")...)))
	}
	return netip.AddrFrom16([16]byte(append([]byte{0xfd}, rapid.SliceOfN(rapid.Byte(), 15, 15).Draw(t, "address")...)))
}

// TestScribbledValuesAreFaulty: a value of which a byte is not as it was written is another row or a faulty one.
func TestScribbledValuesAreFaulty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := Route{Hops: [MaxHops]Hop{drawHop(t), drawHop(t)}}
		v, err := r.encode(func(string) (uint32, error) { return 5, nil }, 7)
		if err != nil {
			t.Fatal(err)
		}
		r = v.decode(func(uint32) (string, bool) { return "l5", true })
		hop := &v.Hop[rapid.IntRange(0, MaxHops-1).Draw(t, "hop")]
		for name, scribble := range map[string]func(){
			"pad": func() { hop.Pad[1] = 1 }, "encap": func() { hop.Encap = 9 }, "family": func() { hop.Family = 5 },
			"mtu": func() { hop.MTU++ }, "end": func() { hop.End[15] ^= 1 }, "hops": func() { v.Hops = 9 },
		} {
			before := v
			scribble()
			if have := v.decode(func(uint32) (string, bool) { return "l5", true }); have == r {
				t.Fatalf("%s scribbled into %v is not seen", name, r)
			}
			v = before
		}
	})
	s := Settings{Flags: TakesVXLAN, VNI: 88, Port: 4789, Local4: netip.MustParseAddr("192.0.2.1"), Device: "l7"}
	v, err := s.encode(7)
	if err != nil || v.decode("l7") != s {
		t.Fatalf("%v became %v, %v", s, v.decode("l7"), err)
	}
	v.Pad[0] = 1
	if v.decode("l7").Fault != FaultForm {
		t.Error("a scribbled pad of the settings is not seen")
	}
}

func TestWhatDoesNotFitIsRefused(t *testing.T) {
	four, six := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("fd00::1")
	for name, h := range map[string]Hop{
		"gre":            {Link: "a", Encap: "gre", Next: four, Local: four, End: four},
		"nothing":        {Link: "a"},
		"no next hop":    {Link: "a", Encap: Direct},
		"two families":   {Link: "a", Encap: VXLAN, Next: four, Local: six, End: six},
		"no outer":       {Link: "a", Encap: VXLAN, Next: four},
		"outer for none": {Link: "a", Encap: Direct, Next: four, Local: four, End: four},
		"zone":           {Link: "a", Encap: Direct, Next: netip.MustParseAddr("fe80::1%a")},
		"size":           {Link: "a", Encap: Direct, Next: four, MTU: 65536},
	} {
		if v, err := h.encode(1); err == nil {
			t.Errorf("%s: %v", name, v)
		}
	}
	for _, s := range []Settings{{VNI: 1 << 24}, {Port: 65536}, {Local4: six}, {Local6: four}} {
		if v, err := s.encode(7); err == nil {
			t.Errorf("%v became %v", s, v)
		}
	}
	if v, err := (Endpoint{MTU: -1}).encode(1, 2, 3); err == nil {
		t.Errorf("%v", v)
	}
}

func structOf(t *testing.T, v btf.Type) *btf.Struct {
	t.Helper()
	s, is := btf.UnderlyingType(v).(*btf.Struct)
	if !is {
		t.Fatalf("%v is no struct", v)
	}
	return s
}
