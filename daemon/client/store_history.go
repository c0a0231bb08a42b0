package client

import (
	"database/sql"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
)

// Status returns the message with this id, or one that had it formerly, or false if there is none. Of a
// message to oneself, which went out and came in, it is the one that went out.
func (s *Store) Status(id message.ID) (Message, bool, error) {
	return s.status(id, id)
}

// StatusByPrefix is Status by the first hex digits of an id, at least 6. It is
// an error if more than one message has them.
func (s *Store) StatusByPrefix(prefix string) (Message, bool, error) {
	if len(prefix) < 6 || len(prefix) > 32 {
		return Message{}, false, fmt.Errorf("the beginning of a message id has 6 to 32 hex digits, and %q has %d characters", prefix, len(prefix))
	}
	first, err := message.ParseID(prefix + strings.Repeat("0", 32-len(prefix)))
	if err != nil {
		return Message{}, false, err
	}
	last, err := message.ParseID(prefix + strings.Repeat("f", 32-len(prefix)))
	if err != nil {
		return Message{}, false, err
	}
	return s.status(first, last)
}

func (s *Store) status(first, last message.ID) (m Message, found bool, err error) {
	// With the limit, an id that is there three times is enough: one may be there twice.
	rows, err := s.db.Query("SELECT "+messageColumns+` FROM message m
		WHERE m.seq IN (SELECT seq FROM message WHERE id BETWEEN ?1 AND ?2 UNION SELECT message FROM former WHERE id BETWEEN ?1 AND ?2)
		AND `+ofPeople+" ORDER BY m.id, m.out DESC LIMIT 3", first[:], last[:])
	if err != nil {
		return m, false, s.failed("looking for a message", err)
	}
	messages, err := scanMessages(rows)
	if err != nil {
		return m, false, s.failed("looking for a message", err)
	}
	if len(messages) == 0 {
		return m, false, nil
	}
	if other := messages[len(messages)-1]; other.ID != messages[0].ID {
		return Message{}, false, fmt.Errorf("more than one message id begins like that: %v and %v", messages[0].ID, other.ID)
	}
	if err := s.complete(messages[:1]); err != nil {
		return Message{}, false, s.failed("looking for a message", err)
	}
	return messages[0], true, nil
}

// Query says which messages History is to return; the zero value is all.
type Query struct {
	With   message.Address // from or to this address; "": everybody
	Grep   *regexp.Regexp  // the text matches
	Before time.Time       // At is before this
	Only   Direction
	Limit  int // the last so many; 0: all
}

// Direction is a choice of messages.
type Direction uint8

// The directions.
const (
	InAndOut Direction = iota
	In
	Out
)

// History returns what the query asks for, oldest first.
func (s *Store) History(q Query) ([]Message, error) {
	messages, err := s.history(q)
	if err != nil {
		return nil, s.failed("reading the history", err)
	}
	return messages, nil
}

func (s *Store) history(q Query) (messages []Message, err error) {
	text, args := q.sql()
	rows, err := s.db.Query(text, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for (q.Limit <= 0 || len(messages) < q.Limit) && rows.Next() {
		m, err := scanMessage(rows)
		if err != nil {
			return nil, err
		}
		if q.Grep == nil || q.Grep.MatchString(m.Body) {
			messages = append(messages, m)
		}
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return nil, err
	}
	slices.Reverse(messages)
	return messages, s.complete(messages)
}

// sql returns the query as SQL, newest first. A limit is for the caller, who
// knows which rows match.
func (q *Query) sql() (text string, args []any) {
	before := int64(lastTime)
	if !q.Before.IsZero() {
		before = q.Before.UnixMilli()
	}
	named := []any{sql.Named("before", before), sql.Named("with", q.With)}
	const some = "SELECT " + messageColumns + " FROM message m WHERE m.at < :before AND " + ofPeople
	if q.With == "" {
		switch q.Only {
		case In:
			return some + " AND m.out = 0 ORDER BY m.seq DESC", named[:1]
		case Out:
			return some + " AND m.out = 1 ORDER BY m.seq DESC", named[:1]
		}
		return some + " ORDER BY m.seq DESC", named[:1]
	}
	in := some + " AND m.out = 0 AND m.sender = :with"
	// Ordered by the recipient's column, whose index has that order.
	out := "SELECT r.message, " + messageFields + ` FROM recipient r JOIN message m ON m.seq = r.message
		WHERE r.receiver = :with AND m.out = 1 AND m.at < :before AND ` + ofPeople
	switch q.Only {
	case In:
		return in + " ORDER BY m.seq DESC", named
	case Out:
		return out + " ORDER BY 1 DESC", named
	}
	return in + " UNION ALL " + out + " ORDER BY 1 DESC", named
}
