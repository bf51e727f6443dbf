-- Who changed what of a user, and when: written in the transaction of the change, and never again.
-- Fields are named and their values are not: what a user was called must be gone when the user is.
CREATE TABLE audit (
    number  INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    user_id BLOB    NOT NULL CHECK (length(user_id) = 16),
    version INTEGER NOT NULL CHECK (version >= 1),
    action  TEXT    NOT NULL CHECK (action IN ('created', 'updated', 'deleted')),
    fields  TEXT    NOT NULL, -- names, parted by commas
    actor   TEXT,
    at      INTEGER NOT NULL  -- milliseconds since 1970-01-01T00:00:00Z
) STRICT;

CREATE INDEX audit_user ON audit (user_id, number);

CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit
BEGIN SELECT raise(ABORT, 'the audit trail is append-only'); END;

CREATE TRIGGER audit_is_not_removed BEFORE DELETE ON audit
BEGIN SELECT raise(ABORT, 'the audit trail is append-only'); END;

-- What others are told: written in the transaction of the change, and kept for a while. One transaction writes at a
-- time, so that numbers are given in the order of commits; AUTOINCREMENT gives none twice.
CREATE TABLE events (
    seq     INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    id      BLOB    NOT NULL CHECK (length(id) = 16),
    user_id BLOB    NOT NULL CHECK (length(user_id) = 16),
    shard   INTEGER NOT NULL CHECK (shard BETWEEN 0 AND 15), -- all events of a user are in one
    kind    TEXT    NOT NULL,
    at      INTEGER NOT NULL, -- milliseconds since 1970-01-01T00:00:00Z
    body    TEXT    NOT NULL
) STRICT;

CREATE INDEX events_shard ON events (shard, seq);

-- All events up to `forgotten` are gone.
CREATE TABLE event_head (
    single    INTEGER NOT NULL PRIMARY KEY DEFAULT 1 CHECK (single = 1),
    forgotten INTEGER NOT NULL DEFAULT 0
) STRICT;

INSERT INTO event_head DEFAULT VALUES;
