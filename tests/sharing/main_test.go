package sharing_test

import (
	"os"
	"testing"

	"github.com/absfs/memmapfs/internal/testkit"
)

func TestMain(m *testing.M) {
	testkit.ServeIfPeer()
	os.Exit(m.Run())
}
