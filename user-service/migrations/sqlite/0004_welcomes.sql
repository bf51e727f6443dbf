-- Who has a welcome, and who is being sent one: `holder` does that, until the moment `until`. Nothing but the id of a user is
-- kept, and for good: an id is never used again.
CREATE TABLE welcomes (
    user_id BLOB    NOT NULL PRIMARY KEY CHECK (length(user_id) = 16),
    holder  BLOB    NOT NULL CHECK (length(holder) = 16),
    until   INTEGER NOT NULL, -- milliseconds since 1970-01-01T00:00:00Z
    sent_at INTEGER           -- milliseconds since 1970-01-01T00:00:00Z
) STRICT, WITHOUT ROWID;
