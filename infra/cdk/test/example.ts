/** The example of this folder as a template, with functions that do nothing. */
import { mkdirSync, mkdtempSync, writeFileSync, readFileSync } from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';
import { App, Stack } from 'aws-cdk-lib';
import { Template } from 'aws-cdk-lib/assertions';
import { Krossing, type KrossingProps } from '../lib/krossing';
import { REPOSITORY, readStackFile } from '../lib/stack-file';

export const file = readStackFile();
const CDK = path.join(REPOSITORY, 'infra/cdk');
const EXAMPLE = JSON.parse(readFileSync(path.join(CDK, 'krossing.example.json'), 'utf8')) as KrossingProps & Record<string, unknown>;

const functionsFolder = mkdtempSync(path.join(os.tmpdir(), 'krossing-functions-'));
for (const { binary } of file.functions) {
  mkdirSync(path.join(functionsFolder, binary));
  writeFileSync(path.join(functionsFolder, binary, 'bootstrap'), '#!/bin/sh\n');
}
// Every placeholder once: what is tested here is who fills them.
export const stateMachineFile = path.join(functionsFolder, 'definition.asl.json');
writeFileSync(
  stateMachineFile,
  JSON.stringify({
    QueryLanguage: 'JSONata',
    StartAt: 'Only',
    States: {
      Only: { Type: 'Succeed', Output: Object.fromEntries(Object.keys(file.state_machine.placeholders).map((name) => [name, `\${${name}}`])) },
    },
  }),
);

export const MIGRATION = {
  migration: {
    source: { cluster_arn: 'arn:aws:kafka:eu-west-1:123456789012:cluster/zk/11111111-2222-3333-4444-555555555555-1', bootstrap_servers: ['b:9098'], auth: { mode: 'iam' } },
    target: { cluster_arn: 'arn:aws:kafka:eu-west-1:123456789012:cluster/kraft/66666666-7777-8888-9999-000000000000-1', bootstrap_servers: ['b:9098'], auth: { mode: 'iam' } },
  },
};

export function synth(change: Partial<KrossingProps> = {}): Template {
  const { region, tags, decisionTimeoutHours, ...example } = EXAMPLE;
  const app = new App({ context: { '@aws-cdk/aws-iam:minimizePolicies': false } });
  const stack = new Stack(app, 'krossing-prod', { env: { region: region as string } });
  new Krossing(stack, 'Krossing', {
    ...example,
    configuration: MIGRATION,
    functionsFolder,
    stateMachineFile,
    ...change,
  });
  return Template.fromStack(stack);
}

export interface Resource {
  readonly Type: string;
  readonly Properties: Record<string, unknown>;
  readonly DeletionPolicy?: string;
}

export function resources(template: Template, type: string): [string, Resource][] {
  return Object.entries(template.toJSON()['Resources'] as Record<string, Resource>).filter(([, resource]) => resource.Type === type);
}

export interface PolicyStatement {
  readonly Effect: string;
  readonly Action: string | string[];
  readonly Resource: unknown;
  readonly Condition?: unknown;
}

/** Statements of each role, by the role's logical name without its hash. */
export function statementsByRole(template: Template): Record<string, PolicyStatement[]> {
  return Object.fromEntries(
    resources(template, 'AWS::IAM::Role').map(([name, role]) => [
      name.replace(/^Krossing/, '').replace(/Role[0-9A-F]{8}$/, ''),
      ((role.Properties['Policies'] ?? []) as { PolicyDocument: { Statement: PolicyStatement[] } }[]).flatMap((policy) => policy.PolicyDocument.Statement),
    ]),
  );
}

export function list<T>(value: T | T[]): T[] {
  return Array.isArray(value) ? value : [value];
}
