const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** Throws on what is not UTF-8. */
export const utf8 = (raw: Uint8Array): string => decoder.decode(raw)

/**
 * The one JSON object that this is (RFC 7493), undefined where it is none: UTF-8, no
 * name twice in any object, no half of a surrogate pair. JSON.parse would take the
 * last of two names, and another reader the first.
 */
export function object(from: Uint8Array | string): Record<string, any> | undefined {
  try {
    const text = typeof from === 'string' ? from : utf8(from), v = JSON.parse(text)
    if (typeof v !== 'object' || v === null || Array.isArray(v)) return
    const open: Array<Set<string> | null> = []
    for (const [all, quoted, colon] of text.matchAll(/("[^"\\]*(?:\\.[^"\\]*)*")(\s*:)?|[{}[\]]/g)) {
      if (all === '{') open.push(new Set())
      else if (all === '[') open.push(null)
      else if (!quoted) open.pop()
      else {
        let s = quoted
        if (s.includes('\\')) {
          const plain = JSON.parse(s)
          encodeURIComponent(plain) // throws on half a pair
          s = JSON.stringify(plain)
        }
        if (!colon) continue
        const names = open[open.length - 1]!
        if (names.has(s)) return
        names.add(s)
      }
    }
    return v
  } catch { /* none */ }
}
