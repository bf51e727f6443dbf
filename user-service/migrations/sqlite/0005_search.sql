-- Users in the order of their names: by code points, ASCII letters in lower case, so that both databases agree. The id parts
-- those of one name. The index that keeps emails unique has their order.
CREATE INDEX users_by_name ON users (lower(name), id);
