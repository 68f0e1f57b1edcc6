// The story of one event: found by a filter, explained by the rule's own lines,
// proved, and copied as a fixture and as a command.
import { writeFileSync } from 'node:fs'

export async function events({ visit, find, look, screens, BASE, ADMIN, APPROVER, DIR }) {
  const plain = await visit(APPROVER, { javaScriptEnabled: false })
  await plain.goto(BASE + '/ui/events?reason_code=refund.over_limit&state=blocked')
  const rows = plain.locator('a.row')
  if (await rows.count() !== 2) find('the filter finds ' + await rows.count() + ' events')
  await rows.first().click()
  const said = await plain.textContent('main')
  if (!/It was blocked, and not sent\./.test(said)) find('the action is not told in plain words')
  if (!/name: large_refund/.test(await plain.textContent('.source .hit'))) find('the lines of the rule are not shown')
  await plain.click('text=and the whole log')
  const proof = await plain.textContent('#proof')
  if (!/The event is in the log, unchanged/.test(proof) || !/The whole log is as it was written: \d+ records/.test(proof) || !/actpass/i.test(proof)) find('the proof does not hold: ' + proof)
  const address = BASE + '/ui/events/' + (await plain.textContent('.crumbs code'))
  await plain.context().close()

  // What is copied is what is shown.
  const page = await visit(APPROVER, { permissions: ['clipboard-read', 'clipboard-write'] })
  await page.goto(address)
  for (const [name, file] of [['fixture', 'fixture.yaml'], ['explain', 'explain.sh']]) {
    const card = page.locator('details.card', { has: page.locator('#' + name) })
    await card.locator('summary').click()
    await card.locator('button.copy').click()
    await card.locator('button.copy', { hasText: 'Copied' }).waitFor()
    const copied = await page.evaluate(() => navigator.clipboard.readText())
    if (copied.trim() !== (await page.textContent('#' + name)).trim()) find('the copied ' + name + ' is not the one that is shown')
    writeFileSync(DIR + '/' + file, copied)
  }
  await page.context().close()

  for (const screen of screens) {
    const one = await visit(ADMIN, screen)
    await one.goto(address)
    await one.click('text=Verify this event')
    for (const d of await one.locator('details').all()) await d.evaluate((e) => { e.open = true })
    await look(one, 'event_proved')
    await one.context().close()
  }
}
