-- How far the events of each shard were sent on to a broker; null until a relay runs for the first time. `holder` sends
-- those of the shard until the moment `until`, in milliseconds since 1970-01-01T00:00:00Z.
CREATE TABLE relay_heads (
    shard  INTEGER NOT NULL PRIMARY KEY CHECK (shard BETWEEN 0 AND 15),
    sent   INTEGER,
    holder BLOB    CHECK (length(holder) = 16),
    until  INTEGER NOT NULL DEFAULT 0
) STRICT;

INSERT INTO relay_heads (shard)
VALUES (0), (1), (2), (3), (4), (5), (6), (7), (8), (9), (10), (11), (12), (13), (14), (15);
