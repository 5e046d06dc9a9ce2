/**
 * The migration's configuration, as the functions get it: the document of the command line, completed with the names of
 * what the stack has made.
 *
 * It is judged when the template is made and not hours later, all at once: each field by the table that Krossing's own
 * reading goes by (`infra/configuration.json`, written from it), and what cannot work in a function. Which fields fit
 * together is the business of that reading, which the plan runs first.
 */
import { readFileSync } from 'node:fs';
import * as path from 'node:path';
import { type Stack, Token } from 'aws-cdk-lib';
import { parse } from 'yaml';
import { REPOSITORY } from './stack-file';

/** All variables of a function together, names and values: Lambda's limit, in bytes. */
export const LAMBDA_ENVIRONMENT_MAX = 4096;
/** What stands for a name that is only known when the stack is deployed: longer than any bucket, table or key ARN. */
const UNKNOWN_NAME_BYTES = 96;

/** Krossing's own defaults, where alarms need a number. */
const MAX_PRODUCER_FREEZE_MS = 60_000;
/** What the cutover's function allows: `FREEZE_MAX` of its turns. */
const FREEZE_IN_A_STACK_MAX_MS = 600_000;
const DRAIN_MAX_PARTITION_LAG = 100;
const DAY_MS = 86_400_000;

type Json = string | number | boolean | null | Json[] | { [key: string]: Json };
type Document = { [key: string]: Json };

interface Field {
  readonly kind: 'text' | 'secret' | 'path' | 'duration' | 'bytes' | 'count' | 'choice' | 'list' | 'servers';
  /** Of durations in milliseconds. */
  readonly least?: number;
  readonly most?: number;
  readonly one_of?: string[];
  /** What may stand there, for people. */
  readonly value: string;
}

/** All fields below `migration`. */
const FIELDS = (JSON.parse(readFileSync(path.join(REPOSITORY, 'infra/configuration.json'), 'utf8')) as { fields: Record<string, Field> }).fields;

export class Configuration {
  private constructor(private readonly migration: Document) {}

  /** From a document, or from the YAML file of that name. */
  static read(from: string | object): Configuration {
    const document = (typeof from === 'string' ? parse(readFileSync(from, 'utf8')) : from) as Document | null;
    const enterprise = document?.['enterprise'] as Document | undefined;
    const migration = document?.['migration'] ?? enterprise?.['msk_kraft_migration'];
    if (migration === null || typeof migration !== 'object' || Array.isArray(migration)) {
      throw new Error('the configuration has nothing below `migration`: give the same document as to the command');
    }
    const configuration = new Configuration(structuredClone(migration));
    const problems = configuration.problems();
    if (problems.length > 0) {
      throw new Error(`the configuration cannot be used in a stack:\n  ${problems.join('\n  ')}`);
    }
    return configuration;
  }

  private problems(): string[] {
    const problems = fieldProblems(this.migration, '');
    if (this.text('evidence.kms_key_id') !== undefined) {
      problems.push('evidence.kms_key_id: leave it out and give keys.signingKeyArn, so that roles get rights on the key; without either one is made');
    }
    if (this.freezeBudgetMs > FREEZE_IN_A_STACK_MAX_MS) {
      problems.push(`cutover.max_producer_freeze: 1s to 10m in a stack, where the cutover is a function that ends after 15 minutes; not ${this.text('cutover.max_producer_freeze')}`);
    }
    const [source, target] = [this.clusterArn('source'), this.clusterArn('target')];
    if (source !== undefined && source === target) problems.push('source.cluster_arn and target.cluster_arn are the same cluster');
    for (const side of ['source', 'target']) {
      const arn = this.clusterArn(side);
      if (this.at(side) === undefined) problems.push(`${side}: the cluster is not given`);
      else if (arn === undefined && this.at(`${side}.bootstrap_servers`) === undefined) {
        problems.push(`${side}.bootstrap_servers: it is missing: give at least one broker as host:port, or ${side}.cluster_arn`);
      }
      const mode = this.text(`${side}.auth.mode`);
      if (mode === 'iam' && arn === undefined) {
        problems.push(`${side}.auth.mode is iam, which needs ${side}.cluster_arn: roles are given rights on that cluster alone`);
      }
      if (mode === 'mtls') {
        problems.push(`${side}.auth.mode is mtls, whose key is in a file, which a function does not have: use scram-sha-512 or iam`);
      }
      for (const needed of mode === 'scram-sha-512' ? ['username', 'password'] : []) {
        if (this.at(`${side}.auth.${needed}`) === undefined) problems.push(`${side}.auth.${needed}: it is missing, and auth.mode ${mode} needs it`);
      }
      if (arn !== undefined && !/^arn:[^:]+:kafka:[^:]+:\d{12}:cluster\/[^/]+\/[^/]+$/.test(arn)) {
        problems.push(`${side}.cluster_arn is no cluster's ARN: arn:aws:kafka:REGION:ACCOUNT:cluster/NAME/UUID`);
      }
    }
    return problems;
  }

