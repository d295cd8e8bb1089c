package main

import (
	"context"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func Example() {
	if err := run(context.Background(), os.Stdout); err != nil {
		fmt.Println(err)
	}
	// Output:
	// london put user:1 at revision 1
	// tokyo has user:1 = Ada, metadata {"visits":3}, expires in 1h0m0s
	// tokyo saw put user:1 "Ada"
	// tokyo saw put user:2 "Bob"
	// tokyo saw put user:2 "Grace"
	// tokyo saw delete user:1 ""
	// both list user:2 at revision 3
	// both list user:3 at revision 5
	// both list user:4 at revision 6
	// the replicas are the same: true
}
