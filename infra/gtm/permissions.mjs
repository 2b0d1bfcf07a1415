// Permissions that the APIs of a server container need, and checks that a template declares exactly those that its code uses.

import { walk } from './syntax.mjs';

const NEEDS = {
  read_event_data: ['getAllEventData', 'getEventData'],
  read_request: [
    'getRemoteAddress', 'getRequestBody', 'getRequestHeader', 'getRequestMethod', 'getRequestPath',
    'getRequestQueryParameter', 'getRequestQueryParameters', 'getRequestQueryString', 'extractEventsFromMpv1',
    'extractEventsFromMpv2', 'isRequestMpv1', 'isRequestMpv2',
  ],
  get_cookies: ['getCookieValues'],
  set_cookies: ['setCookie'],
  send_http: ['sendHttpGet', 'sendHttpRequest', 'sendEventToGoogleAnalytics'],
  send_pixel_from_browser: ['sendPixelFromBrowser'],
  logging: ['logToConsole'],
  read_container_data: ['getContainerVersion'],
  access_response: ['setPixelResponse', 'setResponseBody', 'setResponseHeader', 'setResponseStatus'],
  access_template_storage: ['templateDataStorage'],
  access_firestore: ['Firestore'],
  access_bigquery: ['BigQuery'],
  use_message: ['addMessageListener', 'hasMessageListener', 'sendMessage'],
  use_google_credentials: ['getGoogleAuth'],
  return_response: ['returnResponse'],
  run_container: ['runContainer'],
};
const FREE = [
  'addEventCallback', 'callLater', 'claimRequest', 'computeEffectiveTldPlusOne', 'createRegex', 'decodeUri', 'decodeUriComponent',
  'encodeUri', 'encodeUriComponent', 'fromBase64', 'generateRandom', 'getClientName', 'getTimestamp', 'getTimestampMillis',
  'getType', 'hmacSha256', 'JSON', 'makeInteger', 'makeNumber', 'makeString', 'makeTableMap', 'Math', 'Object', 'parseUrl',
  'Promise', 'queryPermission', 'sha256', 'sha256Sync', 'testRegex', 'toBase64',
];
const PERMISSION = new Map(Object.entries(NEEDS).flatMap(([permission, names]) => names.map((name) => [name, permission])));
FREE.forEach((name) => PERMISSION.set(name, null));

// APIs whose permission lists names: its mode (set_cookies has none), its list and the label for messages; and parts of read_request by API.
const NAMED = [
  { api: 'getRequestHeader', permission: 'read_request', mode: 'headerAccess', list: 'headerWhitelist', label: 'header', verb: 'read' },
  { api: 'getCookieValues', permission: 'get_cookies', mode: 'cookieAccess', list: 'cookieNames', label: 'cookie', verb: 'read' },
  { api: 'setCookie', permission: 'set_cookies', list: 'allowedCookies', label: 'cookie', verb: 'set' },
];
const PARTS = {
  bodyAllowed: ['getRequestBody'],
  pathAllowed: ['getRequestPath'],
  remoteAddressAllowed: ['getRemoteAddress'],
  queryParametersAllowed: ['getRequestQueryParameter', 'getRequestQueryParameters', 'getRequestQueryString'],
};

/** Returns {permission: {parameter: plain value}} of the typed values of an export. */
export function plain(section) {
  return Object.fromEntries(
    section.map(({ instance }) => [
      instance.key.publicId,
      Object.fromEntries((instance.param ?? []).map(({ key, value }) => [key, valueOf(value)])),
    ]),
  );
}

function valueOf(value) {
  if (value.type === 2) return (value.listItem ?? []).map(valueOf);
  if (value.type === 3) return valueOf(value.mapValue[0]);
  return value.type === 8 ? value.boolean : value.string;
}

/** Returns the differences between code and permissions. `line` as in `syntax.read`. */
export function check(tree, granted, line) {
  const problems = [];
  const addProblem = (node, text) => problems.push(`line ${line + node.loc.start.line}: ${text}`);
  const locals = requiredApis(tree, addProblem);
  const apis = new Set(locals.values());
  for (const api of apis) {
    const permission = PERMISSION.get(api);
    if (permission && !granted[permission]) problems.push(`${api} needs the permission ${permission}, which is not declared`);
  }
  for (const permission of Object.keys(granted)) {
    if (!(NEEDS[permission] ?? []).some((api) => apis.has(api))) problems.push(`no API needs the permission ${permission}`);
  }
  for (const [part, users] of Object.entries(PARTS)) {
    if (granted.read_request?.[part] && !users.some((api) => apis.has(api))) problems.push(`no API needs read_request's ${part}`);
  }
  for (const rule of NAMED) problems.push(...checkNames(tree, locals, granted[rule.permission] ?? {}, rule, line));
  return problems;
}

function requiredApis(tree, addProblem) {
  const locals = new Map();
  walk(tree, (node, parent) => {
    if (node.type !== 'Identifier' || node.name !== 'require' || isMember(node, parent)) return;
    const declaration = tree.body.find((statement) => statement.type === 'VariableDeclaration' && statement.declarations.some(({ init }) => init === parent));
    const name = parent.arguments?.[0]?.value;
    if (!declaration || declaration.kind !== 'const' || parent.callee !== node) addProblem(node, "write const name = require('name') at the top");
    else if (!PERMISSION.has(name)) addProblem(node, `${name} is no API of a server container`);
    else locals.set(declaration.declarations.find(({ init }) => init === parent).id.name, name);
  });
  return locals;
}

function isMember(node, parent) {
  return (parent?.type === 'MemberExpression' && !parent.computed && parent.property === node) || (parent?.type === 'Property' && parent.key === node);
}

function checkNames(tree, locals, granted, rule, line) {
  const problems = [];
  const declared = new Set((granted[rule.list] ?? []).map((name) => name.toLowerCase()));
  const used = new Set();
  walk(tree, (node, parent) => {
    if (node.type !== 'Identifier' || locals.get(node.name) !== rule.api || isMember(node, parent)) return;
    if (parent.type === 'VariableDeclarator' && parent.id === node) return;
    const name = parent.type === 'CallExpression' && parent.callee === node ? parent.arguments[0]?.value : undefined;
    const place = `line ${line + node.loc.start.line}`;
    if (typeof name !== 'string') problems.push(`${place}: ${rule.api} must be called with a ${rule.label}'s name that stands in the code`);
    else if (!declared.has(name.toLowerCase())) problems.push(`${place}: the ${rule.label} ${name} is not named in ${rule.permission}`);
    else used.add(name.toLowerCase());
  });
  const calls = [...locals.values()].includes(rule.api);
  if (calls && rule.mode && granted[rule.mode] !== 'specific') problems.push(`${rule.permission} must name each ${rule.label} (${rule.mode}: specific)`);
  for (const name of declared) if (!used.has(name)) problems.push(`${rule.permission} names the ${rule.label} ${name}, which is not ${rule.verb}`);
  return problems;
}

/** Whether send_http covers an address; `*` matches any host, or any rest of a path.
 * No published rule says that it matches a port, so here it does not. */
export function covers(granted, url) {
  if (granted.send_http?.allowedUrls === 'any') return true;
  return (granted.send_http?.urls ?? []).some((pattern) => {
    const [, host, path] = /^https:\/\/([^/]+)(\/.*)$/.exec(pattern) ?? [];
    const source = (text, any) => text.split('*').map((part) => part.replace(/[.+?^${}()|[\]\\]/g, '\\$&')).join(any);
    return host !== undefined && new RegExp(`^https://${source(host, '[^/?#:]+')}${source(path, '.*')}$`).test(url);
  });
}
