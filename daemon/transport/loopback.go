package transport

import (
	"fmt"
	"math/rand/v2"
)

// Loopback returns an address of this machine, with the port 0, from which nothing goes out: so
// no connection gets the port of a server there while that is away.
func Loopback() string {
	return fmt.Sprintf("127.%d.%d.%d:0", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
}
