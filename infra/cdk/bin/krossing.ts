#!/usr/bin/env node
/**
 * The app: one stack from one file. `cdk deploy -c input=krossing.json`
 *
 * The file has the fields of `KrossingProps`, and `account`, `region`, `tags`. Paths in it are from the file.
 */
import { readFileSync } from 'node:fs';
import * as path from 'node:path';
import { App, Duration, Stack, Tags } from 'aws-cdk-lib';
import { Krossing, type KrossingProps } from '../lib/krossing';

type Input = Omit<KrossingProps, 'decisionTimeout'> & {
  readonly decisionTimeoutHours?: number;
  readonly account?: string;
  readonly region?: string;
  readonly tags?: Record<string, string>;
};

const FIELDS = [
  'name', 'configuration', 'network', 'worker', 'functionsFolder', 'stateMachineFile', 'architecture', 'seedConcurrency',
  'decisionTimeoutHours', 'evidenceRetentionDays', 'segmentsExpireDays', 'logRetentionDays', 'chatTopicArn', 'slack',
  'eventBus', 'keys', 'permissionsBoundaryArn', 'tracing', 'logLevel', 'account', 'region', 'tags',
];

function readInput(file: string): Input {
  const input = JSON.parse(readFileSync(file, 'utf8')) as Input;
  const unknown = Object.keys(input).filter((field) => !FIELDS.includes(field));
  if (unknown.length > 0) throw new Error(`${file}: no field is called ${unknown.join(', ')}; there are ${FIELDS.join(', ')}`);
  const missing = ['name', 'configuration', 'network', 'worker'].filter((field) => !(field in input));
  if (missing.length > 0) throw new Error(`${file}: ${missing.join(', ')} must be given`);
  const from = (name: string) => path.resolve(path.dirname(file), name);
  const image = input.worker?.image;
  return {
    ...input,
    configuration: typeof input.configuration === 'string' ? from(input.configuration) : input.configuration,
    ...(image !== null && typeof image === 'object' && 'binary' in image && { worker: { ...input.worker, image: { binary: from(image.binary) } } }),
    ...(input.functionsFolder && { functionsFolder: from(input.functionsFolder) }),
    ...(input.stateMachineFile && { stateMachineFile: from(input.stateMachineFile) }),
  };
}

const app = new App();
const { account, region, tags, decisionTimeoutHours, ...props } = readInput(app.node.tryGetContext('input') as string);
const stack = new Stack(app, `krossing-${props.name}`, {
  description: `Krossing ${props.name}: moves a Kafka cluster in ZooKeeper mode to one in KRaft mode`,
  env: { ...(account && { account }), ...(region && { region }) },
});
new Krossing(stack, 'Krossing', {
  ...props,
  ...(decisionTimeoutHours !== undefined && { decisionTimeout: Duration.hours(decisionTimeoutHours) }),
});
for (const [key, value] of Object.entries({ application: 'krossing', ...tags })) Tags.of(stack).add(key, value);
