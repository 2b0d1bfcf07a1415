// The syntax of Google's sandbox: ECMAScript 5.1 with arrow functions, const and let. Anything else is refused by name.

import { parse } from 'acorn';

const ALLOWED = new Set([
  'Program', 'VariableDeclaration', 'VariableDeclarator', 'FunctionDeclaration', 'FunctionExpression',
  'ArrowFunctionExpression', 'BlockStatement', 'EmptyStatement', 'ExpressionStatement', 'ReturnStatement', 'IfStatement',
  'ForStatement', 'ForInStatement', 'WhileStatement', 'DoWhileStatement', 'BreakStatement', 'ContinueStatement',
  'SwitchStatement', 'SwitchCase', 'Identifier', 'Literal', 'ObjectExpression', 'Property', 'ArrayExpression',
  'CallExpression', 'MemberExpression', 'UnaryExpression', 'BinaryExpression', 'LogicalExpression',
  'AssignmentExpression', 'UpdateExpression', 'ConditionalExpression', 'SequenceExpression',
]);
const READABLE = {
  NewExpression: 'new', ThisExpression: 'this', ClassDeclaration: 'class', ClassExpression: 'class',
  AwaitExpression: 'await', YieldExpression: 'yield', TemplateLiteral: 'a template literal',
  TaggedTemplateExpression: 'a template literal', SpreadElement: 'spread', RestElement: 'a rest parameter',
  ObjectPattern: 'destructuring', ArrayPattern: 'destructuring', AssignmentPattern: 'a default parameter',
  ChainExpression: 'optional chaining', ForOfStatement: 'for-of', TryStatement: 'try', ThrowStatement: 'throw',
};
const NEWER_OPERATORS = new Set(['**', '**=', '??', '??=', '||=', '&&=', 'instanceof']);
// Members through which code could escape a sandbox.
const CLOSED_MEMBERS = new Set(['constructor', '__proto__', 'prototype', 'caller', 'callee']);
const FUNCTIONS = new Set(['FunctionDeclaration', 'FunctionExpression', 'ArrowFunctionExpression']);

export function children(node) {
  return Object.values(node)
    .flat()
    .filter((value) => value && typeof value.type === 'string');
}

export function walk(node, visit, parent = null) {
  visit(node, parent);
  for (const child of children(node)) walk(child, visit, node);
}

/** Parses code. Returns {tree, problems}: the tree is null where the code does not parse. `line` is the file's line before the code's first. */
export function read(code, globals, line) {
  let tree;
  try {
    tree = parse(code, { ecmaVersion: 2022, sourceType: 'script', allowReturnOutsideFunction: true, locations: true });
  } catch (error) {
    return { tree: null, problems: [`line ${line + (error.loc?.line ?? 0)}: ${error.message}`] };
  }
  const problems = [];
  walk(tree, (node, parent) => {
    const wrong = problemOf(node, parent);
    if (wrong) problems.push(`line ${line + node.loc.start.line}: ${wrong} is not allowed in the sandbox`);
  });
  if (!problems.length) {
    for (const { name, loc } of unknown(tree, new Set(globals))) {
      problems.push(`line ${line + loc.start.line}: ${name} is no name that the sandbox knows`);
    }
  }
  return { tree, problems };
}

function problemOf(node, parent) {
  if (!ALLOWED.has(node.type)) return parent?.type === 'TaggedTemplateExpression' ? '' : (READABLE[node.type] ?? node.type);
  if (node.type === 'Literal') return node.regex ? 'a regex literal' : node.bigint ? 'a bigint' : '';
  if (node.async) return 'async';
  if (node.generator) return 'a generator';
  if (NEWER_OPERATORS.has(node.operator)) return node.operator;
  if (node.type === 'Property') return propertyProblem(node);
  if (node.type === 'MemberExpression') {
    const name = node.computed ? node.property.value : node.property.name;
    return CLOSED_MEMBERS.has(name) ? name : '';
  }
  return '';
}

function propertyProblem(node) {
  if (node.kind !== 'init' || node.method) return 'a method or accessor in an object';
  if (node.computed || node.shorthand) return 'a computed or shorthand property';
  return '';
}

/** Returns identifiers without a declaration in their scope. */
function unknown(tree, globals) {
  const references = [];
  const visit = (node, scope, parent) => {
    if (node.type === 'Identifier') {
      if (isReference(node, parent) && !scope.has(node.name)) references.push(node);
      return;
    }
    const inside = new Set([...scope, ...declared(node)]);
    for (const child of children(node)) visit(child, inside, node);
  };
  visit(tree, globals, null);
  return references;
}

function isReference(node, parent) {
  if (parent.type === 'MemberExpression') return parent.computed || parent.object === node;
  return !(parent.type === 'Property' && parent.key === node);
}

function declared(node) {
  const names = [];
  if (FUNCTIONS.has(node.type)) names.push(...node.params.map((param) => param.name), node.id?.name);
  if (FUNCTIONS.has(node.type) || node.type === 'Program') names.push(...hoisted(node));
  const statements = Array.isArray(node.body) ? node.body : [node.init, node.left];
  for (const statement of statements) {
    if (statement?.type === 'FunctionDeclaration') names.push(statement.id.name);
    if (statement?.type === 'VariableDeclaration') names.push(...statement.declarations.map(({ id }) => id.name));
  }
  return names;
}

function hoisted(node) {
  return children(node).flatMap((child) => {
    const own = child.type === 'VariableDeclaration' && child.kind === 'var' ? child.declarations.map(({ id }) => id.name) : [];
    return FUNCTIONS.has(child.type) ? own : [...own, ...hoisted(child)];
  });
}
