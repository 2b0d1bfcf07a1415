// Runs a template's scenarios as GTM's editor does: APIs with side effects are mocked, the others work.

import vm from 'node:vm';

import { covers } from './permissions.mjs';

const LIMIT_MS = 2000;

class Failed extends Error {}

const format = (value) => (typeof value === 'function' ? 'a function' : JSON.stringify(value));

function typeOf(value) {
  if (value === null) return 'null';
  return Array.isArray(value) ? 'array' : typeof value;
}

/** Whether two values are equal. Objects of the scenario come from another realm, so prototypes are ignored. */
function equal(left, right) {
  if (typeOf(left) !== typeOf(right)) return false;
  if (left === null || typeof left !== 'object') return Object.is(left, right);
  const [leftKeys, rightKeys] = [Object.keys(left), Object.keys(right)];
  return leftKeys.length === rightKeys.length && leftKeys.every((key) => Object.hasOwn(right, key) && equal(left[key], right[key]));
}

function parseJson(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined; // as the sandbox's JSON does, instead of an exception
  }
}

const INTEGER = /^[-+]?\d+/;
const WORKING = {
  JSON: { parse: parseJson, stringify: (value, replacer, space) => JSON.stringify(value, replacer, space) },
  Math,
  Object: { keys: Object.keys, values: Object.values, entries: Object.entries },
  getType: typeOf,
  makeString: (value) => String(value),
  makeNumber: (value) => Number(value),
  makeInteger: (value) => (INTEGER.test(String(value)) ? parseInt(value, 10) : undefined),
  encodeUriComponent: encodeURIComponent,
  decodeUriComponent: decodeURIComponent,
  getTimestampMillis: () => Date.now(),
  generateRandom: (least, most) => least + Math.floor(Math.random() * (most - least + 1)),
};

/** The mocks of one scenario, and its calls in order. */
class Stage {
  constructor(code, granted) {
    this.code = code;
    this.granted = granted;
    this.mocks = new Map();
    this.calls = [];
  }

  api(name) {
    const real = this.mocks.get(name) ?? WORKING[name];
    if (real !== undefined && typeof real !== 'function') return real;
    return (...args) => {
      this.calls.push({ name, args });
      if (real === undefined) throw new Failed(`${name} is called and the scenario does not mock it`);
      if (name.startsWith('sendHttp')) this.mayReach(args[0]);
      return real(...args);
    };
  }

  mayReach(url) {
    if (!covers(this.granted, String(url))) throw new Failed(`send_http does not cover ${url}`);
  }

  run(context, fields) {
    const data = { ...fields };
    for (const name of ['gtmOnSuccess', 'gtmOnFailure']) data[name] = () => this.calls.push({ name, args: [] });
    return vm.compileFunction(this.code, ['data', 'require'], { parsingContext: context })(data, (name) => this.api(name));
  }

  callsOf(name) {
    return this.calls.filter((call) => call.name === name).map(({ args }) => args);
  }
}

function expect(condition, message, fallback) {
  if (!condition) throw new Failed(message ?? fallback);
}

function assertThat(actual, message) {
  const check = (condition, text) => expect(condition, message, `${format(actual)} ${text}`);
  return {
    isEqualTo: (expected) => check(equal(actual, expected), `is not equal to ${format(expected)}`),
    isNotEqualTo: (expected) => check(!equal(actual, expected), `is equal to ${format(expected)}`),
    isUndefined: () => check(actual === undefined, 'is not undefined'),
    isDefined: () => check(actual !== undefined, 'is undefined'),
    isNull: () => check(actual === null, 'is not null'),
    isTrue: () => check(actual === true, 'is not true'),
    isFalse: () => check(actual === false, 'is not false'),
    isTruthy: () => check(Boolean(actual), 'is not truthy'),
    isFalsy: () => check(!actual, 'is not falsy'),
    contains: (part) => check(actual.includes(part), `does not contain ${format(part)}`),
    doesNotContain: (part) => check(!actual.includes(part), `contains ${format(part)}`),
    hasLength: (length) => check(actual.length === length, `has not length ${length}`),
  };
}

function assertApi(stage, name) {
  const calls = stage.callsOf(name);
  const wasWith = (args) => calls.some((call) => equal(call, args));
  return {
    wasCalled: () => expect(calls.length > 0, undefined, `${name} was not called`),
    wasNotCalled: () => expect(calls.length === 0, undefined, `${name} was called`),
    wasCalledWith: (...args) => expect(wasWith(args), undefined, `${name} was not called with ${format(args)}, but ${format(calls)}`),
    wasNotCalledWith: (...args) => expect(!wasWith(args), undefined, `${name} was called with ${format(args)}`),
  };
}

/** Runs a scenario. Returns {name, passed, problem, sent}: `sent` holds the arguments of each HTTP request that the tag made. */
export function play({ name, code }, setup, template, granted) {
  const stage = new Stage(template, granted);
  const context = vm.createContext({}, { codeGeneration: { strings: false, wasm: false } });
  Object.assign(context, {
    mock: (api, value) => stage.mocks.set(api, value),
    mockObject: (api, value) => stage.mocks.set(api, value),
    runCode: (fields) => stage.run(context, fields),
    assertApi: (api) => assertApi(stage, api),
    assertThat,
    fail: (message) => expect(false, message, 'fail() was called'),
    require: (api) => stage.api(api),
  });
  let problem = '';
  try {
    vm.runInContext(`(() => {${setup}\n${code}\n})()`, context, { timeout: LIMIT_MS });
  } catch (error) {
    problem = String(error?.message ?? error);
  }
  const requests = stage.callsOf('sendHttpRequest').map(([url, options, body]) => ({ url, options, body }));
  return { name, passed: !problem, problem, sent: requests };
}
