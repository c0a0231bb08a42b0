package durable

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// File is a file of fixed size that is written in place: its blocks are on the
// disk from the start, so Datasync writes data only and no metadata.
//
// Its methods may be called at once, but for Rename and Name. Only whole
// files are atomic: what was written since the last Datasync may be there
// after a power cut in any part, so the caller's records need checksums.
type File struct {
	f    *os.File
	raw  syscall.RawConn
	path string
}

// CreateFile makes a file of size zero bytes at path, mode 0600, and opens it.
// The file appears under its name when all of it is durable; if there is
// something at path already it fails with fs.ErrExist. Another error may leave
// the whole file at path.
func CreateFile(path string, size int64) (*File, error) {
	// Written, not only allocated: the first write to an allocated block
	// changes metadata (the extent becomes a written one), and each Datasync
	// would commit the file system's journal too.
	zeros := make([]byte, min(size, 1<<20))
	err := create(path, 0o600, func(w io.Writer) error {
		for left := size; left > 0; {
			n, err := w.Write(zeros[:min(left, int64(len(zeros)))])
			if err != nil {
				return err
			}
			left -= int64(n)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("creating %s: %w", path, err)
	}
	return OpenFile(path)
}

// OpenFile opens the file at path for reading and writing.
func OpenFile(path string) (*File, error) {
	if err := inject(stepOpen, path); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	return &File{f: f, raw: raw, path: path}, nil
}

// WriteAt writes p at off, which may be beyond the end, only that then the next
// Datasync is a slow one. After an error part of p may have been written.
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	return tear(f.path, p, func(p []byte) (int, error) {
		n, err := f.f.WriteAt(p, off)
		off += int64(n)
		return n, err
	})
}

// ReadAt reads as os.File.ReadAt does.
func (f *File) ReadAt(p []byte, off int64) (int, error) { return f.f.ReadAt(p, off) }

// Datasync makes durable what was written before it was called. After an error
// nothing that was written since the last success can be relied on, not even if
// Datasync succeeds later: Linux reports a failed write once and then takes the
// page for clean.
func (f *File) Datasync() error {
	if err := inject(stepDatasync, f.path); err != nil {
		return err
	}
	var err error
	// Control holds the descriptor: a Close at the same time waits.
	if e := f.raw.Control(func(fd uintptr) {
		err = retry(func() error { return unix.Fdatasync(int(fd)) })
	}); e != nil {
		err = fs.ErrClosed // the only reason, but os has a private error for it
	}
	if err != nil {
		return &fs.PathError{Op: stepDatasync, Path: f.path, Err: err}
	}
	return nil
}

// retry calls f until no signal interrupts it.
func retry(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}

// Size is the size in bytes.
func (f *File) Size() (int64, error) {
	info, err := f.f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// Name is the path that the file was opened or last renamed with.
func (f *File) Name() string { return f.path }

// Rename renames the open file as Rename does; the content is not synced.
func (f *File) Rename(path string) error {
	old := f.path
	if err := rename(old, path); err != nil {
		return err
	}
	f.path = path // also if a sync fails: the file is there now
	return syncRenamed(old, path)
}

// Close closes the file; it syncs nothing.
func (f *File) Close() error { return f.f.Close() }
