package client

import "fmt"

// storeSchemas are the steps from each version of the schema to the next one; a
// file's version is its user_version. A step that was in a release is never
// changed. Times are milliseconds since 1970. Devices are 64-bit numbers, which
// SQLite shows as signed.
var storeSchemas = [...]string{schema1, schemaDevices, schemaFiles, schemaLists, schemaHistory, schemaServers, schemaSteps}

const schema1 = `
-- Who this profile is; one row. counter is the last that an envelope took.
CREATE TABLE account (
	one        INTEGER PRIMARY KEY CHECK (one = 1),
	address    TEXT    NOT NULL,
	device     INTEGER NOT NULL,
	seed       BLOB    NOT NULL,
	server_key TEXT    NOT NULL,
	servers    TEXT    NOT NULL, -- addresses, one a line, in the order of trying
	created    INTEGER NOT NULL,
	counter    INTEGER NOT NULL DEFAULT 0
) STRICT;

-- The keys of servers, and why each is trusted.
CREATE TABLE server (
	name  TEXT PRIMARY KEY,
	key   TEXT NOT NULL,
	trust TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- The history. An outgoing receipt is here too, but only until it is sent.
-- AUTOINCREMENT, because a cursor must not meet a number for the second time.
CREATE TABLE message (
	seq       INTEGER PRIMARY KEY AUTOINCREMENT,
	id        BLOB    NOT NULL,
	out       INTEGER NOT NULL, -- 1: written here, 0: came in
	sender    TEXT    NOT NULL,
	device    INTEGER NOT NULL,
	counter   INTEGER NOT NULL,
	kind      INTEGER NOT NULL,
	created   INTEGER NOT NULL, -- by the sender's clock
	at        INTEGER NOT NULL, -- when it was written, or came in, by our clock
	server    TEXT    NOT NULL, -- where it came in
	receivers TEXT    NOT NULL, -- addresses in the envelope's order, with spaces between
	shown     INTEGER,          -- of a text that came in: 0 not yet, 1 shown, 2 and its read receipt was written
	body      ANY               -- a text; or of what this program can't read the whole envelope, for one that can
) STRICT;
CREATE INDEX message_id     ON message (id);
CREATE INDEX message_sender ON message (sender, seq) WHERE out = 0;
CREATE INDEX message_sent   ON message (device, counter) WHERE out = 1;
CREATE INDEX message_shown  ON message (seq) WHERE shown = 1;

-- What became of an outgoing message for each of its receivers.
CREATE TABLE recipient (
	message  INTEGER NOT NULL REFERENCES message ON DELETE CASCADE,
	position INTEGER NOT NULL, -- in the envelope's list
	receiver TEXT    NOT NULL,
	state    INTEGER NOT NULL,
	code     INTEGER NOT NULL DEFAULT 0,
	reason   TEXT    NOT NULL DEFAULT '',
	at       INTEGER NOT NULL,
	PRIMARY KEY (message, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX recipient_receiver ON recipient (receiver, message);

-- Envelopes with a receiver that is still in the state queued.
CREATE TABLE outbox (
	counter  INTEGER PRIMARY KEY,
	message  INTEGER NOT NULL UNIQUE REFERENCES message ON DELETE CASCADE,
	priority INTEGER NOT NULL,
	raw      BLOB    NOT NULL
) STRICT;
CREATE INDEX outbox_order ON outbox (priority, counter);

-- The counters that came from a device, as ranges that don't touch.
CREATE TABLE seen (
	sender TEXT    NOT NULL,
	device INTEGER NOT NULL,
	first  INTEGER NOT NULL,
	last   INTEGER NOT NULL,
	PRIMARY KEY (sender, device, first)
) STRICT, WITHOUT ROWID;

-- How far each reader has come: the last seq that it has.
CREATE TABLE cursor (
	name TEXT PRIMARY KEY,
	seq  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
`

const schemaDevices = `
-- 1: its counter was taken without a word of the home's on how far this device has
-- counted, and it has not been sent: a copy of this profile may have used it.
ALTER TABLE outbox ADD COLUMN unproven INTEGER NOT NULL DEFAULT 0;

-- The ids that a message had before it was numbered anew.
CREATE TABLE former (
	id      BLOB PRIMARY KEY,
	message INTEGER NOT NULL REFERENCES message ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

-- What became of messages of other devices of this user that have not come here yet.
CREATE TABLE early (
	seq      INTEGER PRIMARY KEY,
	device   INTEGER NOT NULL,
	receiver TEXT    NOT NULL,
	first    INTEGER NOT NULL,
	last     INTEGER NOT NULL,
	state    INTEGER NOT NULL,
	code     INTEGER NOT NULL,
	reason   TEXT    NOT NULL,
	at       INTEGER NOT NULL,
	UNIQUE (device, receiver, state, first)
) STRICT;

DROP INDEX message_sent;
CREATE INDEX message_device ON message (device, counter);
`

