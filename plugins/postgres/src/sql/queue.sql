-- The hot statements of the queue, as functions: a connection plans them once, also behind PgBouncer, where it may not keep
-- prepared statements. The plans are fixed, because a plan made while a table was empty must still be right when it is full.

-- Adds jobs: for each, in the order of `place`, its number, whether it was there already under its unique key, and its due time.
CREATE FUNCTION selvedge.enqueue_many(
  queues text[], payloads bytea[], priorities smallint[], due bigint[], delays bigint[], tenants text[], unique_keys text[],
  max_attempts bigint[], backoff_bases bigint[], backoff_caps bigint[], traces text[], given bigint DEFAULT NULL
) RETURNS TABLE (place bigint, job_id bigint, duplicate boolean, due_at bigint) LANGUAGE plpgsql
SET enable_seqscan = off SET jit = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  now bigint := selvedge.clock(given);
  new record;
  holder bigint;
BEGIN
  IF unique_keys IS NULL THEN
    RETURN QUERY INSERT INTO selvedge.job AS job (queue, payload, priority, run_at, tenant, max_attempts, backoff_base,
                                                  backoff_cap, trace, enqueued_at)
      SELECT u.queue, u.payload, u.priority, coalesce(u.due, now + coalesce(u.delay, 0)), u.tenant, u.attempts, u.base, u.cap,
             u.trace, now
      FROM unnest(queues, payloads, priorities, due, delays, tenants, enqueue_many.max_attempts, backoff_bases,
                  backoff_caps, traces)
        AS u (queue, payload, priority, due, delay, tenant, attempts, base, cap, trace)
      RETURNING job.id, job.id, false, job.run_at;
    RETURN;
  END IF;
  -- Numbers are drawn in the order given. Keys are taken in their own order, so that two callers never wait for each other.
  FOR new IN
    WITH numbered AS MATERIALIZED (
      SELECT nextval('selvedge.job_id_seq') AS id, u.*
      FROM unnest(queues, payloads, priorities, due, delays, tenants, unique_keys, enqueue_many.max_attempts,
                  backoff_bases, backoff_caps, traces)
        AS u (queue, payload, priority, due, delay, tenant, unique_key, attempts, base, cap, trace)
    ) SELECT *, coalesce(numbered.due, now + coalesce(delay, 0)) AS run_at FROM numbered ORDER BY queue, unique_key, id
  LOOP
    LOOP
      INSERT INTO selvedge.job (id, queue, payload, priority, run_at, tenant, unique_key, max_attempts, backoff_base,
                                backoff_cap, trace, enqueued_at)
      VALUES (new.id, new.queue, new.payload, new.priority, new.run_at, new.tenant, new.unique_key, new.attempts, new.base,
              new.cap, new.trace, now)
      ON CONFLICT (queue, unique_key) WHERE unique_key IS NOT NULL AND state = 0 DO NOTHING;
      EXIT WHEN FOUND;
      SELECT job.id INTO holder FROM selvedge.job
      WHERE job.queue = new.queue AND job.unique_key = new.unique_key AND job.state = 0;
      -- The holder may have ended in between: then the key is free.
      EXIT WHEN FOUND;
    END LOOP;
    job_id := coalesce(holder, new.id);
    duplicate := holder IS NOT NULL;
    due_at := new.run_at;
    place := new.id;
    holder := NULL;
    RETURN NEXT;
  END LOOP;
END $$;

-- One job, for those who write to PostgreSQL without Selvedge's library: within their own transaction, from any language.
CREATE FUNCTION selvedge.enqueue(
  queue text, payload bytea, priority smallint DEFAULT 0, run_at timestamptz DEFAULT NULL, tenant text DEFAULT NULL,
  unique_key text DEFAULT NULL, max_attempts bigint DEFAULT 25, trace text DEFAULT NULL
) RETURNS bigint LANGUAGE sql AS $$
  SELECT job_id FROM selvedge.enqueue_many(
    ARRAY[queue], ARRAY[payload], ARRAY[priority], ARRAY[(extract(epoch FROM run_at) * 1000000)::bigint],
    ARRAY[NULL::bigint], ARRAY[tenant], CASE WHEN unique_key IS NOT NULL THEN ARRAY[unique_key] END, ARRAY[max_attempts],
    ARRAY[1000000::bigint], ARRAY[3600000000::bigint], ARRAY[trace])
