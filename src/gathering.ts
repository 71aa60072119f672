/**
 * Lets those who came with one turn of the event loop go on together: what each awaits is over for all of them at once, when
 * the turn has brought everything. Else each would be done with before the next one is looked at, and none could share a
 * write with another. Where there is no `setImmediate` nobody waits.
 */
export function gathering(): () => Promise<void> | undefined {
  const { setImmediate: soon } = globalThis as { readonly setImmediate?: (run: () => void) => unknown };
  let gathered: Promise<void> | undefined;

  return () => {
    if (soon === undefined) return undefined;
    gathered ??= new Promise((resolve) => {
      soon(() => {
        gathered = undefined;
        resolve();
      });
    });
    return gathered;
  };
}
