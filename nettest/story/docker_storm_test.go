package story_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/nettest"
)

// stormBoxes are containers that some workers start and remove at once.
type stormBoxes struct {
	n    *nettest.Node
	next atomic.Int32 // number of the next container

	mu      sync.Mutex
	holders map[netip.Addr]string // of those that run
	failed  map[string]int        // how often something did not work
	faults  []error
}

const (
	stormCount   = 100
	stormWorkers = 8
)

// work starts and removes containers until there were enough.
func (s *stormBoxes) work() {
	for {
		number := s.next.Add(1)
		if number > stormCount {
			return
		}
		name := fmt.Sprintf("storm%d", number)
		for tries := 1; !s.live(name); tries++ {
			if tries == 20 {
				s.note(fmt.Errorf("%s never ran", name))
				return
			}
		}
	}
}

// live is one life of a container. It may not come into it while the daemon is being killed.
func (s *stormBoxes) live(name string) bool {
	err := s.n.DockerAPI("POST", "/containers/create?name="+name, map[string]any{
		"Image": nettest.Image, "HostConfig": map[string]any{"NetworkMode": lifeNetwork},
	}, nil)
	if err == nil {
		err = s.n.DockerAPI("POST", "/containers/"+name+"/start", nil, nil)
	}
	if err == nil {
		err = s.hold(name)
	}
	s.release(name)
	for begun := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		gone := s.n.DockerAPI("DELETE", "/containers/"+name+"?force=1", nil, nil)
		if gone == nil {
			break
		}
		if time.Since(begun) > nettest.Patience(20*time.Second) {
			s.note(fmt.Errorf("%s can not be removed: %w", name, gone))
			break
		}
	}
	if err != nil {
		s.mu.Lock()
		s.failed[err.Error()]++
		s.mu.Unlock()
	}
	return err == nil
}

// hold notes which address a container has from now on. No other that runs may have it.
func (s *stormBoxes) hold(name string) error {
	var shown struct {
		NetworkSettings struct {
			Networks map[string]struct{ IPAddress string }
		}
	}
	if err := s.n.DockerAPI("GET", "/containers/"+name+"/json", nil, &shown); err != nil {
		return err
	}
	ip, err := netip.ParseAddr(shown.NetworkSettings.Networks[lifeNetwork].IPAddress)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if other, shared := s.holders[ip]; shared {
		s.faults = append(s.faults, fmt.Errorf("%s and %s both run with %s", other, name, ip))
	}
	s.holders[ip] = name
	return nil
}

// release is called before the container ends: from then on another may get its address.
func (s *stormBoxes) release(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ip, holder := range s.holders {
		if holder == name {
			delete(s.holders, ip)
		}
	}
}

func (s *stormBoxes) note(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, err)
}

func TestAStormOfContainersLeavesNothing(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	chance := rand.New(rand.NewPCG(seed, 88))
	n, far := lifeLab(t, false, lifeEngine())
	before := n.State()
	lifeCreate(n)
	steady := lifeRun(n, "steady", "-p", "8080:80")
	calm := lifeFlow(t, far, 250, steady)
	s := &stormBoxes{n: n, holders: map[netip.Addr]string{steady.IP4: "steady"}, failed: make(map[string]int)}
	var workers sync.WaitGroup
	for range stormWorkers {
		workers.Go(s.work)
	}
	begun, kills, over := time.Now(), 0, make(chan struct{})
	go func() {
		defer close(over)
		workers.Wait()
	}()
	for storming := true; storming; {
		select {
		case <-over:
			storming = false
		case <-time.After(time.Second + time.Duration(chance.Int64N(int64(3*time.Second)))):
			n.Kill()
			n.Start()
			kills++
		}
	}
	t.Logf("%d containers and %d deaths of the daemon in %v", stormCount, kills, time.Since(begun))
	for what, count := range s.failed {
		t.Logf("%d times: %s", count, what)
	}
	if err := errors.Join(s.faults...); err != nil || kills < 3 {
		t.Errorf("%d deaths, %v", kills, err)
	}
	took := lifeAwaits(t, 45*time.Second, func() error { return lifeAgrees(t, n, "steady 8080 mapped") })
	t.Logf("nothing is left of them after %v", took)
	calm()
	lifeEnd(t, n, before)
}
