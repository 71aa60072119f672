/** 32 bits of a text (FNV-1a over its UTF-16 units), to spread ids by. It is part of what is stored: it never changes. */
export function hashOfId(text: string): number {
  let hash = 0x811c9dc5;
  for (let at = 0; at < text.length; at += 1) hash = Math.imul(hash ^ text.charCodeAt(at), 0x01000193);
  return hash >>> 0;
}
