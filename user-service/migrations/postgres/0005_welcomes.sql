-- Who has a welcome, and who is being sent one: `holder` does that, until the moment `until`. Nothing but the id of a user is
-- kept, and for good: an id is never used again.
CREATE TABLE welcomes (
    user_id uuid   NOT NULL PRIMARY KEY,
    holder  uuid   NOT NULL,
    until   bigint NOT NULL, -- milliseconds since 1970-01-01T00:00:00Z
    sent_at bigint           -- milliseconds since 1970-01-01T00:00:00Z
);
