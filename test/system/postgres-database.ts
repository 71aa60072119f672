import { Pool, type PoolConfig } from "pg";

export interface Database {
  readonly url: string;
  /** A pool that ends with the database. */
  pool(config?: PoolConfig, user?: string): Pool;
  drop(): Promise<void>;
}

let databases = 0;

/** A database of its own on a server, encoded as every other. */
export async function newDatabase(server: string, options = ""): Promise<Database> {
  databases += 1;
  const name = `test_${process.pid}_${Date.now()}_${databases}`;
  await runOnce(server, `CREATE DATABASE ${name} ${options}`);
  const url = Object.assign(new URL(server), { pathname: `/${name}` }).href;
  const pools: Pool[] = [];
  return {
    url,
    pool(config, user = new URL(url).username) {
      const connectionString = Object.assign(new URL(url), { username: user }).href;
      const pool = new Pool({ connectionString, ...config });
      pools.push(pool);
      return pool;
    },
    async drop() {
      await Promise.all(pools.map((pool) => pool.end()));
      await runOnce(server, `DROP DATABASE ${name}`);
    },
  };
}

async function runOnce(url: string, statement: string): Promise<void> {
  const pool = new Pool({ connectionString: url });
  try {
    await pool.query(statement);
  } finally {
    await pool.end();
  }
}
