// Vectors of IAB GPP strings, made and decoded again by the official library. The same seed gives the same file:
//   npm ci && node generate.mjs > vectors.json
import { GppModel } from './node_modules/@iabgpp/cmpapi/lib/mjs/encoder/index.js'; // the package exports it not
import { RangeEntry } from './node_modules/@iabgpp/cmpapi/lib/mjs/encoder/datatype/RangeEntry.js';

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
const pairs = (n) => Array.from({ length: n }, () => below(3));
const ids = (max, share) => Array.from({ length: max }, (_, i) => i + 1).filter(() => random() < share);

const US = {
  usnat: 7, usca: 8, usva: 9, usco: 10, usut: 11, usct: 12, usfl: 13, usmt: 14, usor: 15, ustx: 16, usde: 17, usia: 18, usne: 19,
  usnh: 20, usnj: 21, ustn: 22, usmn: 23, usmd: 24, usin: 25, usky: 26, usri: 27,
};
const NOTICES = ['SharingNotice', 'ProcessingNotice', 'SaleOptOutNotice', 'SharingOptOutNotice', 'TargetedAdvertisingOptOutNotice'];
const OPT_OUTS = ['SaleOptOut', 'SharingOptOut', 'TargetedAdvertisingOptOut'];
const FURTHER = ['PersonalDataConsents', 'AdditionalDataProcessingConsent'];
const MSPA = ['MspaCoveredTransaction', 'MspaOptOutOptionMode', 'MspaServiceProviderMode', 'MspaMode'];
const OTHERS = ['SensitiveDataProcessingOptOutNotice', 'SensitiveDataOptOutNotice', 'SensitiveDataLimitUseNotice'];
const SENSITIVE = 'SensitiveDataProcessing', CHILDREN = 'KnownChildSensitiveDataConsents';
const SEGMENT = 'SensitiveDataConsentSegmentIncluded';

function section(model, name) { // random values in every field that the section has
  model.setFieldValue(name, 'SaleOptOut', 0); // makes the section, so that it tells which fields it has
  const version = name === 'usnat' ? pick([1, 2]) : 1;
  if (name === 'usnat') model.setFieldValue(name, 'Version', version);
  const share = pick([0.1, 0.5]); // of fields that are not "no": else nearly everything would object
  const value = () => (random() < share ? below(3) : pick([0, 2]));
  for (const field of [...OPT_OUTS, ...FURTHER, ...OTHERS]) if (model.hasField(name, field)) model.setFieldValue(name, field, value());
  for (const field of NOTICES) if (model.hasField(name, field)) model.setFieldValue(name, field, random() < share ? below(3) : pick([0, 1]));
  for (const field of MSPA) if (model.hasField(name, field)) model.setFieldValue(name, field, field === MSPA[0] ? 1 + below(2) : below(3));
  for (const field of [SENSITIVE, CHILDREN]) {
    if (!(field in fresh(name))) continue;
    const old = fresh(name)[field];
    const values = list(old).map(value);
    if (name === 'usnat' && version === 1) values.fill(0, field === SENSITIVE ? 12 : 2);
    model.setFieldValue(name, field, Array.isArray(old) ? values : values[0]);
  }
  if (SEGMENT in fresh(name)) model.setFieldValue(name, SEGMENT, random() < 0.5);
  if ('Gpc' in fresh(name)) {
    const included = random() < 0.6;
    model.setFieldValue(name, 'GpcSegmentIncluded', included);
    if (included) model.setFieldValue(name, 'Gpc', random() < share);
  }
}

const blank = {};
function fresh(name) { // the section's fields as the library fills them in
  if (!blank[name]) {
    const model = new GppModel();
    model.setFieldValue(name, 'SaleOptOut', 0);
    blank[name] = model.getSection(name);
  }
  return blank[name];
}

function tcf(model) {
  model.setFieldValue('tcfeuv2', 'CmpId', 2 + below(500));
  model.setFieldValue('tcfeuv2', 'PurposeConsents', Array.from({ length: 24 }, () => random() < 0.5));
  model.setFieldValue('tcfeuv2', 'VendorConsents', ids(below(60), 0.5));
  model.setFieldValue('tcfeuv2', 'IsServiceSpecific', true);
  const day = new Date(Date.UTC(2026, 0, 1 + below(300)));
  for (const field of ['Created', 'LastUpdated']) model.setFieldValue('tcfeuv2', field, day);
}

