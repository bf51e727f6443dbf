-- Users. Ids are UUIDv7, so new rows go to the end of the index and a page is one short scan.
CREATE TABLE users (
    id         uuid   NOT NULL PRIMARY KEY,
    email      text   NOT NULL CHECK (length(email) BETWEEN 3 AND 254),
    name       text   NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    created_at bigint NOT NULL, -- milliseconds since 1970-01-01T00:00:00Z
    updated_at bigint NOT NULL, -- milliseconds since 1970-01-01T00:00:00Z
    version    bigint NOT NULL CHECK (version >= 1)
);

-- One user per address, whatever its case. Addresses are ASCII, and "C" keeps the rules of a language, in which a
-- capital I may be none of i, out of it.
CREATE UNIQUE INDEX users_email ON users (lower(email COLLATE "C"));

-- What a creation with an Idempotency-Key was asked for and made, for as long as it may be asked for again.
-- No foreign key: the answer must be the same even if the user is gone by then.
CREATE TABLE idempotency_keys (
    key        text   NOT NULL PRIMARY KEY CHECK (length(key) BETWEEN 1 AND 255),
    user_id    uuid   NOT NULL,
    email      text   NOT NULL,
    name       text   NOT NULL,
    created_at bigint NOT NULL,
    expires_at bigint NOT NULL
);

CREATE INDEX idempotency_keys_expiry ON idempotency_keys (expires_at);
