// Walks the dashboard as people do. BASE and two keys come by environment; each
// finding is one line on standard output.
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { chromium } from 'playwright-core'
import { events } from './events.mjs'
import { first } from './first.mjs'
import { grants } from './grants.mjs'
import { keyboard } from './keyboard.mjs'
import { policies } from './policies.mjs'
import { review } from './review.mjs'
import { week } from './week.mjs'

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')
const { BASE, ADMIN, APPROVER, DIR, CALLS, EMPTY, EMPTY_ADMIN } = process.env
const flags = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync']
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: flags })
let findings = 0
const find = (text) => { findings++; console.log(text) }

async function visit(key, options, base = BASE) {
  const context = await browser.newContext(options)
  const page = await context.newPage()
  page.setDefaultTimeout(10000)
  page.on('pageerror', (e) => find('script: ' + e.message))
  page.on('dialog', (d) => { find('an injected script ran: ' + d.message()); d.dismiss() })
  page.on('console', (m) => { if (/Content Security Policy/.test(m.text())) find(m.text()) })
  await page.goto(base + '/ui/signin')
  await page.fill('#key', key)
  await page.click('button.primary')
  await page.waitForSelector('nav')
  return page
}

// settled waits until a review that takes its time is there.
const settled = (page) => page.getByText('Judging the record again').waitFor({ state: 'detached', timeout: 60000 })

// look holds the page that is open to axe and to its width, and takes its picture.
async function look(page, name) {
  await settled(page)
  const { width, scheme } = await page.evaluate(() => ({ width: innerWidth, scheme: matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light' }))
  await page.evaluate(axe)
  const { violations } = await page.evaluate(() => window.axe.run({ runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa'] }))
  for (const v of violations) find(`${page.url()} ${width} ${scheme}: ${v.id}: ${v.nodes[0].html}`)
  if (process.env.SHOTS) await page.screenshot({ path: `${process.env.SHOTS}/${name.replace(/\W+/g, '_')}_${width}_${scheme}.png`, fullPage: true })
  if (await page.evaluate(() => document.documentElement.scrollWidth > innerWidth)) find(`${page.url()} is wider than ${width}`)
}
// Two of the four show each width and each scheme; all four take half a minute of processor more.
const wanted = [[1440, 'light'], [390, 'dark'], [1440, 'dark'], [390, 'light']].slice(0, process.env.SHOTS || process.env.ACTPASS_E2E_REQUIRE ? 4 : 2)
const screens = wanted.map(([width, colorScheme]) => ({ viewport: { width, height: 844 }, colorScheme, bypassCSP: true }))

for (const screen of screens) {
  const page = await visit(ADMIN, screen)
  for (const [path, row] of [['overview?last=720h'], ['policies'], ['keys'], ['passports'], ['events'], ['events?kind=action', true], ['approvals'], ['approvals', true], ['review?last=720h'], ['review?tool=nothing'], ['approvals?grants=all'], ['readiness?mode=strict&last=720h'], ['modes/new?mode=strict&tool=stripe.*']]) {
    await page.goto(BASE + '/ui/' + path)
    if (row) await Promise.all([page.waitForURL('**/ui/' + path.replace(/\?.*/, '') + '/*'), page.click('a.row')])
    await look(page, path + (row ? '_one' : ''))
  }
  await page.context().close()
}
const stage = { browser, visit, find, look, settled, screens, BASE, ADMIN, APPROVER, DIR, CALLS: Number(CALLS) }
await events(stage)
await review(stage)
await policies(stage)
await grants(stage)
await week(stage)
await first({ find, visit: (key, options) => visit(key, options, EMPTY), BASE: EMPTY, ADMIN: EMPTY_ADMIN })
await keyboard(stage)

// An admin issues a passport without script, and ends it; its token is shown once.
const issuer = await visit(ADMIN, { javaScriptEnabled: false, viewport: { width: 390, height: 844 } })
await issuer.goto(BASE + '/ui/passports')
for (const [name, value] of Object.entries({ agent_id: 'support_agent', tools: 'stripe.refund.create', resources: 'stripe:charge:*', max_amount: '5000', currency: 'usd', goal: '<img src=x onerror=alert(1)>' })) await issuer.fill(`form.form [name=${name}]`, value)
await issuer.click('text=Issue it')
const token = await issuer.textContent('#secret')
await issuer.click('.queue summary')
const listed = await issuer.textContent('.queue li')
if (!/may call stripe.refund.create.*amount at most 5000.*currency usd.*<img src=x onerror.*never used/s.test(listed)) find('the passport does not say what it is for: ' + listed)
await issuer.fill('.queue [name=reason]', 'a drill')
await issuer.click('.queue button.no')
const ended = await issuer.textContent('main')
if (!/revoked just now: “.*a drill/s.test(ended) || ended.includes(token)) find('the passport was not revoked, or its token is shown again')

// The overview says of each way out of a workload whether it is enforced.
const glance = await visit(APPROVER, { javaScriptEnabled: false })
await glance.goto(BASE + '/ui/overview')
const doctor = await glance.textContent('#doctor')
if (!/open.*tcp.*answered by somebody else/s.test(doctor) || !/enforced.*udp443/s.test(doctor)) find('the doctor is not on the overview: ' + doctor)
await glance.click('text=The report on record')
if (!/path\.tcp/.test(await glance.textContent('main'))) find('the report is not on record')

// One person approves on a phone without script; a second sees it vanish.
const watcher = await visit(ADMIN, {})
await watcher.goto(BASE + '/ui/approvals')
const before = await watcher.locator('.queue li').count()
if (before < 1) find('nothing waits')
const phone = await visit(APPROVER, { viewport: { width: 390, height: 844 }, javaScriptEnabled: false })
await phone.goto(BASE + '/ui/approvals')
await phone.click('.queue a.row')
await phone.fill('#reason', 'looked at it')
await phone.click('button.yes')
if (!/Your approval is on record/.test(await phone.textContent('main'))) find('the approval was not taken')
await watcher.waitForFunction((n) => document.querySelectorAll('.queue li').length === n - 1, before).catch(() => find('the second person still sees it'))

// An admin tightens a tool without script, sees it in force, and clears it.
const admin = await visit(ADMIN, { javaScriptEnabled: false })
await admin.goto(BASE + '/ui/readiness')
await admin.fill('.card [name=tool]', 'stripe.payout.*')
await admin.selectOption('.card [name=mode]', 'strict')
await admin.click('text=Next…')
await admin.fill('#reason', 'payouts first')
await admin.check('#confirm')
await admin.click('button.yes')
if (!/Tightened, from the next call on/.test(await admin.textContent('main'))) find('the mode was not set')
await admin.click('.queue summary')
await admin.click('text=Clear it')
if (!/Cleared\./.test(await admin.textContent('main')) || /payouts first/.test(await admin.textContent('main'))) find('the mode was not cleared')
await browser.close()
console.log(findings ? 'findings: ' + findings : 'fine')
