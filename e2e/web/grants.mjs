// The story of a grant: made from an approval, within bounds, seen in the list, and
// revoked. Without script.
export async function grants({ visit, find, look, screens, BASE, ADMIN, APPROVER }) {
  const page = await visit(APPROVER, { javaScriptEnabled: false })
  await page.goto(BASE + '/ui/approvals')
  if (!/None is in force/.test(await page.textContent('#grants'))) find('there are grants before one is made')
  await page.click('.queue a.row')
  await page.click('text=Grant calls like it')
  await page.fill('[name=resource]', 'stripe:charge:ch_*')
  const amount = page.locator('fieldset', { hasText: 'amount' })
  if (await amount.locator('select').inputValue() !== 'max') find('an amount is not bounded by its value')
  await amount.locator('input').fill('9500')
  await page.locator('fieldset', { hasText: 'metadata.note' }).locator('select').selectOption('free')
  await page.fill('[name=count]', '3')
  await page.fill('[name=sum_max]', 'a lot')
  await page.click('button.yes')
  if (!/must be a whole number/.test(await page.textContent('main'))) find('a sum that is no number is taken')
  if (await amount.locator('input').inputValue() !== '9500') find('the form forgets what was typed')
  await page.fill('[name=sum_max]', '20000')
  await page.fill('#reason', 'the sale <script>alert(1)</script>')
  await page.click('button.yes')
  const said = await page.textContent('#grants')
  if (!/0 of 3 used/.test(said) || !/amount at most 9500/.test(said) || !/0 of 20000 amount/.test(said)) find('the grant is not listed: ' + said)

  for (const screen of screens) {
    const one = await visit(ADMIN, screen)
    await one.goto(BASE + '/ui/approvals?grants=all')
    for (const d of await one.locator('#grants details').all()) await d.evaluate((e) => { e.open = true })
    await look(one, 'grants')
    await one.click('.grant a.plain')
    await one.click('text=Grant calls like it')
    await look(one, 'grant_new')
    await one.context().close()
  }
  // What somebody has opened stays open while the page keeps itself up to date.
  const live = await visit(ADMIN, {})
  await live.goto(BASE + '/ui/approvals')
  await live.waitForResponse((r) => r.request().headers()['actpass-fragment'] === '1') // the first, on connecting
  await live.click('#grants summary')
  const fresh = live.waitForResponse((r) => r.request().headers()['actpass-fragment'] === '1')
  const ask = { tool: 'stripe.refund.create', resource: 'stripe:charge:ch_3', args: { amount: 9100, currency: 'usd', metadata: { note: 'x' } }, agent_id: 'support_agent', intent: 'execute' }
  const answer = await fetch(BASE + '/api/v1/actions/preflight', { method: 'POST', headers: { Authorization: 'Bearer ' + ADMIN, 'Content-Type': 'application/json' }, body: JSON.stringify(ask) })
  if (answer.status !== 200) find('a call within the grant does not go: ' + await answer.text())
  await fresh
  await live.waitForFunction(() => /1 of 3 used/.test(document.querySelector('#grants').textContent)).catch(() => find('the use is not shown'))
  if (!await live.locator('#grants details').evaluate((d) => d.open)) find('a refresh closes what was opened')
  await live.context().close()

  await page.click('#grants summary')
  await page.fill('.grant [name=reason]', 'over')
  await page.click('text=Revoke it')
  if (!/None is in force/.test(await page.textContent('#grants'))) find('the grant was not revoked')
  await page.context().close()
}
