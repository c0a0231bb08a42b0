package main

import (
	"bufio"
	"fmt"
	"image/color"
	"io"

	"github.com/boombuler/barcode/qr"
)

// quiet is the margin that the standard wants around a code, in modules.
const quiet = 4

// drawQR draws text as a QR code, two modules above each other in a character. With
// colours it is black on white; without, what is light is drawn, as most terminals
// are dark, and programs that read codes take both.
func drawQR(w io.Writer, text string, colours bool) error {
	code, err := qr.Encode(text, qr.L, qr.Unicode)
	if err != nil {
		return fmt.Errorf("drawing a QR code: %w", err)
	}
	size := code.Bounds().Dx()
	light := func(x, y int) bool {
		x, y = x-quiet, y-quiet
		return x < 0 || y < 0 || x >= size || y >= size || code.At(x, y) == color.White
	}
	begin, end := "", "\n"
	if colours {
		begin, end = "\x1b[97;40m", "\x1b[0m\n"
	}
	b := bufio.NewWriter(w)
	for y := 0; y < size+2*quiet; y += 2 {
		b.WriteString(begin)
		for x := range size + 2*quiet {
			upper, lower := light(x, y), light(x, y+1)
			switch {
			case upper && lower:
				b.WriteRune('█')
			case upper:
				b.WriteRune('▀')
			case lower:
				b.WriteRune('▄')
			default:
				b.WriteRune(' ')
			}
		}
		b.WriteString(end)
	}
	return b.Flush()
}
