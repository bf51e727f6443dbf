-- Who changed what of a user, and when: written in the transaction of the change, and never again.
-- Fields are named and their values are not: what a user was called must be gone when the user is.
CREATE TABLE audit (
    number  bigint NOT NULL PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    user_id uuid   NOT NULL,
    version bigint NOT NULL CHECK (version >= 1),
    action  text   NOT NULL CHECK (action IN ('created', 'updated', 'deleted')),
    fields  text   NOT NULL, -- names, parted by commas
    actor   text,
    at      bigint NOT NULL  -- milliseconds since 1970-01-01T00:00:00Z
);

CREATE INDEX audit_user ON audit (user_id, number);

CREATE FUNCTION refuse_change_of_audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'the audit trail is append-only'; END $$;

CREATE TRIGGER audit_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_audit();

-- What others are told: written in the transaction of the change, and kept for a while. Transactions commit in another
-- order than the one in which they take `position`, so whoever read by that would skip those that commit late. Events
-- are numbered once more when they are there for all to see, by one process at a time, without gaps: that is `seq`.
CREATE TABLE events (
    position bigint   NOT NULL PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    seq      bigint   UNIQUE,
    id       uuid     NOT NULL,
    user_id  uuid     NOT NULL,
    shard    smallint NOT NULL CHECK (shard BETWEEN 0 AND 15), -- all events of a user are in one
    kind     text     NOT NULL,
    at       bigint   NOT NULL, -- milliseconds since 1970-01-01T00:00:00Z
    body     text     NOT NULL
);

CREATE INDEX events_not_numbered ON events (position) WHERE seq IS NULL;
CREATE INDEX events_shard ON events (shard, seq) WHERE seq IS NOT NULL;

-- How far events have come: `last` is the newest that has a number, all up to `forgotten` are gone. Whoever numbers or
-- removes events holds this row.
CREATE TABLE event_head (
    single    boolean NOT NULL PRIMARY KEY DEFAULT true CHECK (single),
    last      bigint  NOT NULL DEFAULT 0,
    forgotten bigint  NOT NULL DEFAULT 0
);

INSERT INTO event_head DEFAULT VALUES;
