// The pages work without this. With it they stay current: the stream says that
// something changed, the page fetches itself, and what differs is exchanged.
const root = document.body
const address = root.dataset.stream
const slowest = 30000 // ms between looks when nothing happens: ages on the page go on
let stream = null
let busy = false
let again = false
let last = 0
let slow = 0
let more = 'again' in root.dataset // what is shown is not all yet

function edited(region) {
  return [...region.querySelectorAll('input:not([type=hidden]), textarea, select')].some((f) => f === document.activeElement || f.value !== f.defaultValue && f.tagName !== 'SELECT')
}

function exchange(fresh) {
  for (const region of document.querySelectorAll('[data-live]')) {
    const next = fresh.getElementById(region.id)
    if (!next || region.innerHTML === next.innerHTML) continue
    // A reason that somebody is writing stays, unless there is nothing left to decide.
    if (edited(region) && next.querySelector('form')) continue
    // What somebody has opened stays open.
    const open = [...region.querySelectorAll('details[id]')].map((d) => [d.id, d.open])
    const focus = region.contains(document.activeElement) ? document.activeElement.id : ''
    region.replaceChildren(...document.importNode(next, true).childNodes)
    for (const [id, was] of open) document.getElementById(id)?.toggleAttribute('open', was)
    if (focus) document.getElementById(focus)?.focus({ preventScroll: true })
    copies(region)
  }
  const was = more
  more = 'again' in fresh.body.dataset
  if (was && !more && location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView()
  document.title = fresh.title
  announce()
}

async function refresh() {
  if (busy) { again = true; return }
  busy = true
  try {
    const answer = await fetch(location.href, { headers: { 'ActPass-Fragment': '1' }, redirect: 'error' })
    if (answer.status === 401) return leave()
    if (answer.ok) exchange(new DOMParser().parseFromString(await answer.text(), 'text/html'))
  } catch { /* the next ping tries again */ } finally {
    last = Date.now()
    busy = false
    if (more) soon()
    if (again) { again = false; setTimeout(soon, 0) }
  }
}

// soon fetches at most once a second, however much happens.
let waiting = 0
function soon() {
  if (waiting) return
  waiting = setTimeout(() => { waiting = 0; refresh() }, Math.max(0, 1000 - (Date.now() - last)))
}

function leave() {
  disconnect()
  location.reload() // to the sign-in, and back here
}

function dot(on) {
  for (const d of document.querySelectorAll('[data-live-dot]')) d.classList.toggle('off', !on)
}

function connect() {
  if (!address || stream || document.hidden) return
  stream = new EventSource(address)
  stream.addEventListener('hello', () => { dot(true); soon() })
  stream.addEventListener('changed', soon)
  stream.addEventListener('signed-out', leave)
  stream.onerror = () => {
    dot(false)
    if (stream?.readyState === EventSource.CLOSED) { disconnect(); setTimeout(connect, 15000) }
  }
  slow = setInterval(soon, slowest)
}

function disconnect() {
  stream?.close()
  stream = null
  clearInterval(slow)
}

// A hidden page keeps no connection; it catches up when it is looked at. Pages
// that may notify stay connected.
document.addEventListener('visibilitychange', () => {
  if (document.hidden && !wanted()) disconnect()
  else connect()
})
addEventListener('pagehide', disconnect)
addEventListener('pageshow', connect)

// Notification of approvals, for who asked for it.
function wanted() {
  return 'Notification' in window && Notification.permission === 'granted' && localStorage.getItem('actpass-notify') === '1'
}
let known = count()
function count() { return Number(document.querySelector('[data-pending]')?.dataset.pending || 0) }
function announce() {
  const now = count()
  if (now > known && document.hidden && wanted()) {
    new Notification('ActPass', { body: now === 1 ? 'A call waits for approval.' : now + ' calls wait for approval.', tag: 'actpass-approvals' })
  }
  known = now
}
for (const button of document.querySelectorAll('[data-notify]')) {
  if (!('Notification' in window) || !window.isSecureContext || Notification.permission === 'denied') continue
  const label = () => { button.textContent = wanted() ? 'Notifications on' : 'Notify me'; button.setAttribute('aria-pressed', String(wanted())) }
  button.hidden = false
  label()
  button.addEventListener('click', async () => {
    if (wanted()) localStorage.removeItem('actpass-notify')
    else if (await Notification.requestPermission() === 'granted') localStorage.setItem('actpass-notify', '1')
    label()
  })
}

function copies(within) {
  for (const button of navigator.clipboard ? within.querySelectorAll('[data-copy]') : []) {
    button.hidden = false
    button.addEventListener('click', async () => {
      await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent)
      button.textContent = 'Copied'
      setTimeout(() => { button.textContent = 'Copy' }, 1500)
    })
  }
}
copies(document)

// Keys: / to the filter, j and k through rows.
document.addEventListener('keydown', (e) => {
  if (e.ctrlKey || e.metaKey || e.altKey || e.target.closest('input, textarea, select')) return
  if (e.key === '/') {
    const field = document.querySelector('.filters input')
    if (field) { e.preventDefault(); field.focus() }
  } else if (e.key === 'j' || e.key === 'k') {
    const rows = [...document.querySelectorAll('a.row')]
    const at = rows.indexOf(document.activeElement)
    rows[Math.min(rows.length - 1, Math.max(0, at + (e.key === 'j' ? 1 : -1)))]?.focus()
  }
})

connect()
if (more) { last = Date.now(); soon() }