const schemaFiles = `
-- What a message of the kind file is about.
CREATE TABLE file (
	message INTEGER PRIMARY KEY REFERENCES message ON DELETE CASCADE,
	name    TEXT    NOT NULL, -- as the sender calls it
	size    INTEGER NOT NULL,
	hash    BLOB    NOT NULL, -- SHA-256
	path    TEXT    NOT NULL, -- where it is; relative: below the profile's folder
	damage  TEXT    NOT NULL DEFAULT '' -- why it can't be used
) STRICT;

-- A file that goes out. Its envelopes have the counters from that of its message on,
-- which is the manifest's, and are made when they are sent. Of another device's file
-- nothing is sent from here: open is 0.
CREATE TABLE outfile (
	message  INTEGER PRIMARY KEY REFERENCES message ON DELETE CASCADE,
	device   INTEGER NOT NULL,
	counter  INTEGER NOT NULL,
	parts    INTEGER NOT NULL,
	lifetime INTEGER NOT NULL DEFAULT 0,
	modified INTEGER NOT NULL DEFAULT 0, -- nanoseconds since 1970
	unproven INTEGER NOT NULL DEFAULT 0,
	open     INTEGER NOT NULL            -- 1: some envelope is to be sent
) STRICT;
CREATE UNIQUE INDEX outfile_device ON outfile (device, counter);
CREATE INDEX outfile_open ON outfile (counter) WHERE open = 1;

-- Which of its envelopes are settled for a receiver, the manifest being number 0, and
-- which of those are delivered: arrays of first number and count.
CREATE TABLE outpart (
	message   INTEGER NOT NULL REFERENCES message ON DELETE CASCADE,
	position  INTEGER NOT NULL,
	settled   BLOB    NOT NULL,
	delivered BLOB    NOT NULL,
	PRIMARY KEY (message, position)
) STRICT, WITHOUT ROWID;

-- A file that comes in, until all of it is there: its bytes are in files/SEQ.
CREATE TABLE infile (
	seq      INTEGER PRIMARY KEY AUTOINCREMENT,
	sender   TEXT    NOT NULL,
	device   INTEGER NOT NULL,
	counter  INTEGER NOT NULL, -- of its manifest
	manifest BLOB,             -- the whole envelope, null until it is here
	server   TEXT    NOT NULL,
	name     TEXT    NOT NULL DEFAULT '',
	size     INTEGER NOT NULL DEFAULT 0,
	got      BLOB    NOT NULL, -- the numbers of the envelopes that are here, as in outpart
	bytes    INTEGER NOT NULL, -- of its parts
	began    INTEGER NOT NULL,
	complete INTEGER NOT NULL DEFAULT 0,
	ended    TEXT    NOT NULL DEFAULT '', -- why what still comes is dropped
	UNIQUE (sender, device, counter)
) STRICT;
`

const schemaLists = `
-- Lists, ours and those that we are in, as they were at some time: what is written to
-- one names it by its id. Of those with one name and owner one is current, or none.
CREATE TABLE list (
	id      BLOB    NOT NULL,
	name    TEXT    NOT NULL,
	owner   TEXT    NOT NULL,
	members TEXT    NOT NULL, -- with spaces between
	at      INTEGER NOT NULL,
	current INTEGER NOT NULL,
	PRIMARY KEY (id, owner)
) STRICT;
CREATE INDEX list_name ON list (name, owner);

-- The list that a message is to; its receivers are some of the members then.
ALTER TABLE message ADD COLUMN list BLOB;
CREATE INDEX message_list ON message (list, seq) WHERE list IS NOT NULL;
`

