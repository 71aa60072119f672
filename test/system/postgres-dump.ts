import type { PostgresClient } from "../../src/stores/postgres.js";

/** What a schema consists of, as the server tells it, in the words of SQL. The same on every supported version. */
export async function dumpOf(client: PostgresClient, schema: string): Promise<string> {
  const { rows } = await client.query(DUMP, [schema]);
  return (rows as { statement: string }[]).map(({ statement }) => `${statement}\n`).join("\n");
}

const DUMP = `
WITH relation AS (
  SELECT c.oid, c.relkind, format('%I.%I', n.nspname, c.relname) AS name,
    coalesce(' WITH (' || array_to_string(c.reloptions, ', ') || ')', '') AS options
  FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE n.nspname = $1
), part AS (
  SELECT a.attrelid AS oid, 1 AS rank, a.attnum AS place, format('  %I %s', a.attname,
    format_type(a.atttypid, a.atttypmod)
    || CASE WHEN a.attcollation <> t.typcollation THEN format(' COLLATE %I', o.collname) ELSE '' END
    || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END
    || coalesce(' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid), '')) AS line
  FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
  LEFT JOIN pg_collation AS o ON o.oid = a.attcollation
  LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
  WHERE a.attnum > 0 AND NOT a.attisdropped
  UNION ALL
  -- Since Postgres 18 NOT NULL is a constraint of its own.
  SELECT conrelid, 2, oid::bigint, format('  CONSTRAINT %I %s', conname, pg_get_constraintdef(oid))
  FROM pg_constraint WHERE contype <> 'n'
), statement AS (
  SELECT 1 AS rank, format('%s', r.name) AS name,
    format(E'CREATE TABLE %s (\\n%s\\n)%s;', r.name, string_agg(p.line, E',\\n' ORDER BY p.rank, p.place), r.options)
      AS statement
  FROM relation AS r JOIN part AS p ON p.oid = r.oid WHERE r.relkind IN ('r', 'p') GROUP BY r.name, r.options
  UNION ALL
  SELECT 2, r.name, pg_get_indexdef(r.oid) || ';' FROM relation AS r
  WHERE r.relkind = 'i' AND NOT EXISTS (SELECT FROM pg_constraint AS c WHERE c.conindid = r.oid)
  UNION ALL
  SELECT 3, r.name, format('CREATE SEQUENCE %s AS %s START %s INCREMENT %s MAXVALUE %s CACHE %s%s;', r.name,
    format_type(s.seqtypid, NULL), s.seqstart, s.seqincrement, s.seqmax, s.seqcache,
    CASE WHEN s.seqcycle THEN ' CYCLE' ELSE '' END)
  FROM relation AS r JOIN pg_sequence AS s ON s.seqrelid = r.oid
  UNION ALL
  SELECT 4, p.oid::regprocedure::text, rtrim(pg_get_functiondef(p.oid), E'\\n') || ';'
  FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace WHERE n.nspname = $1
  UNION ALL
  SELECT 5, r.name, format('-- %s: a %s', r.name, r.relkind) FROM relation AS r
  WHERE r.relkind NOT IN ('r', 'p', 'i', 'S', 't')
)
SELECT statement FROM statement ORDER BY rank, name COLLATE "C"`;
