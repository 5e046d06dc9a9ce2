/** Who may do what: facts that a reviewer would look for, read from the template and not from infra/stack.json. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MIGRATION, file, list, resources as made, statementsByRole, synth } from './example';

const template = synth();
const roles = statementsByRole(template);
const actionsOn = (role: string, text: string) =>
  roles[role]!
    .filter((statement) => statement.Effect === 'Allow' && JSON.stringify(statement.Resource).includes(text))
    .flatMap((statement) => list(statement.Action));

const WRITES_KAFKA = /^kafka-cluster:(Write|Create|Alter|Delete)/;

test('only the cutover may write to the source', () => {
  const writers = Object.keys(roles).filter((role) => actionsOn(role, '/zk/').some((action) => WRITES_KAFKA.test(action)));
  assert.deepEqual(writers, ['Cutover']);
  assert.deepEqual(
    [...new Set(actionsOn('Cutover', '/zk/').filter((action) => WRITES_KAFKA.test(action)))].sort(),
    ['kafka-cluster:AlterTransactionalId', 'kafka-cluster:WriteData', 'kafka-cluster:WriteDataIdempotently'],
  );
});

test('without a marker nobody may write to the source', () => {
  const unmarked = statementsByRole(synth({ configuration: { migration: { ...MIGRATION.migration, cutover: { marker: 'none' } } } }));
  const text = JSON.stringify(Object.values(unmarked).flat().filter((one) => JSON.stringify(one.Resource).includes('/zk/')));
  assert.doesNotMatch(text, /kafka-cluster:(Write|Create|Alter|Delete)/);
});

test('nobody may delete topics, groups, evidence, segments or keys', () => {
  const deletes = Object.values(roles).flat().filter((one) => one.Effect === 'Allow').flatMap((one) => list(one.Action))
    .filter((action) => /:(Delete|Schedule|Bypass)/.test(action));
  // Items of the ledger, the network interface that Lambda makes, and a log delivery are no such things.
  assert.deepEqual([...new Set(deletes)].sort(), ['dynamodb:DeleteItem', 'ec2:DeleteNetworkInterface', 'logs:DeleteLogDelivery']);
});

test('actions are named one by one', () => {
  const wide = Object.values(roles).flat().flatMap((one) => list(one.Action)).filter((action) => action.includes('*'));
  assert.deepEqual(wide, []);
});

test('every resource stands for no more than a list that is known', () => {
  const everything = new Set<string>();
  for (const statement of Object.values(roles).flat()) {
    if (statement.Effect === 'Allow' && list(statement.Resource).includes('*')) list(statement.Action).forEach((action) => everything.add(action));
  }
  assert.deepEqual([...everything].sort(), [
    'ec2:DescribeNetworkInterfaces', 'ec2:DescribeSubnets',
    'ecr:GetAuthorizationToken',
    'kafka:GetBootstrapBrokers',
    'logs:CreateLogDelivery', 'logs:DeleteLogDelivery', 'logs:DescribeLogGroups', 'logs:DescribeResourcePolicies',
    'logs:GetLogDelivery', 'logs:ListLogDeliveries', 'logs:PutResourcePolicy', 'logs:UpdateLogDelivery',
    'states:SendTaskFailure', 'states:SendTaskHeartbeat', 'states:SendTaskSuccess',
  ]);
});

test('roles hold what infra/stack.json says and nothing else', () => {
  assert.equal(made(template, 'AWS::IAM::Policy').length, 0);
  const managed = made(template, 'AWS::IAM::Role').filter(([, role]) => role.Properties['ManagedPolicyArns'] !== undefined);
  assert.deepEqual(managed, []);
  const given = [...file.functions.map((one) => one.grants), file.worker.grants, ...Object.values(file.other_roles).map((one) => one.grants)];
  assert.equal(Object.keys(roles).length, given.length);
});

test('every role has the permissions boundary', () => {
  for (const [name, role] of made(template, 'AWS::IAM::Role')) {
    assert.equal(role.Properties['PermissionsBoundary'], 'arn:aws:iam::123456789012:policy/boundary', name);
  }
});

test('a policy is small enough for a role', () => {
  for (const [name, statements] of Object.entries(roles)) {
    // 10,240 characters without white space is what a role's own policies may take together.
    assert.ok(JSON.stringify(statements).length < 10_240, `${name}: ${JSON.stringify(statements).length}`);
  }
});

test('who signs evidence and who locks it are the same three', () => {
  const may = (action: string) => Object.keys(roles).filter((role) => roles[role]!.some((one) => list(one.Action).includes(action)));
  assert.deepEqual(may('kms:Sign').sort(), ['Recover', 'Rollback', 'Worker']);
  assert.deepEqual(may('s3:PutObjectRetention').sort(), ['Recover', 'Rollback', 'Worker']);
});

test('rights on clusters are not given where clusters have their own', () => {
  const scram = { mode: 'scram-sha-512', username: 'me', password: '${secretsmanager:AmazonMSK_me:password}' };
  const { source, target } = MIGRATION.migration;
  const other = statementsByRole(synth({ configuration: { migration: { source: { ...source, auth: scram }, target: { ...target, auth: scram } } } }));
  const text = JSON.stringify(other);
  assert.doesNotMatch(text, /kafka-cluster:/);
  assert.match(text, /secret:AmazonMSK_me-\?{6}/);
});

test('each statement says why, and each condition and environment name is explained', () => {
  const grants = Object.entries(file.grants).flatMap(([name, statements]) => statements.map((one) => [name, one] as const));
  for (const [name, one] of grants) {
    assert.ok(one.reason.length > 10, name);
    for (const condition of [one.only_if, one.and_if]) assert.ok(condition === undefined || condition in file.only_if, `${name}: ${condition}`);
    for (const resource of one.resources) assert.ok(resource === '*' || resource in file.resources || resource in file.resource_lists, `${name}: ${resource}`);
    if (one.resources.includes('*') && one.effect !== 'Deny') assert.match(one.reason, /AWS knows no resource/, name);
  }
  const resources = grants.flatMap(([, one]) => one.resources);
  assert.deepEqual([...Object.keys(file.resources), ...Object.keys(file.resource_lists)].filter((name) => !resources.includes(name)), []);
  const used = [...file.functions.flatMap((one) => one.grants), ...file.worker.grants, ...Object.values(file.other_roles).flatMap((one) => one.grants)];
  assert.deepEqual(Object.keys(file.grants).filter((name) => !used.includes(name)), []);
  for (const name of [...file.functions.flatMap((one) => one.environment), ...file.worker.environment]) assert.ok(name in file.environment, name);
});
