// Runs a template's scenarios as GTM's editor does: APIs that touch the world are mocked, the others work.

import vm from 'node:vm';

import { covers } from './permissions.mjs';

const LIMIT_MS = 2000;

class Failed extends Error {}

const shown = (value) => (typeof value === 'function' ? 'a function' : JSON.stringify(value));

function typeOf(value) {
  if (value === null) return 'null';
  return Array.isArray(value) ? 'array' : typeof value;
}

/** By value. Objects of the scenario come from another realm, so prototypes say nothing. */
function same(left, right) {
  if (typeOf(left) !== typeOf(right)) return false;
  if (left === null || typeof left !== 'object') return Object.is(left, right);
  const [one, other] = [Object.keys(left), Object.keys(right)];
  return one.length === other.length && one.every((key) => Object.hasOwn(right, key) && same(left[key], right[key]));
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined; // as the sandbox's JSON does, instead of an exception
  }
}

const INTEGER = /^[-+]?\d+/;
const WORKING = {
  JSON: { parse: parsed, stringify: (value, replacer, space) => JSON.stringify(value, replacer, space) },
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

/** One scenario's world: its mocks, and every call in order. */
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

  run(context, given) {
    const data = { ...given };
    for (const name of ['gtmOnSuccess', 'gtmOnFailure']) data[name] = () => this.calls.push({ name, args: [] });
    return vm.compileFunction(this.code, ['data', 'require'], { parsingContext: context })(data, (name) => this.api(name));
  }

  callsOf(name) {
    return this.calls.filter((call) => call.name === name).map(({ args }) => args);
  }
}

function expect(met, message, fallback) {
  if (!met) throw new Failed(message ?? fallback);
}

function assertThat(actual, message) {
  const says = (met, what) => expect(met, message, `${shown(actual)} ${what}`);
  return {
    isEqualTo: (wanted) => says(same(actual, wanted), `is not equal to ${shown(wanted)}`),
    isNotEqualTo: (wanted) => says(!same(actual, wanted), `is equal to ${shown(wanted)}`),
    isUndefined: () => says(actual === undefined, 'is not undefined'),
    isDefined: () => says(actual !== undefined, 'is undefined'),
    isNull: () => says(actual === null, 'is not null'),
    isTrue: () => says(actual === true, 'is not true'),
    isFalse: () => says(actual === false, 'is not false'),
    isTruthy: () => says(Boolean(actual), 'is not truthy'),
    isFalsy: () => says(!actual, 'is not falsy'),
    contains: (part) => says(actual.includes(part), `does not contain ${shown(part)}`),
    doesNotContain: (part) => says(!actual.includes(part), `contains ${shown(part)}`),
    hasLength: (length) => says(actual.length === length, `has not length ${length}`),
  };
}

function assertApi(stage, name) {
  const calls = stage.callsOf(name);
  const wasWith = (args) => calls.some((one) => same(one, args));
  return {
    wasCalled: () => expect(calls.length > 0, undefined, `${name} was not called`),
    wasNotCalled: () => expect(calls.length === 0, undefined, `${name} was called`),
    wasCalledWith: (...args) => expect(wasWith(args), undefined, `${name} was not called with ${shown(args)}, but ${shown(calls)}`),
    wasNotCalledWith: (...args) => expect(!wasWith(args), undefined, `${name} was called with ${shown(args)}`),
  };
}

/** {name, passed, problem, sent}: `sent` holds the arguments of each HTTP request that the tag made. */
export function play({ name, code }, setup, template, granted) {
  const stage = new Stage(template, granted);
  const context = vm.createContext({}, { codeGeneration: { strings: false, wasm: false } });
  Object.assign(context, {
    mock: (api, value) => stage.mocks.set(api, value),
    mockObject: (api, value) => stage.mocks.set(api, value),
    runCode: (given) => stage.run(context, given),
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
  const sent = stage.callsOf('sendHttpRequest').map(([url, options, body]) => ({ url, options, body }));
  return { name, passed: !problem, problem, sent };
}