function canada(model) {
  const set = (field, value) => model.setFieldValue('tcfcav1', field, value);
  const purposes = (share) => Array.from({ length: 24 }, () => random() < share);
  const vendors = () => pick([() => [], () => ids(60, 0.5), () => ids(1200, 0.01), () => ids(300, 1)])();
  set('CmpId', 2 + below(500));
  set('CmpVersion', below(100));
  set('VendorListVersion', below(300));
  set('SpecialFeatureExpressConsent', Array.from({ length: 12 }, () => random() < 0.3));
  set('PurposesExpressConsent', purposes(pick([0, 0.5, 1])));
  set('PurposesImpliedConsent', purposes(pick([0, 0.5, 1])));
  set('VendorExpressConsent', vendors());
  set('VendorImpliedConsent', vendors());
  if (random() < 0.3) set('DisclosedVendors', vendors());
  if (random() < 0.3) {
    set('NumCustomPurposes', 2);
    set('CustomPurposesExpressConsent', [true, false]);
    set('CustomPurposesImpliedConsent', [false, true]);
  }
  if (random() < 0.3) {
    const restricted = ids(11, 0.2);
    set('PubRestrictions', restricted.map((purpose) => new RangeEntry(purpose, below(3), ids(200, pick([0.02, 0.5])))));
  }
  const day = Date.UTC(2026, 0, 1 + below(300));
  set('Created', new Date(day));
  set('LastUpdated', new Date(day + below(3) * 86400000));
}

const has = (object, fields) => fields.filter((field) => field in object).map((field) => object[field]);
const list = (value) => (Array.isArray(value) ? value : [value]);

function read(model, name, text) { // as the tests' sections are
  const fields = model.getSection(name);
  const gpc = 'Gpc' in fields && model.getFieldValue(name, 'GpcSegmentIncluded') ? fields.Gpc : null;
  const of = (field) => (field in fields ? list(model.getFieldValue(name, field)) : []);
  const sensitive = SEGMENT in fields && !text.includes('.') ? [] : of(SENSITIVE);
  return [US[name], fields.Version ?? fields.MspaVersion, has(fields, NOTICES), has(fields, OPT_OUTS), sensitive,
    of(CHILDREN), has(fields, FURTHER)[0] ?? 0, has(fields, MSPA), gpc];
}

function readCanada(model) {
  const get = (field) => model.getFieldValue('tcfcav1', field);
  const bits = (field) => get(field).reduce((sum, bit) => 2 * sum + (bit ? 1 : 0), 0);
  return [get('Created').getTime(), get('LastUpdated').getTime(), get('CmpId'), bits('PurposesExpressConsent'), bits('PurposesImpliedConsent'),
    get('PubRestrictions').map((entry) => entry.getKey())];
}

function one() {
  const made = new GppModel();
  for (const name of Object.keys(US)) if (random() < (US[name] === 7 ? 0.4 : US[name] === 8 ? 0.3 : 0.08)) section(made, name);
  if (random() < 0.3) {
    made.setFieldValue('uspv1', 'Version', 1);
    for (const field of ['Notice', 'OptOutSale', 'LspaCovered']) made.setFieldValue('uspv1', field, pick(['Y', 'N', '-']));
  }
  if (random() < 0.2) tcf(made);
  if (random() < 0.15) canada(made);
  let text = made.encode();
  let model = new GppModel(text);
  const sections = model.getSectionIds();
  const part = (id) => text.split('~')[1 + sections.indexOf(id)];
  if (sections.includes(7) && part(7).startsWith('C') && random() < 0.2) { // the longer section under the older version
    text = text.split('~').map((piece, at) => (at === 1 + sections.indexOf(7) ? 'B' + piece.slice(1) : piece)).join('~');
  } else if (sections.includes(7) && part(7).startsWith('B') && random() < 0.2) { // the shorter one without padding
    text = text.split('~').map((piece, at) => (at === 1 + sections.indexOf(7) ? piece.replace(/^(.{10})A/, '$1') : piece)).join('~');
  }
  const us = Object.entries(US).filter(([, id]) => sections.includes(id)).map(([name, id]) => read(model, name, part(id)));
  if (sections.includes(7)) us[0][1] = part(7).startsWith('C') ? 2 : 1;
  return {
    text, ids: sections, us,
    usp: sections.includes(6) ? part(6) : '',
    usp_read: sections.includes(6) ? ['Notice', 'OptOutSale', 'LspaCovered'].map((field) => model.getFieldValue('uspv1', field)).join('') : '',
    tc: sections.includes(2) ? part(2) : '',
    canada: sections.includes(5) ? readCanada(model) : null,
  };
}

process.stdout.write('[\n' + Array.from({ length: N }, () => JSON.stringify(one())).join(',\n') + '\n]\n');
