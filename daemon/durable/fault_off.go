//go:build !fault

package durable

// inject is where the fault build fails; here it is nothing.
func inject(_, _ string) error { return nil }

// tear is where the fault build tears a write in two.
func tear(_ string, p []byte, write func([]byte) (int, error)) (int, error) { return write(p) }
