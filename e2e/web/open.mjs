// Leaves three pages open for SECONDS, and prints what each holds, a dozen times in
// all and at the beginning: a JSON list a line.
import { chromium } from 'playwright-core'

const { BASE, ADMIN, CHROMIUM, SECONDS } = process.env
const flags = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync']
const browser = await chromium.launch({ executablePath: CHROMIUM, args: flags })
const open = []
for (const page of ['overview', 'events', 'approvals']) {
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 } })
  const tab = await context.newPage()
  await tab.goto(BASE + '/ui/signin')
  await tab.fill('#key', ADMIN)
  await tab.click('button.primary')
  await tab.waitForSelector('nav')
  await tab.goto(BASE + '/ui/' + page)
  open.push({ page, tab, cdp: await context.newCDPSession(tab) })
}
for (const { cdp } of open) await cdp.send('Performance.enable')

async function look() {
  const seen = []
  for (const { page, tab, cdp } of open) {
    if (await tab.evaluate(() => document.hidden || !document.querySelector('[data-live-dot]:not(.off)'))) throw new Error(page + ' is not live')
    let least = null // a page that is being replaced holds both: the least of some looks
    for (let i = 0; i < 4; i++) {
      await cdp.send('HeapProfiler.collectGarbage')
      const { metrics } = await cdp.send('Performance.getMetrics')
      const of = (name) => metrics.find((m) => m.name === name).value
      const now = { page, heap: of('JSHeapUsedSize'), nodes: of('Nodes'), listeners: of('JSEventListeners') }
      if (!least || now.nodes < least.nodes) least = now
      await new Promise((done) => setTimeout(done, 300))
    }
    seen.push(least)
  }
  console.log(JSON.stringify(seen))
}

const began = Date.now()
await new Promise((done) => setTimeout(done, Math.min(30, SECONDS / 24) * 1000))
await look()
for (let i = 1; i <= 12; i++) {
  await new Promise((done) => setTimeout(done, Math.max(0, began + i * SECONDS / 12 * 1000 - Date.now())))
  await look()
}
await browser.close()
