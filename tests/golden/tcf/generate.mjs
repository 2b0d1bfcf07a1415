// Vectors of IAB TCF strings, made and decoded again by the official library. The same seed gives the same file:
//   npm ci && node generate.mjs > vectors.json
import { GVL, PurposeRestriction, Segment, TCModel, TCString } from '@iabtechlabtcf/core';

const N = 2000;
let state = 20261124;
function random() { // mulberry32
  state = (state + 0x6d2b79f5) | 0;
  let t = Math.imul(state ^ (state >>> 15), 1 | state);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
}
const below = (n) => Math.floor(random() * n);
const pick = (list) => list[below(list.length)];
const ids = (max, share) => Array.from({ length: max }, (_, i) => i + 1).filter(() => random() < share);

const VENDORS = 1600;
const purposes = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];
const vendors = {};
for (let id = 1; id <= VENDORS; id++) {
  if (id > 20 && random() < 0.35) continue; // many ids are gone from the lists of these years
  const basis = purposes.map((p) => [p, random()]);
  vendors[id] = {
    id, name: `Vendor ${id}`,
    purposes: basis.filter(([p, r]) => r < 0.6 || p === 1).map(([p]) => p),
    legIntPurposes: basis.filter(([p, r]) => r >= 0.6 && ![1, 3, 4, 5, 6].includes(p)).map(([p]) => p),
    flexiblePurposes: basis.filter(([p]) => p !== 1 && random() < 0.7).map(([p]) => p),
    specialPurposes: [], features: [], specialFeatures: [], cookieMaxAgeSeconds: 3600, usesCookies: true,
    cookieRefresh: false, usesNonCookieAccess: false,
  };
}
const named = (n) => Object.fromEntries(Array.from({ length: n }, (_, i) => [i + 1, { id: i + 1, name: `n${i + 1}`, description: '', illustrations: [] }]));
const list = {
  gvlSpecificationVersion: 3, vendorListVersion: 200, tcfPolicyVersion: 5, lastUpdated: '2026-01-01T00:00:00Z',
  purposes: named(11), specialPurposes: named(3), features: named(3), specialFeatures: named(2), stacks: {}, dataCategories: {},
  vendors,
};
const gvls = [[2, 17], [4, 190], [4, 210], [5, 211], [5, 250], [5, 300]].map(([tcfPolicyVersion, vendorListVersion]) =>
  new GVL({ ...list, tcfPolicyVersion, vendorListVersion }));

function vendorSet() {
  const max = pick([20, 700, 1000, 1400, VENDORS]); // the lists of these years name 700 to 1,600 vendors
  const kind = below(5);
  if (kind === 0) return [];
  if (kind === 1) return ids(max, 0.01);
  if (kind === 2) return ids(max, 0.5);
  if (kind === 3) return ids(max, 1);
  const first = 1 + below(max);
  return Array.from({ length: Math.min(max - first + 1, 1 + below(300)) }, (_, i) => first + i);
}

function bits(vector) { // hexadecimal, bit n = id n
  let found = 0n;
  vector.forEach((value, id) => { if (value) found |= 1n << BigInt(id); });
  return found.toString(16);
}

function one() {
  const gvl = pick(gvls);
  const model = new TCModel(gvl);
  model.cmpId = 2 + below(600);
  model.cmpVersion = 1 + below(300);
  model.consentScreen = below(30);
  model.isServiceSpecific = random() < 0.8;
  model.useNonStandardTexts = random() < 0.2;
  model.purposeOneTreatment = random() < 0.15;
  model.publisherCountryCode = pick(['DE', 'FR', 'AA', 'GB', 'PL']);
  const day = 86400000;
  const created = Math.floor(Date.UTC(2023, 0, 1) / day) * day + below(1400) * day;
  model.created = new Date(created);
  model.lastUpdated = new Date(created + below(3) * day);
  model.purposeConsents.set(ids(11, random()));
  model.purposeLegitimateInterests.set(ids(11, random()));
  model.specialFeatureOptins.set(ids(2, 0.5));
  model.publisherConsents.set(ids(11, 0.5));
  model.publisherLegitimateInterests.set(ids(11, 0.5));
  if (random() < 0.3) {
    model.numCustomPurposes = 1 + below(20);
    model.publisherCustomConsents.set(ids(model.numCustomPurposes, 0.5));
    model.publisherCustomLegitimateInterests.set(ids(model.numCustomPurposes, 0.5));
  }
  model.vendorConsents.set(vendorSet());
  model.vendorLegitimateInterests.set(vendorSet());
  model.vendorsDisclosed.set(vendorSet());
  model.vendorsAllowed.set(vendorSet());
  model.publisherRestrictions.gvl = gvl;
  if (random() < 0.5) {
    for (let i = below(5); i >= 0; i--) {
      const restriction = new PurposeRestriction(pick(purposes), below(3));
      const first = 1 + below(VENDORS - 40);
      for (let v = first; v < first + 1 + below(40); v++) if (random() < 0.8) model.publisherRestrictions.add(v, restriction);
    }
  }
  const extra = [Segment.VENDORS_DISCLOSED, Segment.VENDORS_ALLOWED, Segment.PUBLISHER_TC].filter(() => random() < 0.6);
  for (let i = extra.length - 1; i > 0; i--) {
    const j = below(i + 1);
    [extra[i], extra[j]] = [extra[j], extra[i]];
  }
  let text = TCString.encode(model, { segments: [Segment.CORE, ...extra] });
  if (random() < 0.3) text = text.split('.').map((part) => part + 'A'.repeat(below(3))).join('.');
  const found = TCString.decode(text);
  const restrictions = [];
  for (const r of found.publisherRestrictions.getRestrictions()) {
    restrictions.push([r.purposeId, r.restrictionType, bitsOf(found.publisherRestrictions.getVendors(r))]);
  }
  return {
    text,
    created: found.created.getTime(), last_updated: found.lastUpdated.getTime(),
    cmp: [found.cmpId, found.cmpVersion], gvl: found.vendorListVersion, policy: found.policyVersion,
    specific: found.isServiceSpecific, one: found.purposeOneTreatment,
    features: bits(found.specialFeatureOptins), consent: bits(found.purposeConsents), li: bits(found.purposeLegitimateInterests),
    vendors: bits(found.vendorConsents), vendors_li: bits(found.vendorLegitimateInterests),
    disclosed: extra.includes(Segment.VENDORS_DISCLOSED) ? bits(found.vendorsDisclosed) : null,
    restrictions,
  };
}

function bitsOf(list) {
  let found = 0n;
  for (const id of list) found |= 1n << BigInt(id);
  return found.toString(16);
}

process.stdout.write('[\n' + Array.from({ length: N }, () => JSON.stringify(one())).join(',\n') + '\n]\n');
