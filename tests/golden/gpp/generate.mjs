// Vectors of IAB GPP strings, made and decoded again by the official library. The same seed gives the same file:
//   npm ci && node generate.mjs > vectors.json
import { GppModel } from './node_modules/@iabgpp/cmpapi/lib/mjs/encoder/index.js'; // the package exports it not

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

const NAT = ['SharingNotice', 'SaleOptOutNotice', 'SharingOptOutNotice', 'TargetedAdvertisingOptOutNotice',
  'SensitiveDataProcessingOptOutNotice', 'SensitiveDataLimitUseNotice', 'SaleOptOut', 'SharingOptOut', 'TargetedAdvertisingOptOut',
  'PersonalDataConsents', 'MspaOptOutOptionMode', 'MspaServiceProviderMode'];
const CA = ['SaleOptOutNotice', 'SharingOptOutNotice', 'SensitiveDataLimitUseNotice', 'SaleOptOut', 'SharingOptOut',
  'PersonalDataConsents', 'MspaOptOutOptionMode', 'MspaServiceProviderMode'];

function national(model) {
  const version = pick([1, 2]);
  model.setFieldValue('usnat', 'Version', version);
  for (const name of NAT) model.setFieldValue('usnat', name, below(3));
  model.setFieldValue('usnat', 'MspaCoveredTransaction', 1 + below(2));
  model.setFieldValue('usnat', 'SensitiveDataProcessing', version === 1 ? [...pairs(12), 0, 0, 0, 0] : pairs(16));
  model.setFieldValue('usnat', 'KnownChildSensitiveDataConsents', version === 1 ? [...pairs(2), 0] : pairs(3));
  gpc(model, 'usnat');
}

function california(model) {
  for (const name of CA) model.setFieldValue('usca', name, below(3));
  model.setFieldValue('usca', 'MspaCoveredTransaction', 1 + below(2));
  model.setFieldValue('usca', 'SensitiveDataProcessing', pairs(9));
  model.setFieldValue('usca', 'KnownChildSensitiveDataConsents', pairs(2));
  gpc(model, 'usca');
}

function gpc(model, section) {
  const included = random() < 0.6;
  model.setFieldValue(section, 'GpcSegmentIncluded', included);
  if (included) model.setFieldValue(section, 'Gpc', random() < 0.5);
}

function tcf(model) {
  model.setFieldValue('tcfeuv2', 'CmpId', 2 + below(500));
  model.setFieldValue('tcfeuv2', 'PurposeConsents', Array.from({ length: 24 }, () => random() < 0.5));
  model.setFieldValue('tcfeuv2', 'VendorConsents', Array.from({ length: below(60) }, (_, i) => i + 1).filter(() => random() < 0.5));
  model.setFieldValue('tcfeuv2', 'IsServiceSpecific', true);
}

const OTHERS = { usva: 9, usco: 10, usut: 11, usct: 12, usfl: 13, usmt: 14 };
const LISTS = { notices: ['SaleOptOutNotice', 'SharingOptOutNotice', 'TargetedAdvertisingOptOutNotice'],
  opt_outs: ['SaleOptOut', 'SharingOptOut', 'TargetedAdvertisingOptOut'],
  mspa: ['MspaCoveredTransaction', 'MspaOptOutOptionMode', 'MspaServiceProviderMode'] };

function section(model, name, id) {
  const get = (field) => model.getFieldValue(name, field);
  const list = (fields) => fields.map(get).filter((value) => value !== undefined && value !== null);
  const own = name === 'usca' ? (fields) => list(fields.filter((field) => !field.startsWith('Targeted'))) : list;
  return [id, get('Version'), own(LISTS.notices), own(LISTS.opt_outs), get('SensitiveDataProcessing'),
    get('KnownChildSensitiveDataConsents'), get('PersonalDataConsents'), own(LISTS.mspa),
    get('GpcSegmentIncluded') ? get('Gpc') : null];
}

function one() {
  const made = new GppModel();
  if (random() < 0.6) national(made);
  if (random() < 0.5) california(made);
  if (random() < 0.4) made.setFieldValue('uspv1', 'Version', 1), made.setFieldValue('uspv1', 'Notice', pick(['Y', 'N', '-'])),
    made.setFieldValue('uspv1', 'OptOutSale', pick(['Y', 'N', '-'])), made.setFieldValue('uspv1', 'LspaCovered', pick(['Y', 'N', '-']));
  if (random() < 0.3) tcf(made);
  for (const name of Object.keys(OTHERS)) if (random() < 0.1) made.setFieldValue(name, 'SaleOptOut', below(3));
  const text = made.encode();
  const model = new GppModel(text);
  const ids = model.getSectionIds();
  return {
    text, ids,
    us: [[7, 'usnat'], [8, 'usca']].filter(([id]) => ids.includes(id)).map(([id, name]) => section(model, name, id)),
    usp: ids.includes(6) ? model.getSection('uspv1') && text.split('~')[1 + ids.indexOf(6)] : '',
    usp_read: ids.includes(6) ? [model.getFieldValue('uspv1', 'Notice'), model.getFieldValue('uspv1', 'OptOutSale'), model.getFieldValue('uspv1', 'LspaCovered')].join('') : '',
    tc: ids.includes(2) ? text.split('~')[1 + ids.indexOf(2)] : '',
  };
}

process.stdout.write('[\n' + Array.from({ length: N }, () => JSON.stringify(one())).join(',\n') + '\n]\n');
