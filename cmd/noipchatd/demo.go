package main
import "io"
func demo(args []string, w io.Writer) error { return nil }
