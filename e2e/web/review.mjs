// The story of a review: what enforce would stop becomes a rule, its fixture and a
// patch, without script; every answer is an address.
import { writeFileSync } from 'node:fs'

export async function review({ visit, find, look, settled, screens, BASE, ADMIN, APPROVER, DIR }) {
  const page = await visit(APPROVER, { javaScriptEnabled: false })
  await page.goto(BASE + '/ui/review?last=24h')
  await settled(page)
  const groups = await page.locator('.group').count()
  if (groups < 2) find('there are ' + groups + ' groups to review')
  const held = page.locator('.group', { hasText: 'medium_refund_needs_approval' })
  if (!/3 would wait for a human/.test(await held.textContent())) find('the held refunds are no group')
  await held.locator('summary').click()
  if (!/\/ui\/events\/ev_/.test(await held.locator('.samples a').first().getAttribute('href'))) find('a sample leads nowhere')
  await held.getByText('They are right: accept').click()
  await settled(page)
  const said = await page.textContent('main')
  if (!/The rule accepted_[0-9a-f]{8} goes above medium_refund_needs_approval/.test(said)) find('the drafted rule is not shown: ' + said)
  if (!/args\.amount >= 9000 && args\.amount <= 9002/.test(said)) find('the rule does not bound the amount')
  await page.click('.answered summary')
  if (!/expect: \{ decision: allow/.test(await page.textContent('.answered'))) find('the fixture is not shown')
  if (!/note: "<script>alert\(1\)<\/script>"/.test(await page.textContent('.answered'))) find('the fixture does not show the text as it is')
  await page.locator('.group', { hasText: 'large_refund' }).getByText('Rightly stopped').click()
  const download = page.waitForEvent('download')
  await page.click('text=Download review.patch')
  await (await download).saveAs(DIR + '/review.patch')
  const address = page.url()

  // The address is the whole state: somebody else sees the same, a step back takes
  // an answer back, and a change of the period keeps the answers.
  for (const screen of screens) {
    const other = await visit(ADMIN, screen)
    await other.goto(address)
    await settled(other)
    for (const d of await other.locator('details').all()) await d.evaluate((e) => { e.open = true })
    await look(other, 'review_answered')
    await other.context().close()
  }
  const longer = await visit(APPROVER, { javaScriptEnabled: false })
  await longer.goto(BASE + '/ui/review?last=72h')
  await settled(longer)
  const more = await longer.locator('.group').count()
  await longer.context().close()
  await page.selectOption('.filters [name=last]', '72h')
  await page.click('text=Judge the record')
  await settled(page)
  if (!/groups? answered/.test(await page.textContent('main'))) find('another period loses the answers')
  await page.click('.undo >> nth=0')
  await settled(page)
  if (await page.locator('.group', { hasText: 'medium_refund_needs_approval' }).count() !== 1) find('an answer cannot be taken back')
  await page.click('text=Begin again')
  await settled(page)
  if (more <= groups || await page.locator('.group').count() !== more) find('the review does not begin again')
  await page.context().close()
}
