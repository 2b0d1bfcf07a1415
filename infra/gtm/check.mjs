// Checks a tag template offline: its sections, the sandbox's syntax, its permissions, and its own scenarios.

import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

import * as yaml from 'js-yaml';

import { check as checkPermissions, plain } from './permissions.mjs';
import { play } from './scenarios.mjs';
import { children, read, walk } from './syntax.mjs';

const HELP = `Check a server-side tag template without Google Tag Manager.

  node check.mjs [--json] [TEMPLATE]

TEMPLATE   the .tpl file; headwater.tpl beside this script where none is named
--json     {"ok", "problems", "scenarios": [{"name", "passed", "problem", "sent"}]} instead of lines
--help     this text

Exit status: 0 where all is well, 1 where anything is wrong, 2 for a wrong call.

Example:  npm ci && node check.mjs headwater.tpl
`;
const SECTIONS = ['INFO', 'TEMPLATE_PARAMETERS', 'SANDBOXED_JS_FOR_SERVER', 'SERVER_PERMISSIONS', 'TESTS', 'NOTES'];
const GLOBALS = ['require', 'undefined'];
const TEST_GLOBALS = [...GLOBALS, 'mock', 'mockObject', 'runCode', 'assertApi', 'assertThat', 'fail'];
const CALLBACKS = new Set(['gtmOnSuccess', 'gtmOnFailure']);

/** Returns {name: {lines, line}} of the sections, and problems of their headings. */
function sectionsOf(file) {
  const sections = {};
  const problems = [];
  let current;
  file.split('\n').forEach((text, index) => {
    const name = /^___([A-Z_]+)___\s*$/.exec(text)?.[1];
    if (!name) {
      if (current) current.lines.push(text);
      else if (text.trim()) problems.push(`line ${index + 1}: text before the first section`);
      return;
    }
    if (sections[name]) problems.push(`line ${index + 1}: a second section ${name}`);
    if (![...SECTIONS, 'TERMS_OF_SERVICE'].includes(name)) problems.push(`line ${index + 1}: unknown section ${name}`);
    current = { lines: [], line: index + 1 };
    sections[name] = current;
  });
  for (const name of SECTIONS) if (!sections[name]) problems.push(`the section ${name} is missing`);
  return { sections, problems };
}

function parseSection(parse, section, name, problems) {
  try {
    return parse(section.lines.join('\n'));
  } catch (error) {
    problems.push(`${name}, after line ${section.line}: ${error.message.split('\n')[0]}`);
    return undefined;
  }
}

function shapeProblems(info, parameters, permissions, tests) {
  const problems = [];
  const must = (condition, text) => condition || problems.push(text);
  must(info.type === 'TAG' && info.containerContexts?.includes('SERVER'), 'INFO must describe a TAG for SERVER containers');
  must(info.id && info.version && info.displayName, 'INFO needs id, version and displayName');
  must(Array.isArray(parameters) && parameters.every(({ type, name }) => type && name), 'each parameter needs type and name');
  const shaped = Array.isArray(permissions) && permissions.every(({ instance }) => instance?.key?.publicId && Array.isArray(instance.param));
  must(shaped, 'each permission needs instance.key.publicId and instance.param');
  const named = Array.isArray(tests?.scenarios) && tests.scenarios.every(({ name, code }) => name && typeof code === 'string');
  must(named && tests.scenarios.length > 0, 'TESTS needs scenarios, each with name and code');
  must(named && new Set(tests.scenarios.map(({ name }) => name)).size === tests.scenarios.length, 'two scenarios have one name');
  return problems;
}

/** Returns problems of fields of `data` that are no parameters, and of parameters that are not read. */
function parameterProblems(tree, parameters) {
  const names = new Set(parameters.map(({ name }) => name));
  const used = new Set();
  walk(tree, (node) => {
    if (node.type === 'MemberExpression' && node.object.name === 'data') used.add(node.property.name ?? node.property.value);
  });
  return [
    ...[...used].filter((name) => !names.has(name) && !CALLBACKS.has(name)).map((name) => `data.${name} is no parameter`),
    ...[...names].filter((name) => !used.has(name)).map((name) => `the parameter ${name} is not read`),
  ];
}

function check(file) {
  const { sections, problems } = sectionsOf(file);
  if (problems.length) return { problems, scenarios: [] };
  const [info, parameters, permissions] = ['INFO', 'TEMPLATE_PARAMETERS', 'SERVER_PERMISSIONS'].map((name) =>
    parseSection(JSON.parse, sections[name], name, problems),
  );
  const tests = parseSection((text) => yaml.load(text), sections.TESTS, 'TESTS', problems);
  if (problems.length) return { problems, scenarios: [] };
  problems.push(...shapeProblems(info, parameters, permissions, tests));
  if (problems.length) return { problems, scenarios: [] };

  const { lines, line } = sections.SANDBOXED_JS_FOR_SERVER;
  const code = lines.join('\n');
  const granted = plain(permissions);
  const syntax = read(code, [...GLOBALS, 'data'], line);
  problems.push(...syntax.problems);
  if (syntax.tree) {
    problems.push(...checkPermissions(syntax.tree, granted, line), ...parameterProblems(syntax.tree, parameters));
    if (!children(syntax.tree).length) problems.push('there is no code');
  }
  const setup = tests.setup ?? '';
  for (const scenario of tests.scenarios) {
    const wrong = read(`${setup}\n${scenario.code}`, TEST_GLOBALS, 0).problems;
    problems.push(...wrong.map((problem) => `scenario "${scenario.name}" after its setup, ${problem}`));
  }
  // Scenarios of invalid code would only repeat its errors, less clearly.
  const scenarios = problems.length ? [] : tests.scenarios.map((scenario) => play(scenario, setup, code, granted));
  return { problems, scenarios };
}

function report({ ok, problems, scenarios }) {
  const lines = problems.map((problem) => `wrong   ${problem}`);
  for (const { name, passed, problem } of scenarios) lines.push(passed ? `passed  ${name}` : `failed  ${name}: ${problem}`);
  const passed = scenarios.filter((scenario) => scenario.passed).length;
  lines.push(`${ok ? 'ok' : 'NOT OK'}: ${passed} of ${scenarios.length} scenarios passed, ${problems.length} problems`);
  return lines.join('\n');
}

function main(args) {
  let call;
  try {
    call = parseArgs({ args, allowPositionals: true, options: { json: { type: 'boolean' }, help: { type: 'boolean' } } });
  } catch (error) {
    console.error(`${error.message}\n\n${HELP}`);
    return 2;
  }
  if (call.values.help) {
    console.log(HELP);
    return 0;
  }
  const path = call.positionals[0] ?? fileURLToPath(new URL('headwater.tpl', import.meta.url));
  let file;
  try {
    file = readFileSync(path, 'utf8');
  } catch (error) {
    console.error(`cannot read the template: ${error.message}`);
    return 2;
  }
  const result = check(file);
  const ok = !result.problems.length && result.scenarios.every(({ passed }) => passed);
  console.log(call.values.json ? JSON.stringify({ ok, ...result }) : report({ ok, ...result }));
  return ok ? 0 : 1;
}

process.exitCode = main(process.argv.slice(2));
