-- How far the events of each shard were sent on to a broker; null until a relay runs for the first time. Who sends the
-- events of a shard holds its row.
CREATE TABLE relay_heads (
    shard smallint NOT NULL PRIMARY KEY CHECK (shard BETWEEN 0 AND 15),
    sent  bigint
);

INSERT INTO relay_heads (shard) SELECT * FROM generate_series(0, 15);
