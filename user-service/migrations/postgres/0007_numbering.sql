-- Numbers the events that wait, up to a thousand; answers the number of the newest and how many got one. One process does so at a time;
-- who comes second leaves it at that.
--
-- A function, so that it is one way to the server and back, and volatile, so that each statement sees what was committed
-- before it began (READ COMMITTED, which the connections of the service set): whoever has got hold of the head sees all that
-- was numbered before.
CREATE FUNCTION number_events() RETURNS TABLE (last bigint, numbered bigint) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    before bigint;
BEGIN
    IF EXISTS (SELECT 1 FROM events WHERE seq IS NULL) THEN
        SELECT head.last INTO before FROM event_head AS head FOR UPDATE SKIP LOCKED;
    END IF;
    IF before IS NULL THEN
        RETURN QUERY SELECT head.last, 0::bigint FROM event_head AS head;
        RETURN;
    END IF;
    RETURN QUERY
        WITH waiting AS (
            SELECT position FROM events WHERE seq IS NULL ORDER BY position LIMIT 1000
        ), numbered AS (
            UPDATE events SET seq = before + place.n
            FROM (SELECT position, row_number() OVER (ORDER BY position) AS n FROM waiting) AS place
            WHERE events.position = place.position
            RETURNING seq
        )
        UPDATE event_head AS head SET last = greatest(head.last, (SELECT max(seq) FROM numbered))
        RETURNING head.last, head.last - before;
END $$;
