/** A [Prisma](https://www.prisma.io) client. Not that of an open `$transaction`, which may be rolled back. */
import { type PostgresStore, postgresStore } from "keystile/postgres";

/** A `PrismaClient`, as far as it is used. */
interface Prisma {
  $queryRawUnsafe<T>(text: string, ...values: unknown[]): PromiseLike<T>;
}

export function storeOnPrisma(prisma: Prisma): PostgresStore {
  return postgresStore({
    query: async (text, values) => ({ rows: await prisma.$queryRawUnsafe(text, ...values) }),
  });
}
