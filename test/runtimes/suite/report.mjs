/** Runs cases one after another and prints one line of JSON for each: its name, and what was wrong. */
export async function report(cases) {
  let isSound = true;
  for (const [name, run] of cases) {
    try {
      await run();
      console.log(JSON.stringify({ name }));
    } catch (error) {
      isSound = false;
      console.log(JSON.stringify({ name, error: String(error?.stack ?? error) }));
    }
  }
  return isSound;
}
