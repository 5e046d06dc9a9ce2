/**
 * `infra/stack.json`, read: what runs and what each part may do.
 *
 * CDK and Terraform both take names, environment and permissions from that file, so that neither can drift from the
 * other. Symbolic names of resources are turned into ARNs here; a name that nobody has an ARN for is an error, and so
 * is a placeholder.
 */
import { readFileSync } from 'node:fs';
import * as path from 'node:path';
import { aws_iam as iam } from 'aws-cdk-lib';

/** The repository, seen from `infra/cdk/build/lib`. */
export const REPOSITORY = path.resolve(__dirname, '../../../..');

export interface Statement {
  readonly effect?: 'Allow' | 'Deny';
  readonly only_if?: string;
  readonly and_if?: string;
  readonly actions: string[];
  readonly resources: string[];
  readonly condition?: Record<string, Record<string, string>>;
  readonly reason: string;
}

export interface FunctionEntry {
  readonly name: string;
  readonly binary: string;
  readonly does: string;
  readonly timeout_seconds: number;
  readonly memory_mb: number;
  readonly environment: string[];
  readonly grants: string[];
}

export interface MetricEntry {
  readonly namespace: string;
  readonly metric: string;
  readonly statistic: string;
  readonly dimensions?: Record<string, string>;
}

export interface AlarmEntry {
  readonly name: string;
  readonly says: string;
  readonly expression: string;
  readonly threshold: number;
  readonly period_seconds: number;
  readonly periods: number;
  readonly metrics: Record<string, MetricEntry>;
}

export interface RuleEntry {
  readonly name: string;
  readonly bus: string;
  readonly target: string;
  readonly input_path?: string;
  readonly why: string;
  readonly pattern: Record<string, unknown>;
}

export interface StackFile {
  readonly environment: Record<string, string>;
  readonly configuration: Record<string, string>;
  readonly functions: FunctionEntry[];
  readonly worker: {
    readonly binary: string;
    readonly container: string;
    readonly user: string;
    readonly stop_timeout_seconds: number;
    readonly does: string;
    readonly environment: string[];
    readonly grants: string[];
  };
  readonly other_roles: Record<string, { readonly does: string; readonly trusts: string; readonly grants: string[] }>;
  readonly resources: Record<string, string[]>;
  readonly resource_lists: Record<string, string>;
  readonly only_if: Record<string, string>;
  readonly grants: Record<string, Statement[]>;
  readonly state_machine: { readonly definition: string; readonly placeholders: Record<string, string> };
  readonly rules: RuleEntry[];
  readonly metrics: { readonly namespace: string; readonly from_logs: { readonly metric: string; readonly log: string }[] };
  readonly alarms: AlarmEntry[];
  readonly endpoints: { readonly gateway: string[]; readonly interface: string[] };
}

export function readStackFile(): StackFile {
  return JSON.parse(readFileSync(path.join(REPOSITORY, 'infra/stack.json'), 'utf8')) as StackFile;
}

/** What stands for the names that the file uses. */
export interface Facts {
  /** ARNs of `resource_lists`; an empty list where there is nothing of the kind. */
  readonly lists: Record<string, string[]>;
  /** Which of `only_if` hold. */
  readonly holds: Record<string, boolean>;
  /** Texts for `${Name}`. */
  readonly texts: Record<string, string>;
}

/** The statements of these grants that apply, with ARNs for names. */
export function statements(file: StackFile, grants: string[], facts: Facts): iam.PolicyStatement[] {
  return grants
    .flatMap((grant) => known(file.grants, grant, 'grant'))
    .filter((statement) =>
      [statement.only_if, statement.and_if].every((name) => name === undefined || known(facts.holds, name, 'only_if')),
    )
    .map((statement) => {
      const resources = statement.resources.flatMap((name) =>
        name === '*' ? ['*'] : (facts.lists[name] ?? filled(known(file.resources, name, 'resource'), facts.texts)),
      );
      if (resources.length === 0) {
        throw new Error(`${statement.resources.join(', ')}: there is no such resource, but ${statement.actions.join(', ')} asks for it`);
      }
      return new iam.PolicyStatement({
        effect: statement.effect === 'Deny' ? iam.Effect.DENY : iam.Effect.ALLOW,
        actions: statement.actions,
        resources,
        ...(statement.condition && { conditions: filled(statement.condition, facts.texts) }),
      });
    });
}

/** A value with `${Name}` replaced in all its texts. */
export function filled<T>(value: T, texts: Record<string, string>): T {
  if (typeof value === 'string') {
    return value.replace(/\$\{(\w+)\}/g, (_, name: string) => known(texts, name, 'placeholder')) as T;
  }
  if (Array.isArray(value)) {
    return value.map((item) => filled(item as unknown, texts)) as T;
  }
  if (value !== null && typeof value === 'object') {
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, filled(item as unknown, texts)])) as T;
  }
  return value;
}

function known<T>(table: Record<string, T>, name: string, kind: string): T {
  const value = table[name];
  if (value === undefined) {
    throw new Error(`infra/stack.json: no ${kind} is called ${name}`);
  }
  return value;
}
