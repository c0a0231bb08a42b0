package client

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"modernc.org/sqlite"

	"github.com/noipchat/noipchat/daemon/durable"
)

// ErrDamaged is wrapped by the errors of a Store whose file is no database any
// more, or one that contradicts itself. The file is left as it is.
var ErrDamaged = errors.New("damaged")

// ErrUnwritable is wrapped by the errors of a Store that the file system does not give us.
var ErrUnwritable = errors.New("it can't be read and written")

// StoreFile is the name of a Store in its folder.
const StoreFile = "history.db"

// Store is what a device keeps: its account, the keys of servers, the history,
// what was seen, and what waits to be sent. It is one SQLite file, history.db,
// in the profile's folder, with history.db-wal and history.db-shm beside it
// while it is open; their layout is in storeSchemas. Who writes has the lock of
// history.db-turn meanwhile.
//
// A method that changes something returns when the change is on disk: with a
// write-ahead log and synchronous=FULL, SQLite syncs the log at every commit.
// An error means that nothing was changed; only if that sync itself failed, and
// the process then dies, the change may still be found there. Methods may be
// called from several goroutines, and several processes may have the same Store
// open.
type Store struct {
	path   string
	db     *sql.DB     // of its connections one is the writer's, two are for reading
	proven atomic.Bool // the home has said to this process how far the device has counted

	mu       sync.Mutex // held during a transaction that writes
	writer   *sql.Conn
	prepared map[string]*sql.Stmt // for the writer, by their text
}

// Each connection keeps at most 2 MiB of pages. What is sorted stays in memory,
// because a temporary file would have messages in it.
const storePragmas = "_pragma=busy_timeout(10000)&_pragma=synchronous(full)&_pragma=foreign_keys(on)" +
	"&_pragma=cache_size(-2048)&_pragma=temp_store(memory)"

// OpenStore opens the store in the folder dir, and makes what is missing: the
// folder with mode 0700, the file with 0600. A file that is damaged, of another
// program, or of a newer version of this one is an error, and stays as it is.
func OpenStore(dir string) (*Store, error) {
	path, err := filepath.Abs(filepath.Join(dir, StoreFile))
	if err != nil {
		return nil, fmt.Errorf("opening the history: %w", err)
	}
	if err := createStore(path); err != nil {
		return nil, fmt.Errorf("opening the history: %w", err)
	}
	name := url.URL{Scheme: "file", Path: path, RawQuery: storePragmas}
	db, err := sql.Open("sqlite", name.String())
	if err != nil {
		return nil, fmt.Errorf("opening the history: %s: %w", path, err)
	}
	db.SetMaxOpenConns(3)
	s := &Store{path: path, db: db, prepared: map[string]*sql.Stmt{}}
	err = s.open()
	for late := time.Now().Add(openPatience); isBusy(err) && time.Now().Before(late); err = s.open() {
		time.Sleep(5 * time.Millisecond)
	}
	if err != nil {
		s.Close()
		return nil, s.failed("opening the history", err)
	}
	return s, nil
}

// openPatience is how long others may take to make the store. SQLite's own patience,
// the busy_timeout, does not cover the change to a write-ahead log.
const openPatience = 10 * time.Second

func isBusy(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && e.Code()&0xff == 5 // SQLITE_BUSY
}

// createStore makes an empty file if there is none, because SQLite would give
// it the mode of any file; the files beside it get the mode of this one. A file
// that exists is not opened: closing it again would take away the locks that
// this process has on it (those of POSIX belong to the process).
func createStore(path string) error {
	if err := durable.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return f.Close()
}