  private at(place: string): Json | undefined {
    let value: Json | undefined = this.migration;
    for (const part of place.split('.')) {
      value = value !== null && typeof value === 'object' && !Array.isArray(value) ? value[part] : undefined;
    }
    return value;
  }

  /** What stands at `source.auth.mode` and the like. */
  text(place: string): string | undefined {
    const value = this.at(place);
    return value === undefined || value === null || typeof value === 'object' ? undefined : String(value);
  }

  clusterArn(side: string): string | undefined {
    return this.text(`${side}.cluster_arn`);
  }

  /** Names or ARNs of the secrets that it takes values from. */
  secrets(): string[] {
    const reference = /\$\{secretsmanager:((?:arn:(?:[^:}]*:){5})?[^:}]+)[^}]*\}/g;
    const names = new Set(texts(this.migration).flatMap((text) => [...text.matchAll(reference)].map(([, secret]) => secret!)));
    return [...names].sort();
  }

  get freezeBudgetMs(): number {
    return milliseconds(this.text('cutover.max_producer_freeze')) ?? MAX_PRODUCER_FREEZE_MS;
  }

  get drainMaxPartitionLag(): number {
    return Number(this.text('cutover.drain_max_partition_lag') ?? DRAIN_MAX_PARTITION_LAG);
  }

  get marks(): boolean {
    return this.text('cutover.marker') !== 'none';
  }

  /** How long evidence is locked at most by what the configuration says. */
  get retentionDaysMax(): number | undefined {
    const retention = milliseconds(this.text('evidence.retention'));
    return retention === undefined ? undefined : Math.ceil(retention / DAY_MS);
  }

  /** As JSON, with values where it says nothing. */
  completed(stack: Stack, values: Record<string, string>): string {
    for (const place of ['aws.region', 'aws.stack']) {
      const [said, is] = [this.text(place), values[place]];
      if (said !== undefined && is !== undefined && !Token.isUnresolved(is) && said !== is) {
        throw new Error(`${place} is ${said}, and the stack's is ${is}: leave it out`);
      }
    }
    const migration = structuredClone(this.migration);
    for (const [place, value] of Object.entries(values)) {
      if (this.at(place) !== undefined) continue;
      const parts = place.split('.');
      const last = parts.pop()!;
      const parent = parts.reduce<Document>((node, part) => (node[part] ??= {}) as Document, migration);
      parent[last] = value;
    }
    return stack.toJsonString({ migration });
  }
}

/** Refuses variables that Lambda would refuse, while something can still be done about it. */
export function refuseLargeEnvironment(stack: Stack, variables: Record<string, string>): void {
  const bytes = Object.entries(variables).reduce((sum, [name, value]) => sum + name.length + bytesAtMost(stack, value), 0);
  if (bytes > LAMBDA_ENVIRONMENT_MAX) {
    throw new Error(
      `the configuration is too long for a function: its variables take up to ${bytes} bytes and Lambda allows ` +
        `${LAMBDA_ENVIRONMENT_MAX}. Leave ${bytes - LAMBDA_ENVIRONMENT_MAX} out: write patterns in topics.include and ` +
        'topics.exclude in place of names, and two or three brokers in bootstrap_servers',
    );
  }
}

function bytesAtMost(stack: Stack, value: string): number {
  const resolved: unknown = stack.resolve(value);
  const length = (part: unknown): number => {
    if (typeof part === 'string') return Buffer.byteLength(part);
    const join = (part as { 'Fn::Join'?: [string, unknown[]] } | null)?.['Fn::Join'];
    return join === undefined ? UNKNOWN_NAME_BYTES : join[1].reduce<number>((sum, one) => sum + length(one), 0);
  };
  return length(resolved);
}

