export const SCHEMA = 1;

export const CREATE_META = `CREATE TABLE IF NOT EXISTS keystile_meta (
  one INTEGER PRIMARY KEY CHECK (one = 1), schema INTEGER NOT NULL, revision INTEGER NOT NULL) STRICT`;
export const SELECT_SCHEMA = "SELECT schema FROM keystile_meta";
export const CREATE_REST: readonly string[] = [
  // Not WITHOUT ROWID: measured, documents of 2 kB are written twice as fast this way.
  `CREATE TABLE IF NOT EXISTS keystile_documents (
    id TEXT NOT NULL PRIMARY KEY, version INTEGER NOT NULL, owner TEXT, body TEXT NOT NULL) STRICT`,
  `CREATE INDEX IF NOT EXISTS keystile_documents_by_owner ON keystile_documents (owner, id)
    WHERE owner IS NOT NULL`,
  `INSERT INTO keystile_meta (one, schema, revision) VALUES (1, ${SCHEMA}, 0) ON CONFLICT DO NOTHING`,
];

// One for the whole store: a deleted document leaves nothing behind that could remember its versions.
export const NEXT_REVISION = "UPDATE keystile_meta SET revision = revision + 1 RETURNING revision";
// Ids and owners are read as bytes: node:sqlite of Node 22 cuts a text off at NUL. In a body JSON escapes it.
export const FIND = "SELECT version, CAST(owner AS BLOB) AS owner, body FROM keystile_documents WHERE id = ?";
export const UPSERT = `INSERT INTO keystile_documents (id, version, owner, body) VALUES (?, ?, ?, ?)
  ON CONFLICT (id) DO UPDATE SET version = excluded.version, owner = excluded.owner, body = excluded.body`;
export const DELETE = "DELETE FROM keystile_documents WHERE id = ?";
// The default collation compares UTF-8 bytes. One lower bound rather than two: the index is entered at the first
// only. `ORDER BY id` would mean the column of bytes.
const LIST = `SELECT CAST(id AS BLOB) AS id, version, CAST(owner AS BLOB) AS owner, body
  FROM keystile_documents AS d WHERE d.id >= max(?, ?) AND d.id < ?`;
export const LIST_ALL: string = `${LIST} ORDER BY d.id LIMIT ?`;
export const LIST_OWNED: string = `${LIST} AND owner = ? ORDER BY d.id LIMIT ?`;
