package fastpath

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain is also the beginning of the processes that tests start as others than their own.
func TestMain(m *testing.M) {
	switch {
	case os.Getenv(lifeOrders) != "":
		if err := daemon(os.Getenv(lifeOrders)); err != nil {
			fmt.Println(err)
		}
	case os.Getenv(allowed) != "":
		asker()
	default:
		goleak.VerifyTestMain(m)
	}
}
