// The stories of the policies page: what is loaded and since when, a rule's lines,
// suggested mapping rules, and a call that is only thought through. Without script.
import { readFileSync } from 'node:fs'

export async function policies({ visit, find, look, screens, BASE, ADMIN, APPROVER, DIR }) {
  const page = await visit(APPROVER, { javaScriptEnabled: false })
  await page.goto(BASE + '/ui/policies')
  const said = await page.textContent('main')
  if (!/In force since/.test(said)) find('the page does not say since when')
  if (!/counted over the last \d+ actions, since \d+ \w+ [\d:]+ UTC, as of now/.test(said)) find('the page does not say over what it counts')
  if (!/Could be called/.test(said) || !/\/v9\/things\/\{/.test(said)) find('no mapping rule is suggested')
  await page.click('.rule summary >> text=medium_refund_needs_approval')
  if (!/decision: require_approval/.test(await page.textContent('.rule[open] .source'))) find('the lines of a rule are not shown')
  const download = page.waitForEvent('download')
  await page.click('text=Download suggested.yaml')
  await (await download).saveAs(DIR + '/suggested.yaml')
  if (!/tool: acme\./.test(readFileSync(DIR + '/suggested.yaml', 'utf8'))) find('the file has no rules')

  await page.click('text=Try it')
  await page.fill('#request', 'POST https://api.stripe.com/v1/refunds\n\ncharge=<script>alert(1)</script>&amount=9000&currency=usd')
  await page.click('text=Judge it')
  if (!/medium_refund_needs_approval/.test(await page.textContent('#said'))) find('the request is not judged')
  await page.click('text=An action')
  await page.fill('[name=tool]', 'stripe.refund.create')
  await page.fill('#args', '{"amount": 900000, "currency": "usd", "note": "<img src=x onerror=alert(1)>"}')
  await page.click('text=Judge it')
  if (!/refund\.over_limit/.test(await page.textContent('#said'))) find('the action is not judged')
  await page.context().close()

  for (const screen of screens) {
    const one = await visit(ADMIN, screen)
    await one.goto(BASE + '/ui/policies')
    for (const d of await one.locator('details').all()) await d.evaluate((e) => { e.open = true })
    await look(one, 'policies_open')
    await one.goto(BASE + '/ui/try')
    await look(one, 'try')
    await one.fill('#request', 'POST https://api.stripe.com/v1/refunds\n\ncharge=<script>alert(1)</script>&amount=9000&currency=usd')
    await one.click('text=Judge it')
    await look(one, 'try_said')
    await one.context().close()
  }
}
