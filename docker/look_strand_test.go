package docker

import (
	"strings"
	"testing"
)

const strandText = `msg="container has no link, fairlead does not know its endpoint: restart it" container=db networks=[n] command="docker restart db"`

// strands is how often people were told of db.
func (w *lookWorld) strands() int { return strings.Count(w.log.String(), strandText) }

// runs has Docker run db on the network apps, beside web.
func (w *lookWorld) runs(endpoint string) {
	w.docker.change(func() {
		w.docker.containers = append(w.docker.containers[:1], dockerContainer("db", "a1", endpoint, "10.88.1.2"))
	})
}

// TestLookStranded tells once of a container whose endpoint is lost, and again when it is lost again.
func TestLookStranded(t *testing.T) {
	w := shop(t)
	w.runs("e2")
	next, err := w.looker.look(t.Context(), w.now)
	if err != nil || next != lookAgain || w.strands() != 0 {
		t.Errorf("at first: told %d times, the next look is in %s: %v", w.strands(), next, err)
	}
	w.pass(5)
	if w.strands() != 1 {
		t.Fatalf("told %d times after 5 s\n%s", w.strands(), w.log)
	}
	w.pass(60)
	w.looker.lost(errLookEnded)
	w.pass(60)
	if next, err := w.looker.look(t.Context(), w.now); err != nil || next != lookEvery || w.strands() != 1 {
		t.Errorf("later: told %d times, the next look is in %s: %v", w.strands(), next, err)
	}
	w.guest("e3", "a1", false, "10.88.1.2")
	w.runs("e3") // docker restart
	w.pass(5)
	delete(w.host.guests, lookID("e3"))
	w.pass(10)
	if w.strands() != 2 {
		t.Errorf("told %d times when it is lost again\n%s", w.strands(), w.log)
	}
}

// TestLookStrandedNot sees containers that are well, or that a restart does not help.
func TestLookStrandedNot(t *testing.T) {
	cases := map[string]func(w *lookWorld){
		"just started": func(w *lookWorld) {
			w.runs("e2")
			w.pass(0)
			w.guest("e2", "a1", false, "10.88.1.2")
		},
		"starts again and again": func(w *lookWorld) {
			for _, endpoint := range []string{"e2", "e3", "e4"} {
				w.runs(endpoint)
				w.pass(0)
				w.now = w.now.Add(lookAgain)
			}
			w.guest("e4", "a1", false, "10.88.1.2")
		},
		"Docker went away": func(w *lookWorld) {
			w.runs("e2")
			w.pass(0)
			w.looker.lost(errLookEnded)
			w.now = w.now.Add(lookAgain)
			w.pass(0)
			w.guest("e2", "a1", false, "10.88.1.2")
		},
		"known by the address": func(w *lookWorld) {
			w.guest("e9", "a1", false, "10.88.1.2")
			w.runs("e2")
		},
		"between two networks": func(w *lookWorld) {
			w.runs("e2")
			e := w.docker.containers[1].NetworkSettings.Networks["n"]
			e.EndpointID = ""
			w.docker.containers[1].NetworkSettings.Networks["n"] = e
		},
		"on a network of another driver": func(w *lookWorld) {
			w.runs("e2")
			w.docker.containers[1] = dockerContainer("db", "b1", "e2", "10.88.1.2")
		},
	}
	for name, so := range cases {
		t.Run(name, func(t *testing.T) {
			w := shop(t)
			so(w)
			w.pass(30)
			if text := w.log.String(); strings.Contains(text, "has no link") {
				t.Errorf("log\n%s", text)
			}
		})
	}
}

// TestLookStrandedRestored tells of containers only when their network is there again.
func TestLookStrandedRestored(t *testing.T) {
	w := shop(t)
	w.runs("e2")
	delete(w.host.networks, lookID("a1"))
	w.pass(5)
	if text := w.log.String(); !strings.Contains(text, "network restored") || strings.Contains(text, "has no link") {
		t.Errorf("log when the network has come back\n%s", text)
	}
	w.pass(15)
	if w.strands() != 1 {
		t.Errorf("told %d times\n%s", w.strands(), w.log)
	}
}