func (s *Store) open() (err error) {
	if s.writer != nil { // of an attempt before
		s.writer.Close()
		clear(s.prepared)
	}
	if s.writer, err = s.db.Conn(context.Background()); err != nil {
		return err
	}
	version, err := s.version()
	if err != nil {
		return err
	}
	// Not among storePragmas, because it writes to a file that may not be ours. It stays in the file.
	var mode string
	if err := s.row("PRAGMA journal_mode = wal").Scan(&mode); err != nil {
		return err
	}
	if mode != "wal" {
		return misusef("the file system of %s can't hold a database that several processes share (journal mode %q)", s.path, mode)
	}
	if version == len(storeSchemas) {
		return nil
	}
	return s.migrate()
}

// Close ends the store. Calls that come later fail.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.prepared {
		p.Close()
	}
	if s.writer != nil {
		s.writer.Close()
	}
	if err := s.db.Close(); err != nil {
		return s.failed("closing the history", err)
	}
	return nil
}

// turnPatience is how long a process waits in the line of those who write. SQLite
// alone has no line: who finds the file locked sleeps, up to 100 ms at a time, and
// is served if it happens to be free when he wakes; with hundreds some never are.
// Who waits so long stands behind a process that was stopped in its turn, and
// leaves it to SQLite to say so.
const turnPatience = 10 * time.Second

// write calls change in a transaction that is on disk when write returns nil,
// and undone when it returns an error, which says what the store was doing.
// Within change, s.exec, s.row and s.query are the ones to use.
func (s *Store) write(doing string, change func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	turn, err := durable.LineUp(s.path+"-turn", turnPatience)
	switch {
	case err == nil:
		defer turn.Close()
	case !errors.Is(err, durable.ErrLocked):
		return s.failed(doing, err)
	}
	// Immediate: a transaction that began by reading could not wait for another process.
	_, err = s.exec("BEGIN IMMEDIATE")
	if err == nil {
		err = change()
	}
	if err == nil {
		_, err = s.exec("COMMIT")
	}
	if err != nil {
		s.exec("ROLLBACK") // fails if the transaction did not begin, or was ended by the error itself
		return s.failed(doing, err)
	}
	return nil
}

// statement returns the writer's prepared statement for a query.
func (s *Store) statement(query string) (*sql.Stmt, error) {
	if p := s.prepared[query]; p != nil {
		return p, nil
	}
	p, err := s.writer.PrepareContext(context.Background(), query)
	if err == nil {
		s.prepared[query] = p
	}
	return p, err
}

func (s *Store) exec(query string, args ...any) (sql.Result, error) {
	p, err := s.statement(query)
	if err != nil {
		return nil, err
	}
	return p.Exec(args...)
}

func (s *Store) query(query string, args ...any) (*sql.Rows, error) {
	p, err := s.statement(query)
	if err != nil {
		return nil, err
	}
	return p.Query(args...)
}

// row is query for one row; what is wrong is told by Scan.
func (s *Store) row(query string, args ...any) scanner {
	p, err := s.statement(query)
	if err != nil {
		return unscannable{err}
	}
	return p.QueryRow(args...)
}

type scanner interface{ Scan(dest ...any) error }

type unscannable struct{ err error }

func (u unscannable) Scan(...any) error { return u.err }

// failed says what the store was doing, and with which file if it was the file
// that would not have it.
func (s *Store) failed(doing string, err error) error {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return fmt.Errorf("%s: %w", doing, err)
	}
	switch e.Code() & 0xff { // the rest is detail
	case 8, 10, 14: // SQLITE_READONLY, SQLITE_IOERR, SQLITE_CANTOPEN
		return fmt.Errorf("%s: %s: %w: %w", doing, s.path, ErrUnwritable, err)
	case 13: // SQLITE_FULL
		return fmt.Errorf("%s: %s: %w: %w", doing, s.path, syscall.ENOSPC, err)
	case 11, 26: // SQLITE_CORRUPT, SQLITE_NOTADB
		return fmt.Errorf("%s: %s is %w (it is left as it is): %w", doing, s.path, ErrDamaged, err)
	}
	return fmt.Errorf("%s: %s: %w", doing, s.path, err)
}
