// The story of a week in monitor, on the seeded traffic: what stricter modes would have
// stopped, the calls behind a line of it, an older page, a review and readiness. Without
// script.
export async function week({ visit, find, settled, BASE, APPROVER, CALLS }) {
  const page = await visit(APPROVER, { javaScriptEnabled: false })
  const says = async (what, ...wanted) => {
    const text = (await page.textContent('main')).replace(/\s+/g, ' ')
    for (const w of wanted) if (!w.test(text)) find(`${what} does not say ${w}: ${text.slice(0, 600)}`)
  }
  await page.goto(BASE + '/ui/overview')
  await page.click('text=30 days')
  await says('the overview', /Let through, and a stricter mode would have stopped it/, /github\.repo\.delete/, /triage_agent/)
  const total = Number((await page.textContent('.tiles b')).replace(/\D/g, ''))
  if (total < CALLS) find(`the overview has ${total} calls of ${CALLS}`)
  if (await page.locator('.chart.wide rect').count() < 7) find('the chart does not show a week')

  await page.click('a:has-text("github.repo.delete")')
  const filter = new URL(page.url()).searchParams
  if (filter.get('tool') !== 'github.repo.delete') find('the filter is not in the address: ' + page.url())
  await page.click('a.row')
  await says('the event', /triage_agent called github\.repo\.delete/, /In enforce, the sidecar would have blocked it/)

  await page.goto(BASE + '/ui/events?tool=slack.*&agent_id=report_agent')
  const ids = () => page.locator('a.row').evaluateAll((rows) => rows.map((r) => r.id))
  const first = await ids()
  await page.click('text=Older')
  const second = await ids()
  if (first.length < 20 || second.length < 20 || second.some((id) => first.includes(id))) find('the second page is not one')

  await page.goto(BASE + '/ui/review?last=720h')
  const reports = page.locator('.group', { hasText: 'C0REPORTS' }).first()
  await reports.getByText('They are right: accept').click()
  await settled(page)
  await says('the review', /The rule accepted_[0-9a-f]{8}/, /args\.channel in \["C0CUSTOMERS", "C0REPORTS"\]/, /Download review\.patch/)

  await page.goto(BASE + '/ui/readiness?last=720h&mode=strict&agent_id=report_agent')
  await says('readiness', /not ready for strict/, /slack\.message\.send/, /[78] days seen/, /would be blocked for want of a good passport/, /Review what it would stop/)
  await page.context().close()
}
