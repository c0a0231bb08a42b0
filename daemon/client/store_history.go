package client

import (
	"database/sql"
	"errors"
	"math"
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
		return Message{}, false, misusef("the beginning of a message id has 6 to 32 hex digits, and %q has %d characters", prefix, len(prefix))
	}
	first, err := message.ParseID(prefix + strings.Repeat("0", 32-len(prefix)))
	if err != nil {
		return Message{}, false, misuse{err}
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
		return Message{}, false, misusef("more than one message id begins like that: %v and %v", messages[0].ID, other.ID)
	}
	if err := s.complete(messages[:1]); err != nil {
		return Message{}, false, s.failed("looking for a message", err)
	}
	return messages[0], true, nil
}

// Query says which messages History and Walk are to give; the zero value is all.
type Query struct {
	With   message.Address // from or to this address; "": everybody
	List   *List           // to this list, as it is or was; nil: to lists or not
	Search Search          // the text has these words
	Grep   *regexp.Regexp  // the text matches
	Since  time.Time       // At is this or later
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
	all, some, err := s.span(&q)
	var messages []Message
	if err == nil && some {
		messages, err = s.page(&q, all, newest, q.Limit)
	}
	if err != nil {
		return nil, s.failed("reading the history", err)
	}
	slices.Reverse(messages)
	return messages, nil
}

// pageSize is how many messages Walk has in hand.
const pageSize = 512

// Walk calls each with what History would return, and has only a part of it in
// memory unless there is a limit. An error of each ends it.
func (s *Store) Walk(q Query, each func(Message) error) error {
	if q.Limit > 0 {
		messages, err := s.History(q)
		for i := 0; err == nil && i < len(messages); i++ {
			err = each(messages[i])
		}
		return err
	}
	rest, some, err := s.span(&q)
	for some && err == nil {
		var messages []Message
		if messages, err = s.page(&q, rest, oldest, pageSize); err != nil {
			break
		}
		for _, m := range messages {
			if err := each(m); err != nil {
				return err
			}
			rest.first = m.Seq + 1
		}
		some = len(messages) == pageSize
	}
	if err != nil {
		return s.failed("reading the history", err)
	}
	return nil
}

// span is a range of the column seq.
type span struct{ first, last int64 }

// span returns where the messages of the query's time are, if there are any. Seq
// and time rise together only as long as nobody sets the clock back; so these are
// bounds, which keep everything else from reading all of a long history.
func (s *Store) span(q *Query) (all span, some bool, err error) {
	if q.Since.IsZero() && q.Before.IsZero() {
		return span{0, math.MaxInt64}, true, nil
	}
	var first, last sql.NullInt64
	since, before := q.times()
	err = s.db.QueryRow(spanQuery, since, before).Scan(&first, &last)
	return span{first.Int64, last.Int64}, first.Valid, err
}

const spanQuery = "SELECT min(seq), max(seq) FROM message INDEXED BY message_at WHERE at >= ? AND at < ?"

// times returns what At may be, in milliseconds: from since on, before before.
func (q *Query) times() (since, before int64) {
	since, before = math.MinInt64, math.MaxInt64
	if !q.Since.IsZero() {
		since = q.Since.UnixMilli()
	}
	if !q.Before.IsZero() {
		before = q.Before.UnixMilli()
	}
	return since, before
}

// page returns up to limit messages of a part of the history, 0 for all, in the
// order in which they are read.
func (s *Store) page(q *Query, part span, from end, limit int) (messages []Message, err error) {
	text, args := q.sql(part, from)
	rows, err := s.db.Query(text, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for (limit <= 0 || len(messages) < limit) && rows.Next() {
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
	return messages, s.complete(messages)
}

// end is where reading begins, as SQL has it.
type end string

const (
	oldest end = ""
	newest end = " DESC"
)

// sql returns the query as SQL. A limit is for the caller, who knows which rows match.
func (q *Query) sql(part span, from end) (text string, args []any) {
	since, before := q.times()
	args = []any{sql.Named("first", part.first), sql.Named("last", part.last), sql.Named("since", since), sql.Named("before", before)}
	const (
		some  = " AND +m.at >= :since AND +m.at < :before AND " + ofPeople // +: not by its index, the span is
		order = " ORDER BY "
	)
	direction := [...]string{"", " AND m.out = 0", " AND m.out = 1"}[q.Only]
	if q.List != nil {
		direction += " AND m.list IN (SELECT id FROM list WHERE name = :list AND owner = :owner)"
		args = append(args, sql.Named("list", q.List.Name), sql.Named("owner", q.List.Owner))
	}
	if q.Search != "" {
		return "SELECT " + messageColumns + " FROM word CROSS JOIN message m ON m.seq = word.rowid WHERE word MATCH :search" +
			" AND word.rowid BETWEEN :first AND :last" + some + direction + order + "word.rowid" + string(from), append(args, sql.Named("search", q.Search.with(q.With)))
	}
	if q.With != "" {
		args = append(args, sql.Named("with", q.With))
	}
	const all = "SELECT " + messageColumns + " FROM message m WHERE m.seq BETWEEN :first AND :last" + some
	if q.With == "" {
		return all + direction + order + "m.seq" + string(from), args
	}
	const in = all + " AND m.out = 0 AND m.sender = :with"
	// Ordered by the recipient's column, whose index has that order.
	const out = "SELECT r.message, " + messageFields + ` FROM recipient r JOIN message m ON m.seq = r.message
		WHERE r.receiver = :with AND r.message BETWEEN :first AND :last AND m.out = 1` + some
	switch q.Only {
	case In:
		return in + order + "m.seq" + string(from), args
	case Out:
		return out + order + "1" + string(from), args
	}
	return in + " UNION ALL " + out + order + "1" + string(from), args
}