$$;

-- Makes up to `most` of the jobs after the given places somebody's, in order. A place is where the last claim in one priority
-- of one queue ended: what was worked off before it is not scanned again, even while a long transaction keeps its rows. Without
-- `flush` the transaction does not wait for the disk.
CREATE FUNCTION selvedge.claim(
  queues text[], priorities smallint[], due bigint[], ids bigint[], most bigint, hold bigint, new_token bigint,
  new_owner text, given bigint DEFAULT NULL, flush boolean DEFAULT true
) RETURNS SETOF selvedge.job LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  now bigint := selvedge.clock(given);
  chosen tid[];
  numbers bigint[];
BEGIN
  IF NOT flush THEN PERFORM set_config('synchronous_commit', 'off', true); END IF;
  -- Somebody paused or limited one of them a moment ago: the caller finds nothing and looks again.
  IF EXISTS (
    SELECT 1 FROM selvedge.queue
    WHERE name = ANY (queues) AND (paused OR queue_limit IS NOT NULL OR tenant_limit IS NOT NULL)
  ) THEN
    SELECT array_agg(after.queue), array_agg(after.priority), array_agg(after.run_at), array_agg(after.id)
    INTO queues, priorities, due, ids
    FROM unnest(queues, priorities, due, ids) AS after (queue, priority, run_at, id)
    WHERE NOT EXISTS (
      SELECT 1 FROM selvedge.queue AS known
      WHERE known.name = after.queue AND (paused OR queue_limit IS NOT NULL OR tenant_limit IS NOT NULL)
    );
    IF queues IS NULL THEN RETURN; END IF;
  END IF;
  IF queues[1] = ALL (queues) THEN
    -- From one priority to the next, for as long as there is room.
    SELECT array_agg(next.place), array_agg(next.id) INTO chosen, numbers FROM (
      SELECT ready.place, ready.id
      FROM unnest(queues, priorities, due, ids) AS after (queue, priority, run_at, id) CROSS JOIN LATERAL (
        SELECT job.ctid AS place, job.id FROM selvedge.job
        WHERE job.state = 0 AND job.token IS NULL AND job.queue = after.queue AND job.priority = after.priority
          AND (job.run_at, job.id) > (after.run_at, after.id) AND job.run_at <= now
        ORDER BY job.run_at, job.id LIMIT most FOR UPDATE SKIP LOCKED
      ) AS ready LIMIT most
    ) AS next;
  ELSE
    -- All queues alike: by the order that holds within each.
    SELECT array_agg(next.place), array_agg(next.id) INTO chosen, numbers FROM (
      SELECT ready.place, ready.id
      FROM unnest(queues, priorities, due, ids) AS after (queue, priority, run_at, id) CROSS JOIN LATERAL (
        SELECT job.ctid AS place, job.priority, job.run_at, job.id FROM selvedge.job
        WHERE job.state = 0 AND job.token IS NULL AND job.queue = after.queue AND job.priority = after.priority
          AND (job.run_at, job.id) > (after.run_at, after.id) AND job.run_at <= now
        ORDER BY job.run_at, job.id LIMIT most FOR UPDATE SKIP LOCKED
      ) AS ready ORDER BY ready.priority, ready.run_at, ready.id LIMIT most
    ) AS next;
  END IF;
  IF chosen IS NULL THEN RETURN; END IF;
  INSERT INTO selvedge.lease_batch (token, granted_at, until, jobs) VALUES (new_token, now, now + hold, numbers);
  RETURN QUERY UPDATE selvedge.job
    SET token = new_token, leased_at = now, leased_until = now + hold, owner = new_owner, attempt = attempt + 1
    WHERE ctid = ANY (chosen) RETURNING *;
