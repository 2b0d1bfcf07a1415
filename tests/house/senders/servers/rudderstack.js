// node rudderstack.js URL KEY MARK gzip|plain: every call of @rudderstack/rudder-sdk-node.
const Analytics = require('@rudderstack/rudder-sdk-node').default ?? require('@rudderstack/rudder-sdk-node');

async function main(dataPlaneUrl, writeKey, mark, encoding) {
  const analytics = new Analytics(writeKey, { dataPlaneUrl, gzip: encoding === 'gzip', flushAt: 20, retryCount: 2 });
  const who = { userId: 'user-node', anonymousId: 'anonymous-node' };
  const context = { consent: { categoryPreferences: { analytics: true, marketing: false } }, locale: 'de-AT', page: { url: `https://shop.example/?case=${mark}` } };
  analytics.identify({ ...who, traits: { plan: 'gold', email: 'ada@shop.example' }, context });
  analytics.page({ ...who, name: 'Red shoes', properties: { shelf: 'left' }, context });
  analytics.screen({ ...who, name: 'Cart', properties: { shelf: 'left' }, context });
  analytics.track({
    ...who, event: 'Order Completed', context,
    properties: { order_id: 'o-1', revenue: 39.8, currency: 'EUR', products: [{ product_id: 'p-1', name: 'Shoe', price: 19.9, quantity: 2 }] },
  });
  analytics.group({ ...who, groupId: 'company-1', traits: { seats: 7 }, context });
  analytics.alias({ userId: 'user-node', previousId: 'anonymous-node', context });
  await analytics.flush();
}

main(...process.argv.slice(2));
