/** By code points, which is the order of UTF-8 bytes. `<` goes by UTF-16 units and puts U+1F600 before U+FF5E. */
export function compareIds(a: string, b: string): number {
  let at = 0;
  while (at < a.length && a[at] === b[at]) at += 1;
  return (a.codePointAt(at) ?? -1) - (b.codePointAt(at) ?? -1);
}
