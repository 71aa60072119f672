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
 * `exchange` answers one call, given as a list for each property of its members, and a line of `bodies` for each: nothing to
 * check only, null to delete. It tells the version of all that it wrote, and the clock; then, of the groups that it did not
 * write, what there is of each member.
 *
 * A statement inside a VOLATILE function sees, under READ COMMITTED, everything that was committed before that
 * statement began; so what comes after the locks sees what others did while it waited for them. Ids that are to be absent
 * have no row, so a place is locked for them, and of all others the row: two ids that share a place wait for each other, and
 * would for each other's commit if keys in use were locked so. There are 1,024 places, so that the largest calls cannot fill
 * the server's lock table. Places come before rows, and each in one order everywhere. Who expects a row that is not there
 * has lost already. A call that only checks is one statement, which needs no lock.
 *
 * The commonest call, one document that is there, is first tried as one UPDATE, which takes a quarter of the time.
 *
 * Half of each page is left free for the next versions of its rows: then no index changes with them.
 *
 * Plans of an empty table are kept by sessions that see it grow, so they must be right for a large one: rows are
 * found by their key or an index even where reading the whole table would cost less, and LIMIT keeps the planner
 * from joining in another way. One plan serves all calls: to make one for each takes more than to run it.
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
    ) WITH (fillfactor = 50);
    CREATE INDEX documents_by_owner ON ${schema}.documents (owner, id) WHERE owner IS NOT NULL;
    -- One for all documents: a deleted one leaves nothing behind that could remember its versions.
    CREATE SEQUENCE ${schema}.versions MAXVALUE ${Number.MAX_SAFE_INTEGER};

    CREATE FUNCTION ${schema}.exchange(
      groups integer[], ids text[], expected bigint[], owners text[], bodies text
    )
    RETURNS TABLE (member integer, version bigint, owner text, body text, written bigint, clock bigint)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off
    SET plan_cache_mode = force_generic_plan
    AS $function$
#variable_conflict use_column
DECLARE
  changes CONSTANT boolean := ltrim(bodies, E'\\n') <> '';
  lines CONSTANT text[] := string_to_array(bodies, E'\\n');
  space integer;
  place record;
  fresh bigint;
BEGIN${REFUSE_WRONG_SESSION}
  IF cardinality(ids) = 1 AND expected[1] > 0 AND bodies NOT IN ('', 'null') THEN
    UPDATE ${schema}.documents SET version = nextval('${schema}.versions'), owner = owners[1], body = bodies
      WHERE id = ids[1] AND version = expected[1] RETURNING version INTO written;
    IF FOUND THEN
      clock := floor(extract(epoch FROM clock_timestamp()) * 1000);
      RETURN NEXT;
      RETURN;
    END IF;
  END IF;
  IF changes THEN
    IF 0 = ANY (expected) THEN
      space := '${schema}.documents'::regclass::oid::integer;
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
    PERFORM FROM ${schema}.documents WHERE id = ANY (ids) ORDER BY id FOR NO KEY UPDATE;
    fresh := nextval('${schema}.versions');
  END IF;

  RETURN QUERY
  WITH found AS MATERIALIZED (
    SELECT a.member::integer, a.id, a.line, a.owner AS next_owner, d.*,
      bool_and(coalesce(d.version, 0) = a.expected) OVER (PARTITION BY a."group") AS holds
    FROM unnest(groups, ids, expected, owners, lines) WITH ORDINALITY
      AS a("group", id, expected, owner, line, member)
    LEFT JOIN LATERAL (
      SELECT ctid AS row, version, owner, body FROM ${schema}.documents WHERE id = a.id LIMIT 1
    ) AS d ON true
  ), deleted AS (
    DELETE FROM ${schema}.documents
    WHERE ctid = ANY (ARRAY(SELECT row FROM found WHERE holds AND line = 'null' AND version IS NOT NULL))
  ), changed AS (
    UPDATE ${schema}.documents AS d SET version = fresh, owner = f.next_owner, body = f.line
    FROM found AS f WHERE d.ctid = f.row AND f.holds AND f.line NOT IN ('', 'null')
  ), made AS (
    INSERT INTO ${schema}.documents (id, version, owner, body)
    SELECT id, fresh, next_owner, line FROM found
    WHERE holds AND line NOT IN ('', 'null') AND version IS NULL
  )
  SELECT f.member, f.version, f.owner, f.body, fresh, c.clock
  FROM (SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS clock) AS c
  LEFT JOIN found AS f ON NOT f.holds;
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
