package durable

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func BenchmarkWriteFile(b *testing.B) {
	dir, data := b.TempDir(), make([]byte, 1024)
	for b.Loop() {
		if err := WriteFile(filepath.Join(dir, "f"), data, 0o600); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkBatch writes 1 KiB into each of n directories. "new" gives each file
// a new name. "replaced" replaces the files of the round before, and so frees
// as many inodes as it needs: ext4 is slow then, for it passes over an inode
// that was freed in the last minutes, one by one.
func BenchmarkBatch(b *testing.B) {
	data := make([]byte, 1024)
	for _, n := range []int{1, 100, 10_000} {
		for _, how := range []string{"new", "replaced"} {
			b.Run(fmt.Sprintf("%d/%s", n, how), func(b *testing.B) {
				root := b.TempDir()
				for i := range n {
					if err := os.Mkdir(filepath.Join(root, fmt.Sprint(i)), 0o700); err != nil {
						b.Fatal(err)
					}
				}
				round := 0
				for b.Loop() {
					if how == "new" {
						round++
					}
					batch := NewBatch(root)
					for i := range n {
						batch.Add(filepath.Join(root, fmt.Sprint(i), fmt.Sprint(round)), data, 0o600)
					}
					if err := batch.Commit(); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*n), "µs/file")
			})
		}
	}
}

func BenchmarkDatasync(b *testing.B) {
	const size = 16 << 20
	f, err := CreateFile(filepath.Join(b.TempDir(), "journal"), size)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	data := make([]byte, 1024)
	var off int64
	b.ReportAllocs()
	for b.Loop() {
		if _, err := f.WriteAt(data, off%(size-1024)); err != nil {
			b.Fatal(err)
		}
		off += 1024
		if err := f.Datasync(); err != nil {
			b.Fatal(err)
		}
	}
}
