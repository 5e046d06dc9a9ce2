/** What is written wrong in the input, said all at once, before anything is made of it. */
import { Duration, Token } from 'aws-cdk-lib';
import type { KrossingProps } from './krossing';

/** Fields of what stands below a field of the input. */
const FIELDS_BELOW: { [Place in 'network' | 'worker' | 'slack' | 'keys']: (keyof NonNullable<KrossingProps[Place]>)[] } = {
  network: ['vpcId', 'subnetIds', 'securityGroupIds', 'endpoints', 'routeTableIds'],
  worker: ['image', 'cpu', 'memoryMb'],
  slack: ['workspaceId', 'channelId'],
  keys: ['dataKeyArn', 'signingKeyArn', 'otherKeyArns'],
};

/** What is written wrong and would be taken as if nothing were written, or refused half an hour into a deployment. */
function oddFields(props: KrossingProps): string[] {
  const problems: string[] = [];
  for (const [place, fields] of Object.entries(FIELDS_BELOW)) {
    const value: unknown = props[place as keyof KrossingProps];
    if (value === undefined) continue;
    if (value === null || typeof value !== 'object' || Array.isArray(value)) {
      problems.push(`${place}: fields of its own, ${fields.join(', ')}`);
      continue;
    }
    const unknown = Object.keys(value).filter((field) => !(fields as string[]).includes(field));
    problems.push(...unknown.map((field) => `${place}.${field}: there is no such field; there are ${fields.join(', ')}`));
  }
  const is = (place: string, value: unknown, pattern: RegExp, what: string) => {
    if (value === undefined || (typeof value === 'string' && (Token.isUnresolved(value) || pattern.test(value)))) return;
    problems.push(`${place}: ${what}, not ${JSON.stringify(value)}`);
  };
  const needed = (place: string, value: unknown, what: string) => {
    if (value === undefined) problems.push(`${place}: ${what}`);
  };
  const all = (place: string, values: unknown, pattern: RegExp, what: string) => {
    if (values === undefined || Token.isUnresolved(values)) return;
    if (!Array.isArray(values)) problems.push(`${place}: a list`);
    else values.forEach((value: unknown, index) => is(`${place}[${index}]`, value, pattern, what));
  };
  const network: Partial<KrossingProps['network']> = props.network ?? {};
  needed('network.vpcId', network.vpcId, 'the VPC that functions and worker run in');
  is('network.vpcId', network.vpcId, /^vpc-[0-9a-z]+$/, 'the id of a VPC, vpc-…');
  needed('network.subnetIds', network.subnetIds, 'at least one subnet, two in production');
  all('network.subnetIds', network.subnetIds, /^subnet-[0-9a-z]+$/, 'the id of a subnet, subnet-…');
  needed('network.securityGroupIds', network.securityGroupIds, 'at least one');
  all('network.securityGroupIds', network.securityGroupIds, /^sg-[0-9a-z]+$/, 'the id of a security group, sg-…');
  all('network.routeTableIds', network.routeTableIds, /^rtb-[0-9a-z]+$/, 'the id of a route table, rtb-…');
  if (props.worker?.image === null || typeof props.worker?.image !== 'object') {
    problems.push('worker.image: {"uri": …} of one that is pushed, or {"binary": …} to make it');
  }
  is('architecture', props.architecture, /^(x86_64|arm64)$/, 'x86_64 or arm64');
  is('chatTopicArn', props.chatTopicArn, /^arn:[^:]+:sns:[^:]+:\d{12}:(?!.*\.fifo$)[^:]+$/, 'the ARN of an SNS topic that is no FIFO topic');
  is('eventBus', props.eventBus, /^[/.\-_A-Za-z0-9]+$/, 'the name of an event bus, not its ARN');
  const key = /^arn:[^:]+:kms:[^:]+:\d{12}:key\/[^/]+$/;
  is('keys.dataKeyArn', props.keys?.dataKeyArn, key, "a key's ARN, no alias");
  is('keys.signingKeyArn', props.keys?.signingKeyArn, key, "a key's ARN, no alias");
  all('keys.otherKeyArns', props.keys?.otherKeyArns, key, "a key's ARN, no alias");
  is('permissionsBoundaryArn', props.permissionsBoundaryArn, /^arn:[^:]+:iam::(\d{12}|aws):policy\/.+$/, 'the ARN of a managed policy');
  return problems;
}

export function refuseOddInput(props: KrossingProps): void {
  const problems = oddFields(props);
  if (!/^[a-z][a-z0-9-]{0,29}$/.test(props.name)) {
    problems.push('name: 1 to 30 small letters, digits and hyphens, beginning with a letter');
  }
  if (props.network?.subnetIds?.length === 0) problems.push('network.subnetIds: at least one subnet, two in production');
  if (props.network?.securityGroupIds?.length === 0) problems.push('network.securityGroupIds: at least one');
  if (props.seedConcurrency !== undefined && !(props.seedConcurrency >= 1 && props.seedConcurrency <= 1000)) {
    problems.push('seedConcurrency: 1 to 1000');
  }
  if (retentionDays(props) < 1 || retentionDays(props) > 36500) problems.push('evidenceRetentionDays: 1 to 36500');
  const decisionSeconds = (props.decisionTimeout ?? Duration.days(14)).toSeconds();
  if (decisionSeconds < 60 || decisionSeconds > Duration.days(365).toSeconds()) {
    problems.push('decisionTimeout: a minute to 365 days, which is as long as an execution may take');
  }
  if (props.segmentsExpireDays !== undefined && !(props.segmentsExpireDays >= 1)) problems.push('segmentsExpireDays: 1 or more');
  if (problems.length > 0) throw new Error(`cannot make a stack of this input:\n  ${problems.join('\n  ')}`);
}

/** How long evidence is locked, where the configuration does not say. */
export function retentionDays(props: KrossingProps): number {
  return props.evidenceRetentionDays ?? 2557;
}
