package story_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/nettest"
)

// exampleImages replaces the images of the example by the one that is here: no registry can be reached.
const exampleImages = `services:
  web: {image: bb}
  app: {image: bb}
  db: {image: bb}
`

// checkExample: the example does what it says, and nothing is left of it when it is taken down.
func (y *yard) checkExample(t *testing.T) {
	a := y.n
	dir, err := filepath.Abs("../../examples")
	images, env := filepath.Join(a.Dir, "images.yaml"), filepath.Join(a.Dir, "shop.env")
	write := func(file, text string) {
		if err == nil {
			err = os.WriteFile(file, []byte(text), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	write(images, exampleImages)
	write(env, "")
	compose := func(args ...string) nettest.Result {
		begun := time.Now()
		defer func() { t.Logf("docker-compose %s: after %v", args[0], time.Since(begun)) }()
		return a.Compose(dir, append([]string{"--env-file", env, "-f", "compose.yaml", "-f", images, "-p", "shop"}, args...)...)
	}
	if r := compose("up", "-d"); r.Code == 0 || !strings.Contains(r.Stderr, "DB_ADDRESS") || !strings.Contains(r.Stderr, "fairlead status") {
		t.Errorf("without an address for the database: exit code %d: %s", r.Code, r.Stderr)
	}
	write(env, "DB_ADDRESS=10.88.1.10\n")
	if r := compose("up", "-d"); r.Code != 0 {
		t.Fatalf("up: %s%s", r.Stdout, r.Stderr)
	}
	y.checkServices(t)
	if r := compose("down"); r.Code != 0 {
		t.Errorf("down: %s%s", r.Stdout, r.Stderr)
	}
	if out := a.Docker("network", "ls", "-q", "--filter", "name=shop"); out != "" {
		t.Errorf("networks are left: %s", out)
	}
	if err := y.bare(t, a); err != nil {
		t.Error(err)
	}
}

// checkServices: services reach each other by name, and other hosts reach them by address and port.
func (y *yard) checkServices(t *testing.T) {
	t.Helper()
	a, b := y.Nodes[0], y.Nodes[1]
	db, app := a.Box("shop_db_1", "shop_back"), a.Box("shop_app_1", "shop_front")
	web := ready(a, "shop_web_1", "shop_front")
	open(db)
	open(app)
	if want := "10.88.1.10"; db.IP4.String() != want {
		t.Errorf("the database has %s, not %s", db.IP4, want)
	}
	a.Docker("exec", "shop_web_1", "sh", "-c", "ping -q -c 1 -W 2 db && ping -q -c 1 -W 2 app")
	for _, err := range []error{
		answers(b.Host, "tcp", netip.AddrPortFrom(db.IP4, plainPort), "shop_db_1"),
		answers(b.Host, "tcp", netip.AddrPortFrom(app.IP4, plainPort), "shop_app_1"),
		answers(b.Host, "tcp", netip.AddrPortFrom(web.IP4, plainPort), "shop_web_1"),
		answers(y.stranger, "tcp", netip.AddrPortFrom(a.Address4, 8080), "shop_web_1"),
		called(web, db), called(web, app), called(db, a.Box("shop_web_1", "shop_back")),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	e := show[agent.Endpoint](t, a, "endpoints/"+endpointOf(t, db))
	got := fmt.Sprint(e.Network, e.Labels["com.docker.compose.project"], e.Labels["com.docker.compose.service"], e.Labels["docker.image"])
	if want := fmt.Sprint("shop_back", "shop", "db", nettest.Image); got != want {
		t.Errorf("endpoint of the database: %s, want %s", got, want)
	}
}