END $$;

-- Leases the jobs with these numbers that are still ready, for a caller that has chosen them within the limits of their queues.
CREATE FUNCTION selvedge.claim_chosen(chosen bigint[], hold bigint, new_token bigint, new_owner text, now bigint)
RETURNS SETOF selvedge.job LANGUAGE plpgsql
SET enable_seqscan = off SET jit = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE free bigint[];
BEGIN
  SELECT array_agg(id) INTO free FROM (
    SELECT id FROM selvedge.job WHERE id = ANY (chosen) AND state = 0 AND token IS NULL FOR UPDATE SKIP LOCKED
  ) AS ready;
  IF free IS NULL THEN RETURN; END IF;
  INSERT INTO selvedge.lease_batch (token, granted_at, until, jobs) VALUES (new_token, now, now + hold, free);
  INSERT INTO selvedge.slot (job, token, queue, tenant)
    SELECT id, new_token, queue, tenant FROM selvedge.job WHERE id = ANY (free)
    ON CONFLICT (job) DO UPDATE SET token = excluded.token;
  RETURN QUERY UPDATE selvedge.job
    SET token = new_token, leased_at = now, leased_until = now + hold, owner = new_owner, attempt = attempt + 1
    WHERE id = ANY (free) RETURNING *;
END $$;

-- Makes jobs whose lease ran out ready again, or ends them: those without attempts left, and those that were cancelled.
CREATE FUNCTION selvedge.rescue(given bigint DEFAULT NULL)
RETURNS TABLE (rescued_queue text, rescued_state smallint) LANGUAGE plpgsql
SET enable_seqscan = off SET jit = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE now bigint := selvedge.clock(given);
BEGIN
  -- A lease that was granted in the clock's future is over too: the clock has stepped back. What was granted since `now` was read is
  -- in the future of `now` alone, so the clock is asked again for each that seems to be: all that a statement sees was granted before.
  IF NOT EXISTS (SELECT 1 FROM selvedge.lease_batch WHERE until <= now)
    AND NOT EXISTS (SELECT 1 FROM selvedge.lease_batch WHERE granted_at > now AND granted_at > selvedge.clock(given))
  THEN RETURN; END IF;
  RETURN QUERY WITH over AS MATERIALIZED (
    SELECT batch.token, batch.jobs FROM selvedge.lease_batch AS batch
    WHERE batch.until <= now OR (batch.granted_at > now AND batch.granted_at > selvedge.clock(given))
    LIMIT 500 FOR UPDATE SKIP LOCKED
  ), held AS MATERIALIZED (
    SELECT job.id, job.token, job.leased_until,
      job.leased_until <= now OR (job.leased_at > now AND job.leased_at > selvedge.clock(given)) AS over
    FROM over CROSS JOIN LATERAL unnest(over.jobs) AS wanted (id)
    JOIN selvedge.job ON job.id = wanted.id AND job.token = over.token
  ), free AS MATERIALIZED (
    -- Who is locked is being completed, failed or extended by somebody else: it is looked at again in a second.
    SELECT job.id FROM held JOIN selvedge.job ON job.id = held.id AND job.token = held.token
    WHERE job.leased_until <= now OR (job.leased_at > now AND job.leased_at > selvedge.clock(given))
    FOR UPDATE OF job SKIP LOCKED
  ), ended AS (
    UPDATE selvedge.job SET
      state = CASE WHEN cancel THEN 3 WHEN attempt >= max_attempts THEN 2 ELSE 0 END,
      ended_at = CASE WHEN cancel OR attempt >= max_attempts THEN now END,
      cancel = false, last_error = 'the lease ran out', token = NULL, leased_at = NULL, leased_until = NULL, owner = NULL
    FROM free WHERE job.id = free.id RETURNING job.queue, job.state
  ), still AS MATERIALIZED (
    SELECT held.token, min(CASE WHEN held.over THEN now + 1000000 ELSE held.leased_until END) AS until
    FROM held WHERE NOT EXISTS (SELECT 1 FROM free WHERE free.id = held.id) GROUP BY held.token
  ), kept AS (
    UPDATE selvedge.lease_batch AS batch SET until = still.until FROM still WHERE batch.token = still.token
  ), gone AS (
    DELETE FROM selvedge.lease_batch AS batch USING over
    WHERE batch.token = over.token AND NOT EXISTS (SELECT 1 FROM still WHERE still.token = over.token)
  )
  SELECT ended.queue, ended.state FROM ended;