// The words are those of texts and of files' names; the body of anything else is
// bytes. The table has no copy of the texts (it is contentless), which would cost as
// much again as they do.
const schemaHistory = `
-- 1: what came in was the first word of a stranger: nobody who had written, was written to, or is a contact.
ALTER TABLE message ADD COLUMN first INTEGER NOT NULL DEFAULT 0;

CREATE INDEX message_at ON message (at);

-- Where each word of a text is, and the other side's addresses, one word each (see addressWord).
CREATE VIRTUAL TABLE word USING fts5 (body, who, content = '', contentless_delete = 1, tokenize = 'unicode61 remove_diacritics 2');
CREATE VIEW worded (seq, body, who) AS
	SELECT seq, body, replace(replace(replace(iif(out, receivers, sender), '@', char(0xe000)), '.', char(0xe001)), '-', char(0xe002))
	FROM message WHERE kind IN (1, 2) AND typeof(body) = 'text';
INSERT INTO word (rowid, body, who) SELECT seq, body, who FROM worded;
CREATE TRIGGER message_word AFTER INSERT ON message WHEN new.kind IN (1, 2) BEGIN
	INSERT INTO word (rowid, body, who) SELECT seq, body, who FROM worded WHERE seq = new.seq;
END;
CREATE TRIGGER message_named AFTER UPDATE OF body ON message WHEN new.kind = 2 AND old.body IS NULL BEGIN
	INSERT INTO word (rowid, body, who) SELECT seq, body, who FROM worded WHERE seq = new.seq;
END;
CREATE TRIGGER message_unword BEFORE DELETE ON message WHEN old.kind IN (1, 2) BEGIN
	DELETE FROM word WHERE rowid IN (SELECT seq FROM worded WHERE seq = old.seq);
END;

-- People, by the names that the owner of this profile gave them.
CREATE TABLE contact (
	address  TEXT PRIMARY KEY,
	name     TEXT    NOT NULL COLLATE NOCASE UNIQUE,
	devices  TEXT    NOT NULL DEFAULT '', -- the public keys that we know, rising, with spaces between
	verified INTEGER NOT NULL DEFAULT 0,  -- 1: somebody has compared their words
	changed  TEXT,                        -- what his home named last, if there is a key among it that we don't know
	added    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
`

const schemaServers = `
-- 1: it came from another server's user, and our home can't verify that.
ALTER TABLE message ADD COLUMN unverified INTEGER NOT NULL DEFAULT 0;
ALTER TABLE infile ADD COLUMN unverified INTEGER NOT NULL DEFAULT 0;
`

const schemaSteps = `
-- The steps on the way to a state, 0 if not known; and the path to the receiver, as JSON of message.Path.
ALTER TABLE recipient ADD COLUMN held INTEGER NOT NULL DEFAULT 0;
ALTER TABLE recipient ADD COLUMN delivered INTEGER NOT NULL DEFAULT 0;
ALTER TABLE recipient ADD COLUMN path TEXT NOT NULL DEFAULT '';
CREATE TRIGGER recipient_held AFTER UPDATE OF state ON recipient WHEN NEW.state = 2 BEGIN
	UPDATE recipient SET held = NEW.at WHERE message = NEW.message AND position = NEW.position;
END;
CREATE TRIGGER recipient_delivered AFTER UPDATE OF state ON recipient WHEN NEW.state = 5 BEGIN
	UPDATE recipient SET delivered = NEW.at WHERE message = NEW.message AND position = NEW.position;
END;
`

// storeApplication is "NIPC", the application_id of a file of ours.
const storeApplication = 0x4e495043

// version returns the version of the file's schema, 0 for a new file, or says
// why the file can't be used. It changes nothing.
func (s *Store) version() (version int, err error) {
	var application, tables int
	err = s.row(`SELECT user_version, application_id, (SELECT count(*) FROM sqlite_schema)
		FROM pragma_user_version, pragma_application_id`).Scan(&version, &application, &tables)
	switch {
	case err != nil:
		return 0, err
	case tables > 0 && application != storeApplication:
		return 0, misusef("%s is a database of another program", s.path)
	case version > len(storeSchemas):
		return 0, misusef("%s has schema %d, of a newer version of this program, which knows schemas up to %d", s.path, version, len(storeSchemas))
	}
	return version, nil
}

// migrate brings the file to the newest schema, in one transaction.
func (s *Store) migrate() error {
	return s.write("making the tables", func() error {
		version, err := s.version() // another process may have been faster
		if err != nil {
			return err
		}
		for ; version < len(storeSchemas); version++ {
			if _, err := s.exec(storeSchemas[version]); err != nil {
				return err
			}
		}
		_, err = s.exec(fmt.Sprintf("PRAGMA application_id = %d; PRAGMA user_version = %d", storeApplication, version))
		return err
	})
}
