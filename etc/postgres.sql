CREATE TABLE keystile.documents (
  id text COLLATE "C" NOT NULL,
  version bigint NOT NULL,
  owner text COLLATE "C",
  body text NOT NULL,
  CONSTRAINT documents_pkey PRIMARY KEY (id)
) WITH (fillfactor=50);

CREATE TABLE keystile.meta (
  schema integer NOT NULL
);

CREATE INDEX documents_by_owner ON keystile.documents USING btree (owner, id) WHERE (owner IS NOT NULL);

CREATE UNIQUE INDEX meta_has_one_row ON keystile.meta USING btree ((true));

CREATE SEQUENCE keystile.versions AS bigint START 1 INCREMENT 1 MAXVALUE 9007199254740991 CACHE 1;

CREATE OR REPLACE FUNCTION keystile.exchange(groups integer[], ids text[], expected bigint[], owners text[], bodies text)
 RETURNS TABLE(member integer, version bigint, owner text, body text, written bigint, clock bigint)
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
#variable_conflict use_column
DECLARE
  changes CONSTANT boolean := ltrim(bodies, E'\n') <> '';
  lines CONSTANT text[] := string_to_array(bodies, E'\n');
  space integer;
  place record;
  fresh bigint;
BEGIN
  IF current_setting('transaction_isolation') <> 'read committed' OR pg_is_in_recovery() THEN
    RAISE EXCEPTION 'Keystile needs READ COMMITTED, on the primary' USING ERRCODE = 'KS001';
  END IF;
  IF cardinality(ids) = 1 AND expected[1] > 0 AND bodies NOT IN ('', 'null') THEN
    UPDATE "keystile".documents SET version = nextval('"keystile".versions'), owner = owners[1], body = bodies
      WHERE id = ids[1] AND version = expected[1] RETURNING version INTO written;
    IF FOUND THEN
      clock := floor(extract(epoch FROM clock_timestamp()) * 1000);
      RETURN NEXT;
      RETURN;
    END IF;
  END IF;
  IF changes THEN
    IF 0 = ANY (expected) THEN
      space := '"keystile".documents'::regclass::oid::integer;
      FOR place IN
        SELECT hashtext(id) & 1023 AS number, bool_or(line <> '') AS changes
        FROM unnest(ids, expected, lines) AS a(id, expected, line) WHERE a.expected = 0 GROUP BY 1 ORDER BY 1
      LOOP
        IF place.changes THEN
          PERFORM pg_advisory_xact_lock(space, place.number);
        ELSE
          PERFORM pg_advisory_xact_lock_shared(space, place.number);
        END IF;
      END LOOP;
    END IF;
    PERFORM FROM "keystile".documents WHERE id = ANY (ids) ORDER BY id FOR NO KEY UPDATE;
    fresh := nextval('"keystile".versions');
  END IF;

  RETURN QUERY
  WITH found AS MATERIALIZED (
    SELECT a.member::integer, a.id, a.line, a.owner AS next_owner, d.*,
      bool_and(coalesce(d.version, 0) = a.expected) OVER (PARTITION BY a."group") AS holds
    FROM unnest(groups, ids, expected, owners, lines) WITH ORDINALITY
      AS a("group", id, expected, owner, line, member)
    LEFT JOIN LATERAL (
      SELECT ctid AS row, version, owner, body FROM "keystile".documents WHERE id = a.id LIMIT 1
    ) AS d ON true
  ), deleted AS (
    DELETE FROM "keystile".documents
    WHERE ctid = ANY (ARRAY(SELECT row FROM found WHERE holds AND line = 'null' AND version IS NOT NULL))
  ), changed AS (
    UPDATE "keystile".documents AS d SET version = fresh, owner = f.next_owner, body = f.line
    FROM found AS f WHERE d.ctid = f.row AND f.holds AND f.line NOT IN ('', 'null')
  ), made AS (
    INSERT INTO "keystile".documents (id, version, owner, body)
    SELECT id, fresh, next_owner, line FROM found
    WHERE holds AND line NOT IN ('', 'null') AND version IS NULL
  )
  SELECT f.member, f.version, f.owner, f.body, fresh, c.clock
  FROM (SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS clock) AS c
  LEFT JOIN found AS f ON NOT f.holds;
END
$function$;

CREATE OR REPLACE FUNCTION keystile.list(lowest text, highest text, whose text, most integer)
 RETURNS SETOF keystile.documents
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET enable_sort TO 'off'
 SET enable_bitmapscan TO 'off'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
BEGIN
  IF current_setting('transaction_isolation') <> 'read committed' OR pg_is_in_recovery() THEN
    RAISE EXCEPTION 'Keystile needs READ COMMITTED, on the primary' USING ERRCODE = 'KS001';
  END IF;
  IF whose IS NULL THEN
    RETURN QUERY SELECT d.* FROM "keystile".documents AS d
      WHERE d.id >= lowest AND d.id < highest ORDER BY d.id LIMIT most;
  ELSE
    RETURN QUERY SELECT d.* FROM "keystile".documents AS d
      WHERE d.owner = whose AND d.id >= lowest AND d.id < highest ORDER BY d.id LIMIT most;
  END IF;
END
$function$;