END $$;

-- Where the first ready job of each priority is, from the beginning of each queue; for a queue with limits only its name. A
-- paused queue has none. Leases that ran out are given back first. A last row, without a queue, has in `at_due` how many
-- microseconds all this took.
CREATE FUNCTION selvedge.look_back(queues text[], given bigint DEFAULT NULL, flush boolean DEFAULT true)
RETURNS TABLE (at_queue text, at_priority smallint, at_due bigint, at_id bigint) LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  now bigint := selvedge.clock(given);
  begun timestamptz := clock_timestamp();
  known record;
BEGIN
  IF NOT flush THEN PERFORM set_config('synchronous_commit', 'off', true); END IF;
  PERFORM selvedge.rescue(given);
  FOREACH at_queue IN ARRAY queues LOOP
    at_priority := NULL;
    SELECT queue.paused, queue.queue_limit IS NOT NULL OR queue.tenant_limit IS NOT NULL AS limited INTO known
    FROM selvedge.queue WHERE queue.name = at_queue;
    CONTINUE WHEN known.paused;
    IF known.limited THEN RETURN NEXT; CONTINUE; END IF;
    SELECT job.priority INTO at_priority FROM selvedge.job
    WHERE job.state = 0 AND job.queue = at_queue ORDER BY job.priority LIMIT 1;
    WHILE at_priority IS NOT NULL LOOP
      SELECT job.run_at, job.id INTO at_due, at_id FROM selvedge.job
      WHERE job.state = 0 AND job.token IS NULL AND job.queue = at_queue AND job.priority = at_priority AND job.run_at <= now
      ORDER BY job.run_at, job.id LIMIT 1;
      IF FOUND THEN RETURN NEXT; END IF;
      SELECT job.priority INTO at_priority FROM selvedge.job
      WHERE job.state = 0 AND job.queue = at_queue AND job.priority > at_priority ORDER BY job.priority LIMIT 1;
    END LOOP;
  END LOOP;
  at_queue := NULL;
  at_due := (extract(epoch FROM clock_timestamp() - begun) * 1000000)::bigint;
  RETURN NEXT;
END $$;

-- Ends jobs; those leases that were held. With `keep` the jobs go into the history.
CREATE FUNCTION selvedge.complete_many(ids bigint[], tokens bigint[], given bigint DEFAULT NULL, keep boolean DEFAULT false)
RETURNS TABLE (ended_id bigint, ended_token bigint) LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
SET plan_cache_mode = force_generic_plan AS $$
DECLARE now bigint := selvedge.clock(given);
BEGIN
  IF keep THEN
    RETURN QUERY WITH ended AS (
      DELETE FROM selvedge.job USING unnest(ids, tokens) AS held (id, token)
      WHERE job.id = held.id AND job.token = held.token AND job.state = 0 AND job.leased_until > now AND job.leased_at <= now
      RETURNING job.*
    ), kept AS (
      INSERT INTO selvedge.job_history (id, enqueued_at, started_at, ended_at, attempt, priority, queue, tenant, owner, trace,
                                        payload)
      SELECT id, enqueued_at, leased_at, now, attempt, priority, queue, tenant, owner, trace, payload FROM ended
    ) SELECT ended.id, ended.token FROM ended;
  ELSE
    RETURN QUERY DELETE FROM selvedge.job USING unnest(ids, tokens) AS held (id, token)
      WHERE job.id = held.id AND job.token = held.token AND job.state = 0 AND job.leased_until > now AND job.leased_at <= now
      RETURNING job.id, job.token;
  END IF;
