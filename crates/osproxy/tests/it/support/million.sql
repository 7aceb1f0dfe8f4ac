-- Creates a million files, ten million parts and a million finished tasks, as fast as possible.
SET session_replication_role = replica;
SET maintenance_work_mem = '512MB';
SET synchronous_commit = off;
ALTER TABLE parts SET UNLOGGED;
ALTER TABLE parts DROP CONSTRAINT parts_pkey;
DROP INDEX uq_parts_blob_number_key;
DROP INDEX ix_parts_state;
INSERT INTO blobs (id, tenant, state, layout, backend, object_key, refs, size, md5, blake3, created_at)
  SELECT n, 'default', 'stored', 'whole', 'local', 'unknown/' || n || '.bin', 1, 1000,
         decode(md5(n::text), 'hex'), decode(md5(n::text) || md5(n::text), 'hex'), n FROM generate_series(1, 1000000) AS n;
INSERT INTO files (uid, tenant, name, state, blob_id, content_type, expires_at, created_at, stored_at)
  SELECT n, 'default', 'x.bin', 'stored', n, 'application/octet-stream', n, n, n FROM generate_series(1, 1000000) AS n;
INSERT INTO parts (id, blob_id, number, state, object_key, size, created_at)
  SELECT n, 1 + n / 10, 1 + n % 10, 'stored', 'unknown/' || n / 10 || '_' || n % 10, 100, n FROM generate_series(1, 10000000) AS n;
INSERT INTO tasks (id, kind, payload, state, run_at, attempts, max_attempts, created_at, ended_at)
  SELECT n, 'merge_parts', '{}', 'done', n, 1, 5, n, 9000000000000 FROM generate_series(1, 1000000) AS n;
INSERT INTO task_attempts (task_id, number, lease_owner, started_at, ended_at, outcome)
  SELECT n, 1, 'x', n, n, 'done' FROM generate_series(1, 1000000) AS n;
ALTER TABLE parts ADD CONSTRAINT parts_pkey PRIMARY KEY (id);
CREATE UNIQUE INDEX uq_parts_blob_number_key ON parts (blob_id, number, object_key);
CREATE INDEX ix_parts_state ON parts (state);
ANALYZE;
