/** The version of what `setup()` installs. Steps are numbered, go forward only, and are never changed. */
export const SCHEMA = 1;

/** Raised for a session in which what was committed while a call waited for its locks could not be seen. */
export const WRONG_SESSION = "KS001";

const REFUSE_WRONG_SESSION = `
  IF current_setting('transaction_isolation') <> 'read committed' OR pg_is_in_recovery() THEN
    RAISE EXCEPTION 'Keystile needs READ COMMITTED, on the primary' USING ERRCODE = '${WRONG_SESSION}';
  END IF;`;

/**
 * One statement, so that it is one transaction whatever connection it gets. It takes the steps that are missing
 * and leaves a newer schema alone. Installers wait for each other; nothing needs a right that is not used.
 */
export function setupOf(schema: string): string {
  return `DO $setup$
DECLARE
  installed integer := 0;
BEGIN${REFUSE_WRONG_SESSION}
  PERFORM pg_advisory_xact_lock(hashtextextended('keystile setup of ${schema}', 0));
  IF to_regclass('"${schema}".meta') IS NOT NULL THEN
    SELECT m.schema INTO installed FROM "${schema}".meta AS m;
  END IF;
  IF installed < 1 THEN${stepOne(`"${schema}"`)}
  END IF;
END
$setup$`;
}

/*
 * `exchange` answers one call, given as a JSON list of members, with a row for each and the clock in all of them.
 *
 * A statement inside a VOLATILE function sees, under READ COMMITTED, everything that was committed before that
 * statement began; so what comes after the locks sees what others did while it waited for them. Ids are locked,
 * not rows, because a document that must stay absent has no row. The locks are taken in one order everywhere, and
 * two ids that share a place only wait for each other. There are 1,024 places, so that the largest calls cannot
 * fill the server's lock table. A call that only checks is one statement, which needs no lock.
 *
 * Plans of an empty table are kept by sessions that see it grow, so they must be right for a large one: rows are
 * found by their key or an index even where reading the whole table would cost less, and LIMIT keeps the planner
 * from joining in another way.
 */
function stepOne(schema: string): string {
  return `
    IF to_regnamespace('${schema}') IS NULL THEN
      CREATE SCHEMA ${schema};
    END IF;
    CREATE TABLE ${schema}.meta (schema integer NOT NULL);
    CREATE UNIQUE INDEX meta_has_one_row ON ${schema}.meta ((true));
    INSERT INTO ${schema}.meta VALUES (1);
    CREATE TABLE ${schema}.documents (
      id text COLLATE "C" PRIMARY KEY,
      version bigint NOT NULL,
      owner text COLLATE "C",
      body text NOT NULL
    );
    CREATE INDEX documents_by_owner ON ${schema}.documents (owner, id) WHERE owner IS NOT NULL;
    -- One for all documents: a deleted one leaves nothing behind that could remember its versions.
    CREATE SEQUENCE ${schema}.versions MAXVALUE ${Number.MAX_SAFE_INTEGER};

    CREATE FUNCTION ${schema}.exchange(call text)
    RETURNS TABLE (member integer, written boolean, version bigint, owner text, body text, clock bigint)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off
    AS $function$
#variable_conflict use_column
DECLARE
  asked CONSTANT jsonb := call::jsonb;
  space CONSTANT integer := '${schema}.documents'::regclass::oid::integer;
  place record;
BEGIN${REFUSE_WRONG_SESSION}
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
      CASE WHEN a.set <> 'null' THEN nextval('${schema}.versions') END AS next_version,
      bool_and(coalesce(d.version, 0) = a.expected) OVER (PARTITION BY a."group") AS holds
    FROM jsonb_to_recordset(asked)
      AS a(member integer, "group" integer, id text, expected bigint, set text, owner text)
    LEFT JOIN LATERAL (
      SELECT version, owner, body FROM ${schema}.documents WHERE id = a.id LIMIT 1
    ) AS d ON true
  ), deleted AS (
    DELETE FROM ${schema}.documents
    WHERE id = ANY (ARRAY(SELECT id FROM found WHERE holds AND set = 'null'))
  ), kept AS (
    INSERT INTO ${schema}.documents (id, version, owner, body)
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

    CREATE FUNCTION ${schema}.list(lowest text, highest text, whose text, most integer)
    RETURNS SETOF ${schema}.documents
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_sort = off
    SET enable_bitmapscan = off SET enable_seqscan = off SET jit = off
    AS $function$
BEGIN${REFUSE_WRONG_SESSION}
  IF whose IS NULL THEN
    RETURN QUERY SELECT d.* FROM ${schema}.documents AS d
      WHERE d.id >= lowest AND d.id < highest ORDER BY d.id LIMIT most;
  ELSE
    RETURN QUERY SELECT d.* FROM ${schema}.documents AS d
      WHERE d.owner = whose AND d.id >= lowest AND d.id < highest ORDER BY d.id LIMIT most;
  END IF;
END
$function$;`;
}
