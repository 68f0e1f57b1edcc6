// Evidence bundles and passports, by the shared vectors.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { PassportError, verifyEvidence, verifyPassportOffline } from '../dist/esm/index.js'

const vectors = (name) => JSON.parse(readFileSync(new URL('../../vectors/' + name, import.meta.url), 'utf8'))

const bundles = vectors('evidence.json').cases
assert.ok(bundles.length > 30)
for (const c of bundles) {
  test('a bundle: ' + c.name, () => {
    if (!c.expect) return assert.throws(() => verifyEvidence(c.bundle, c.key), /does not verify/)
    const r = verifyEvidence(c.bundle, c.key)
    assert.deepEqual([r.treeSize, r.records.map((x) => x.index)], [c.expect.tree_size, c.expect.indexes])
  })
}

const { issuer, audience, now, jwks, cases } = vectors('passports.json')
assert.ok(cases.length > 30)
for (const c of cases) {
  test('a passport: ' + c.name, () => {
    const ask = () => verifyPassportOffline(c.token, jwks, { issuer, audience, now })
    if (c.reason) assert.throws(ask, (e) => e instanceof PassportError && (assert.equal(e.reasonCode, c.reason), true))
    else assert.equal(ask().jti, c.jti)
  })
}
