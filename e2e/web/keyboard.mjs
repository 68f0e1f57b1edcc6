// Nothing but keys: in, to an event through the filter, and a word on an approval.
export async function keyboard({ find, browser, BASE, APPROVER }) {
  const context = await browser.newContext()
  const page = await context.newPage()
  page.setDefaultTimeout(10000)
  const key = page.keyboard
  // tab goes on until what has the focus matches, as a person would.
  const tab = async (what, selector) => {
    for (let i = 0; i < 60; i++) {
      await key.press('Tab')
      if (await page.evaluate((s) => document.activeElement?.matches(s), selector)) return
    }
    find('no tab leads to ' + what)
  }
  const opens = (path, act) => Promise.all([page.waitForURL(path), act()])
  await page.goto(BASE + '/ui/events') // the way back is kept over the sign-in
  await key.type(APPROVER) // the field has the focus
  await opens('**/ui/events', () => key.press('Enter'))
  await key.press('Tab')
  if (!await page.evaluate(() => document.activeElement.matches('.skip') && document.activeElement.getBoundingClientRect().top >= 0)) find('the first tab is not the way past the navigation, in sight')
  await key.press('/')
  await key.type('stripe.refund.*')
  await opens(/tool=stripe\.refund\./, () => key.press('Enter'))
  for (const k of ['j', 'j', 'k', 'j']) await key.press(k)
  const id = await page.evaluate(() => document.activeElement.id)
  if (!id.startsWith('ev_') || id !== await page.locator('a.row').nth(1).getAttribute('id')) find('j and k do not go through the rows')
  await opens('**/ui/events/' + id, () => key.press('Enter'))
  await tab('the approvals', 'a[href="/ui/approvals"]')
  await opens('**/ui/approvals', () => key.press('Enter'))
  await key.press('j')
  await opens('**/ui/approvals/apr_*', () => key.press('Enter'))
  await tab('the reason', '#reason')
  await key.type('not by keys alone')
  await tab('the denial', 'button.no[value=deny]')
  await opens(/done=deny/, () => key.press('Enter'))
  if (!/Denied\. The call will not be sent\..*not by keys alone/s.test(await page.textContent('main'))) find('the word was not taken')
  await context.close()
}
