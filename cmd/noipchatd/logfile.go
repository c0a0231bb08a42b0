package main

import (
	"fmt"
	"os"
	"sync"
)

// logFile is a log that a rotation may move away: reopen begins another.
type logFile struct {
	path string

	mu sync.Mutex
	f  *os.File // os.Stderr: it could not be opened yet
}

// Write implements io.Writer. It is safe for concurrent use.
func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.f.Write(p)
}

// reopen opens what is at the path now. After an error the log goes on where it was.
func (l *logFile) reopen() error {
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
	if err != nil {
		return fmt.Errorf("opening the log: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f != os.Stderr {
		l.f.Close()
	}
	l.f = f
	return nil
}
