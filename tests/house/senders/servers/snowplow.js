// node snowplow.js URL KEY MARK post|get: events of @snowplow/node-tracker.
const { newTracker, buildPageView, buildScreenView, buildSelfDescribingEvent, buildStructEvent } = require('@snowplow/node-tracker');

const CONSENT = { schema: 'iglu:com.headwater/consent/jsonschema/1-0-0', data: { 'cmp.analytics': 'granted', 'cmp.marketing': 'denied' } };

async function main(endpoint, appId, mark, eventMethod) {
  const failures = [];
  const tracker = newTracker(
    { namespace: 'sp', appId },
    { endpoint, eventMethod, bufferSize: 3, onRequestFailure: (failure) => failures.push(failure.message) },
  );
  tracker.setUserId('user-node');
  tracker.setLang('de-AT');
  tracker.setScreenResolution(1366, 768);
  const page = `https://shop.example/?case=${mark}`;
  tracker.addPayloadPair('url', page);
  tracker.track(buildPageView({ pageUrl: page, pageTitle: 'Red shoes' }), [CONSENT]);
  tracker.track(buildScreenView({ id: '1', name: 'Cart' }), [CONSENT]);
  tracker.track(buildSelfDescribingEvent({ event: { schema: 'iglu:example.shop/size_chosen/jsonschema/1-0-0', data: { size: 42 } } }), [CONSENT]);
  tracker.track(buildStructEvent({ category: 'shelf', action: 'opened', label: 'left' }), [CONSENT]);
  await tracker.flush();
  if (failures.length) throw new Error(failures.join('; '));
}

main(...process.argv.slice(2));
