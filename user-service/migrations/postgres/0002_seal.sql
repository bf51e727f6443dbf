-- The one key that all instances sign tokens with: 32 bytes of which 244 bits are drawn by lot.
CREATE TABLE seal (
    single boolean NOT NULL PRIMARY KEY DEFAULT true CHECK (single),
    key    bytea   NOT NULL CHECK (length(key) = 32)
);

INSERT INTO seal (key) VALUES (uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()));
