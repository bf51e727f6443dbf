-- Users, clustered by id: ids are UUIDv7, so new rows are appended and a page is one short scan.
CREATE TABLE users (
    id         BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    email      TEXT    NOT NULL CHECK (length(email) BETWEEN 3 AND 254),
    name       TEXT    NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    created_at INTEGER NOT NULL, -- milliseconds since 1970-01-01T00:00:00Z
    updated_at INTEGER NOT NULL, -- milliseconds since 1970-01-01T00:00:00Z
    version    INTEGER NOT NULL CHECK (version >= 1)
) STRICT, WITHOUT ROWID;

-- One user per address, whatever its case. Addresses are ASCII, so lower() sees every letter.
CREATE UNIQUE INDEX users_email ON users (lower(email));

-- What a creation with an Idempotency-Key was asked for and made, for as long as it may be asked for again.
-- No foreign key: the answer must be the same even if the user is gone by then.
CREATE TABLE idempotency_keys (
    key        TEXT    NOT NULL PRIMARY KEY CHECK (length(key) BETWEEN 1 AND 255),
    user_id    BLOB    NOT NULL,
    email      TEXT    NOT NULL,
    name       TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX idempotency_keys_expiry ON idempotency_keys (expires_at);