END $$;

-- The partition of a day, counted from the epoch.
CREATE FUNCTION selvedge.history_of(day bigint) RETURNS text LANGUAGE sql IMMUTABLE AS
  $$ SELECT 'job_history_' || to_char(timestamp 'epoch' + day * interval '1 day', 'YYYYMMDD') $$;

-- Makes room for what is completed today and tomorrow, and drops the days that are older than `days`; how many.
CREATE FUNCTION selvedge.turn_history(days bigint, given bigint DEFAULT NULL) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  day CONSTANT bigint := 86400000000;
  today bigint := selvedge.clock(given) / day;
  dropped bigint := 0;
  part text;
BEGIN
  FOR n IN today .. today + 1 LOOP
    part := selvedge.history_of(n);
    IF NOT EXISTS (
      SELECT 1 FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
      WHERE inhparent = 'selvedge.job_history'::regclass AND relname = part
    ) THEN
      BEGIN
        EXECUTE format('CREATE TABLE selvedge.%I PARTITION OF selvedge.job_history FOR VALUES FROM (%s) TO (%s)',
                       part, n * day, (n + 1) * day);
      EXCEPTION
        -- Somebody else was faster, or jobs of that day are in the last partition already: they stay there.
        WHEN duplicate_table OR check_violation THEN NULL;
      END;
    END IF;
  END LOOP;
  FOR part IN
    SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
    WHERE inhparent = 'selvedge.job_history'::regclass AND relname <> 'job_history_rest'
      AND relname < selvedge.history_of(today - days)
  LOOP
    EXECUTE format('DROP TABLE selvedge.%I', part);
    dropped := dropped + 1;
  END LOOP;
  DELETE FROM selvedge.job_history_rest WHERE ended_at < (today - days) * day;
  RETURN dropped;
END $$;

-- Ends one job, for those who work without Selvedge's library. A lost lease is an error, which undoes their transaction.
CREATE FUNCTION selvedge.complete(id bigint, token bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM selvedge.complete_many(ARRAY[id], ARRAY[token]);
  IF NOT FOUND THEN
    RAISE EXCEPTION 'the lease on job % is no longer held', id USING
      ERRCODE = 'serialization_failure', HINT = 'Roll back and drop the result: another worker has the job by now.';
  END IF;
END $$;

-- Keeps leases for longer: of each that is held, until when, and whether somebody asked for the job to be cancelled.
CREATE FUNCTION selvedge.extend_many(ids bigint[], tokens bigint[], holds bigint[], given bigint DEFAULT NULL)
RETURNS TABLE (kept_id bigint, kept_token bigint, kept_until bigint, cancelled boolean) LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE now bigint := selvedge.clock(given);
BEGIN
  RETURN QUERY WITH kept AS (
    UPDATE selvedge.job SET leased_until = now + held.hold
    FROM unnest(ids, tokens, holds) AS held (id, token, hold)
    WHERE job.id = held.id AND job.token = held.token AND job.state = 0 AND job.leased_until > now AND job.leased_at <= now
    RETURNING job.id, job.token, job.leased_until, job.cancel
  ), sooner AS (
    -- One that now ends before its batch must be found by then. A heartbeat, which comes with the same hold, changes nothing here.
    UPDATE selvedge.lease_batch AS batch SET until = first.until
    FROM (SELECT kept.token, min(kept.leased_until) AS until FROM kept GROUP BY kept.token) AS first
    WHERE batch.token = first.token AND batch.until > first.until
  ) SELECT kept.id, kept.token, kept.leased_until, kept.cancel FROM kept;
END $$;

-- Wakes those who wait for a queue: after your commit, in a transaction of its own. They look by themselves a second later.
CREATE FUNCTION selvedge.wake(queue text) RETURNS void LANGUAGE sql AS $$
  SELECT pg_notify(nspname, '--------q,' || queue) FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
  WHERE pg_class.oid = 'selvedge.job'::regclass
$$;
