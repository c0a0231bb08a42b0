-- A store as the program wrote it that knew schema 1 alone, by sqlite3's .dump.
PRAGMA application_id = 1313427523;
PRAGMA user_version = 1;
PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE account (
	one        INTEGER PRIMARY KEY CHECK (one = 1),
	address    TEXT    NOT NULL,
	device     INTEGER NOT NULL,
	seed       BLOB    NOT NULL,
	server_key TEXT    NOT NULL,
	servers    TEXT    NOT NULL, -- ip:port, one a line, in the order of trying
	created    INTEGER NOT NULL,
	counter    INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO account VALUES(1,'alice@server1',-6837343843650633727,X'0102030000000000000000000000000000000000000000000000000000000000','noip1key',replace('203.0.113.5:10001\n[2001:db8::1]:10001','\n',char(10)),1772366400000,3);
CREATE TABLE server (
	name  TEXT PRIMARY KEY,
	key   TEXT NOT NULL,
	trust TEXT NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO server VALUES('server1','noip1key','pinned');
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
INSERT INTO message VALUES(1,X'a630d6ec5598f7c6964d2f477a7a81e9',0,'bob@server2',2827,1,1,0,1772366400000,'server1','alice@server1',2,'dinner at eight?');
INSERT INTO message VALUES(2,X'9b50129a15cb6068580c3b9fb619fa5b',0,'bob@server2',2827,2,1,0,1772366400000,'server1','alice@server1',0,'in the café, ''quoted''');
INSERT INTO message VALUES(3,X'07294142914e212392509c6535df115b',1,'alice@server1',-6837343843650633727,1,1,1795622190058,1795622190058,'','bob@server2 carol@server1',NULL,'dinner: yes');
INSERT INTO message VALUES(4,X'abf37f292995e28b4c08af60d9dc5a85',1,'alice@server1',-6837343843650633727,2,1,1795622190061,1795622190061,'','dave@server1',NULL,'tea?');
INSERT INTO message VALUES(5,X'61f2a782fc77c85b070bb9e2936d9c6e',0,'bob@server2',2827,3,100,0,1772366400000,'server1','alice@server1',NULL,X'9c016401ab626f624073657276657232cd0b0b03000091ad616c696365407365727665723100c4082064696e6e65722080');
INSERT INTO message VALUES(6,X'965483b9b89daa6c1b0c6cff2e84ffcf',1,'alice@server1',-6837343843650633727,3,3,1795622190072,1795622190072,'','bob@server2',NULL,NULL);
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
INSERT INTO recipient VALUES(3,0,'bob@server2',2,0,'',1772366400000);
INSERT INTO recipient VALUES(3,1,'carol@server1',2,0,'',1772366400000);
INSERT INTO recipient VALUES(4,0,'dave@server1',1,0,'',1795622190061);
INSERT INTO recipient VALUES(6,0,'bob@server2',1,0,'',1795622190072);
CREATE TABLE outbox (
	counter  INTEGER PRIMARY KEY,
	message  INTEGER NOT NULL UNIQUE REFERENCES message ON DELETE CASCADE,
	priority INTEGER NOT NULL,
	raw      BLOB    NOT NULL
) STRICT;
INSERT INTO outbox VALUES(2,4,1,X'9c010101ad616c6963654073657276657231cfa11ce0000000000102cf000001a2136c3bed0091ac64617665407365727665723100c4047465613f80');
INSERT INTO outbox VALUES(3,6,0,X'9c010300ad616c6963654073657276657231cfa11ce0000000000103cf000001a2136c3bf80091ab626f62407365727665723200c4179506ad616c6963654073657276657231cd0b0b9201018080');
CREATE TABLE seen (
	sender TEXT    NOT NULL,
	device INTEGER NOT NULL,
	first  INTEGER NOT NULL,
	last   INTEGER NOT NULL,
	PRIMARY KEY (sender, device, first)
) STRICT, WITHOUT ROWID;
INSERT INTO seen VALUES('bob@server2',2827,1,3);
CREATE TABLE cursor (
	name TEXT PRIMARY KEY,
	seq  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO cursor VALUES('receive',1);
DELETE FROM sqlite_sequence;
INSERT INTO sqlite_sequence VALUES('message',6);
CREATE INDEX message_id     ON message (id);
CREATE INDEX message_sender ON message (sender, seq) WHERE out = 0;
CREATE INDEX message_sent   ON message (device, counter) WHERE out = 1;
CREATE INDEX message_shown  ON message (seq) WHERE shown = 1;
CREATE INDEX recipient_receiver ON recipient (receiver, message);
CREATE INDEX outbox_order ON outbox (priority, counter);
COMMIT;
