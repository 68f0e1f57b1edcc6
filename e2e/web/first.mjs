// The first run: an empty record leads through the quickstart, and what it says shows
// the agent's first call as it arrives. Then a call that waits, told to who asked for it.
import { execFileSync } from 'node:child_process'

export async function first({ visit, find, BASE, ADMIN }) {
  const page = await visit(ADMIN, {})
  for (const name of ['overview', 'events']) {
    await page.goto(BASE + '/ui/' + name)
    if (!/Waiting for the first call.*It shows here as it arrives/s.test(await page.textContent('main'))) find(name + ' does not say what to do first')
  }
  for (const [name, wanted] of Object.entries({ approvals: /Nothing waits for you.*require_approval/s, review: /monitor/, readiness: /Nothing to judge yet.*monitor/s, passports: /actpass passport issue/, policies: /None among|No policy is loaded|counted|On its first|rule/ })) {
    const other = await page.context().newPage()
    await other.goto(BASE + '/ui/' + name)
    if (!wanted.test(await other.textContent('main'))) find(name + ' leaves who begins alone: ' + await other.textContent('main'))
    await other.close()
  }
  await page.waitForSelector('[data-live-dot]:not(.off)')
  const command = await page.textContent('.empty pre code')
  const answer = execFileSync('sh', ['-c', command], { encoding: 'utf8' })
  if (!/refund/.test(answer)) find('the command of the empty page comes to ' + answer)
  await page.waitForSelector('a.row').catch(() => find('the first call does not show as it arrives'))
  if (!/stripe\.refund\.create/.test(await page.textContent('#events'))) find('the first call is not the one that was sent')
  await page.context().close()

  // A page that nobody looks at tells of what waits, where that was asked for, and only there.
  const ask = (n) => fetch(BASE + '/api/v1/actions/preflight', {
    method: 'POST', headers: { Authorization: 'Bearer ' + ADMIN, 'Content-Type': 'application/json' },
    body: JSON.stringify({ tool: 'stripe.refund.create', resource: 'stripe:charge:ch_' + n, args: { amount: 9000 + n, currency: 'usd' }, agent_id: 'support_agent' })
  })
  const told = []
  for (const wanted of [false, true]) {
    const one = await visit(ADMIN, { permissions: ['notifications'] })
    await one.addInitScript(() => {
      window.told = []
      window.Notification = class { static permission = 'granted'; static requestPermission = async () => 'granted'; constructor(_, o) { window.told.push(o.body) } }
      Object.defineProperty(document, 'hidden', { get: () => !!window.away })
    })
    await one.goto(BASE + '/ui/approvals')
    if (wanted) await one.click('[data-notify]')
    await one.waitForSelector('[data-live-dot]:not(.off)')
    await one.evaluate(() => { window.away = true })
    told.push(one)
  }
  await ask(1)
  await told[1].waitForFunction(() => window.told.length > 0).catch(() => find('who asked to be told is not'))
  if ((await told[1].evaluate(() => window.told.join())) !== 'A call waits for approval.') find('the notification says ' + await told[1].evaluate(() => window.told.join()))
  if (await told[0].evaluate(() => window.told.length) !== 0) find('who did not ask is told')
  for (const one of told) await one.context().close()
}