/** What is wrong with what stands at a place, and below it. */
function fieldProblems(value: Json, place: string): string[] {
  const field = FIELDS[place];
  const isSection = place === '' || Object.keys(FIELDS).some((known) => known.startsWith(`${place}.`));
  if (field === undefined && !isSection) return [`${place}: there is no such field: docs/configuration.md has those that there are`];
  if (value !== null && typeof value === 'object' && !Array.isArray(value)) {
    if (field !== undefined) return [`${place}: ${field.value}, and not fields of its own`];
    return Object.entries(value).flatMap(([key, below]) => fieldProblems(below, place === '' ? key : `${place}.${key}`));
  }
  if (field === undefined) return value === null || value === '' ? [] : [`${place}: fields of its own, and not ${JSON.stringify(value)}`];
  if (Array.isArray(value)) {
    if (field.kind !== 'list' && field.kind !== 'servers') return [`${place}: ${field.value}, and not a list`];
    return value.flatMap((item, index) => textProblems(field, `${place}[${index}]`, item));
  }
  return textProblems(field, place, value);
}

function textProblems(field: Field, place: string, value: Json): string[] {
  if (value === null || value === '') return [`${place}: it is empty: write a value, or leave it out`];
  if (typeof value === 'object') return [`${place}: ${field.value}`];
  const text = String(value).trim();
  const fromEnvironment = [...text.matchAll(/\$\{([^}]*)\}/g)].filter(([, inside]) => !inside!.startsWith('secretsmanager:'));
  if (fromEnvironment.length > 0) {
    return fromEnvironment.map(([reference]) => `${place} takes ${reference} from the environment, which a function does not have: write the value, or \${secretsmanager:NAME:KEY}`);
  }
  if (field.kind === 'secret' && !/^\$\{[^}]*\}$/.test(text)) {
    return [`${place} is a secret and would stand in the template: write \${secretsmanager:NAME:KEY}`];
  }
  if (field.kind === 'path') return [`${place} is a file or folder of a machine, which a function does not have: leave it out`];
  if (text.includes('${')) {
    // What a secret holds is not known here, nor to who only asks or decides: those read no secret.
    const mayBe = /^(source|target|cutover)\./.test(place) && ['text', 'secret', 'servers'].includes(field.kind);
    return mayBe ? [] : [`${place}: write the value: roles, and those who only ask or decide, go by it and read no secret`];
  }
  return fits(field, text) ? [] : [`${place}: ${field.value}; not ${text}`];
}

function fits(field: Field, text: string): boolean {
  const within = (number: number | undefined) => number !== undefined && number >= field.least! && number <= field.most!;
  switch (field.kind) {
    case 'duration':
      return within(milliseconds(text));
    case 'bytes':
      return within(bytesOf(text));
    case 'count':
      return within(/^\d+$/.test(text) ? Number(text) : undefined);
    case 'choice':
      return field.one_of!.includes(text);
    case 'servers':
      return text.split(',').every((server) => /^\s*[^\s:]+:\d{1,5}\s*$/.test(server));
    case 'text':
    case 'secret':
    case 'path':
    case 'list':
      return true;
  }
}

function bytesOf(text: string): number | undefined {
  const [, number, unit] = text.match(/^(\d+)\s*(B|[kK]B|MB|GB|TB|KiB|MiB|GiB|TiB)?$/) ?? [];
  if (number === undefined) return undefined;
  const power = 'KMGT'.indexOf((unit ?? 'B')[0]!.toUpperCase()) + 1;
  return Number(number) * (unit?.includes('i') ? 1024 : 1000) ** power;
}

/** A duration as the configuration writes it. */
function milliseconds(text: string | undefined): number | undefined {
  const match = text?.match(/^(\d+)\s*(ms|s|m|h|d|y)$/);
  if (!match) return undefined;
  const unit = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: DAY_MS, y: 365 * DAY_MS }[match[2]!]!;
  return Number(match[1]) * unit;
}

/** All texts in it. */
function texts(value: Json): string[] {
  if (typeof value === 'string') return [value];
  return value !== null && typeof value === 'object' ? Object.values(value).flatMap(texts) : [];
}
