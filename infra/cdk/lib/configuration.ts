/**
 * The migration's configuration, as the functions get it: the document of the command line, completed with the names of
 * what the stack has made.
 *
 * It is judged when the template is made and not hours later: what cannot work in a function, and what roles, locks and
 * alarms are made from, is refused here, all at once. What other fields may hold is the business of Krossing's own
 * reading, which the plan runs first.
 */
import { readFileSync } from 'node:fs';
import type { Stack } from 'aws-cdk-lib';
import { parse } from 'yaml';

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

/** Fields that hold secrets. */
const SECRET_FIELDS = /^(password|keystore_password|key_password|truststore_password|producer_freeze_webhook_secret)$/;
/** Fields that name a file or folder. */
const FILE_FIELDS = /^(directory|cert_file|key_file|keystore|truststore|ca_file|signing_key_file)$/;

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
    const problems: string[] = [];
    walk(this.migration, '', (place, name, text) => {
      for (const [reference, inside] of text.matchAll(/\$\{([^}]*)\}/g)) {
        if (!inside!.startsWith('secretsmanager:')) {
          problems.push(`${place} takes ${reference} from the environment, which a function does not have: write the value, or \${secretsmanager:NAME:KEY}`);
        }
      }
      if (SECRET_FIELDS.test(name) && !/^\$\{[^}]*\}$/.test(text)) {
        problems.push(`${place} is a secret and would stand in the template: write \${secretsmanager:NAME:KEY}`);
      }
      if (FILE_FIELDS.test(name) && !text.includes('${')) {
        problems.push(`${place} is a file or folder of a machine, which a function does not have: leave it out`);
      }
    });
    if (this.text('evidence.kms_key_id') !== undefined) {
      problems.push('evidence.kms_key_id: leave it out and give keys.signingKeyArn, so that roles get rights on the key; without either one is made');
    }
    const modes = ['none', 'scram-sha-512', 'mtls', 'iam'];
    const retention = this.text('evidence.retention');
    if (retention !== undefined && !(this.retentionDaysMax! >= 1 && this.retentionDaysMax! <= 36_600)) {
      problems.push(`evidence.retention: 1d to 100y, not ${retention}`);
    }
    const freeze = this.text('cutover.max_producer_freeze');
    if (freeze !== undefined && !((milliseconds(freeze) ?? Infinity) <= FREEZE_IN_A_STACK_MAX_MS)) {
      problems.push(`cutover.max_producer_freeze: 1s to 10m in a stack, where the cutover is a function that ends after 15 minutes; not ${freeze}`);
    }
    const [source, target] = [this.clusterArn('source'), this.clusterArn('target')];
    if (source !== undefined && source === target) problems.push('source.cluster_arn and target.cluster_arn are the same cluster');
    for (const side of ['source', 'target']) {
      if (this.at(side) === undefined) problems.push(`${side}: the cluster is not given`);
      const mode = this.text(`${side}.auth.mode`);
      if (mode !== undefined && !modes.includes(mode)) problems.push(`${side}.auth.mode: ${modes.join(', ')}; not ${mode}`);
      if (this.text(`${side}.auth.mode`) === 'iam' && this.clusterArn(side) === undefined) {
        problems.push(`${side}.auth.mode is iam, which needs ${side}.cluster_arn: roles are given rights on that cluster alone`);
      }
      const arn = this.text(`${side}.cluster_arn`);
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
    const names = new Set<string>();
    walk(this.migration, '', (_place, _name, text) => {
      for (const [, secret] of text.matchAll(/\$\{secretsmanager:((?:arn:(?:[^:}]*:){5})?[^:}]+)[^}]*\}/g)) {
        names.add(secret!);
      }
    });
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

/** A duration as the configuration writes it; a year is as long as one can be. */
function milliseconds(text: string | undefined): number | undefined {
  const match = text?.match(/^(\d+)\s*(ms|s|m|h|d|y)$/);
  if (!match) return undefined;
  const unit = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: DAY_MS, y: 366 * DAY_MS }[match[2]!]!;
  return Number(match[1]) * unit;
}

function walk(value: Json, place: string, visit: (place: string, name: string, text: string) => void): void {
  if (Array.isArray(value)) {
    value.forEach((item, index) => walk(item, `${place}[${index}]`, visit));
  } else if (value !== null && typeof value === 'object') {
    for (const [key, item] of Object.entries(value)) walk(item, place === '' ? key : `${place}.${key}`, visit);
  } else if (typeof value === 'string') {
    visit(place, place.replace(/\[\d+\]$/, '').split('.').pop()!, value);
  }
}
