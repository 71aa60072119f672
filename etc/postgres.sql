CREATE TABLE keystile.documents (
  id text COLLATE "C" NOT NULL,
  version bigint NOT NULL,
  owner text COLLATE "C",
  body text NOT NULL,
  CONSTRAINT documents_pkey PRIMARY KEY (id)
);

CREATE TABLE keystile.meta (
  schema integer NOT NULL
);

CREATE INDEX documents_by_owner ON keystile.documents USING btree (owner, id) WHERE (owner IS NOT NULL);

CREATE UNIQUE INDEX meta_has_one_row ON keystile.meta USING btree ((true));

CREATE SEQUENCE keystile.versions AS bigint START 1 INCREMENT 1 MAXVALUE 9007199254740991 CACHE 1;

CREATE OR REPLACE FUNCTION keystile.exchange(call text)
 RETURNS TABLE(member integer, written boolean, version bigint, owner text, body text, clock bigint)
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
#variable_conflict use_column
DECLARE
  asked CONSTANT jsonb := call::jsonb;
  space CONSTANT integer := '"keystile".documents'::regclass::oid::integer;
  place record;
BEGIN
  IF current_setting('transaction_isolation') <> 'read committed' OR pg_is_in_recovery() THEN
    RAISE EXCEPTION 'Keystile needs READ COMMITTED, on the primary' USING ERRCODE = 'KS001';
  END IF;
  IF asked @? '$[*].set' THEN
    FOR place IN
      SELECT hashtext(id) & 1023 AS number, bool_or(set IS NOT NULL) AS changes
      FROM jsonb_to_recordset(asked) AS a(id text, set text) GROUP BY 1 ORDER BY 1
    LOOP
      IF place.changes THEN
        PERFORM pg_advisory_xact_lock(space, place.number);
      ELSE
        PERFORM pg_advisory_xact_lock_shared(space, place.number);
      END IF;
    END LOOP;
  END IF;

  RETURN QUERY
  WITH found AS MATERIALIZED (
    SELECT a.member, a.id, a.set, a.owner AS next_owner, d.*,
      CASE WHEN a.set <> 'null' THEN nextval('"keystile".versions') END AS next_version,
      bool_and(coalesce(d.version, 0) = a.expected) OVER (PARTITION BY a."group") AS holds
    FROM jsonb_to_recordset(asked)
      AS a(member integer, "group" integer, id text, expected bigint, set text, owner text)
    LEFT JOIN LATERAL (
      SELECT version, owner, body FROM "keystile".documents WHERE id = a.id LIMIT 1
    ) AS d ON true
  ), deleted AS (
    DELETE FROM "keystile".documents
    WHERE id = ANY (ARRAY(SELECT id FROM found WHERE holds AND set = 'null'))
  ), kept AS (
    INSERT INTO "keystile".documents (id, version, owner, body)
    SELECT id, next_version, next_owner, set FROM found WHERE holds AND set <> 'null'
    ON CONFLICT (id) DO UPDATE
    SET version = excluded.version, owner = excluded.owner, body = excluded.body
  )
  SELECT f.member, f.holds, CASE WHEN f.holds THEN f.next_version ELSE f.version END,
    CASE WHEN NOT f.holds THEN f.owner END, CASE WHEN NOT f.holds THEN f.body END, c.clock
  FROM (SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS clock) AS c
  LEFT JOIN found AS f ON true;
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
