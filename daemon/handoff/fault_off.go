//go:build !fault

package handoff

// At is where the fault build ends the process, or has a step fail; here it is nothing.
func At(string) error { return nil }
