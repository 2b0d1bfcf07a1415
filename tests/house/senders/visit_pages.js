// Visits pages at once, each in a browser session of its own: node visit_pages.js BROWSER URL...
// Prints one line, a JSON array with a report a page: what its script threw, what it logged, and what became of each request.
// The sessions stay open until the input ends: a browser that closes drops the beacons of the pages that were left.
const { chromium } = require('playwright-core');

const PAGE_MS = 30_000;
const QUIET_MS = 500;
const DEVICE = {
  locale: 'de-AT',
  timezoneId: 'Europe/Vienna',
  screen: { width: 1366, height: 768 },
  viewport: { width: 1200, height: 700 },
};
// Without a window Chromium names itself HeadlessChrome, a crawler. An option reaches beacons of pages that were left too.
const AGENT = 'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36';

// The requests of a session: which are under way, and what became of the others.
class Traffic {
  constructor(context, requests) {
    this.pending = new Set();
    this.changed = Date.now();
    const end = (request, outcome) => {
      requests.push(`${request.method()} ${request.url()} ${outcome}`);
      this.pending.delete(request);
      this.changed = Date.now();
    };
    context.on('request', (request) => { this.pending.add(request); this.changed = Date.now(); });
    context.on('requestfailed', (request) => end(request, request.failure()?.errorText));
    context.on('requestfinished', async (request) => end(request, (await request.response())?.status()));
  }

  // SDKs send after their calls have returned.
  async waitQuiet(page) {
    const deadline = Date.now() + PAGE_MS;
    while (this.pending.size || Date.now() - this.changed < QUIET_MS) {
      if (Date.now() > deadline) throw new Error(`requests never ended: ${[...this.pending].map((request) => request.url())}`);
      await page.waitForTimeout(50);
    }
  }
}

async function visit(browser, url) {
  const report = { url, errors: [], logs: [], requests: [] };
  const context = await browser.newContext(DEVICE);
  context.setDefaultTimeout(PAGE_MS);
  const traffic = new Traffic(context, report.requests);
  const page = await context.newPage();
  page.on('pageerror', (error) => report.errors.push(String(error)));
  page.on('console', (message) => report.logs.push(`${message.type()}: ${message.text()}`));
  try {
    await page.goto(url);
    await page.evaluate('window.finished');
    await traffic.waitQuiet(page);
    await page.goto('about:blank'); // leaving a page is when SDKs send what they still have
  } catch (error) {
    report.errors.push(String(error));
  }
  return report;
}

async function main([executablePath, ...urls]) {
  const browser = await chromium.launch({ executablePath, args: ['--disable-dev-shm-usage', `--user-agent=${AGENT}`] });
  const reports = await Promise.all(urls.map((url) => visit(browser, url)));
  console.log(JSON.stringify(reports));
  for await (const _ of process.stdin);
  await browser.close();
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exit(1);
});
