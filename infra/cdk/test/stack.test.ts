/** What is made, and what becomes of it. */
import assert from 'node:assert/strict';
import { mkdtempSync, writeFileSync } from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';
import { test } from 'node:test';
import { Duration } from 'aws-cdk-lib';
import { Match } from 'aws-cdk-lib/assertions';
import { MIGRATION, type PolicyStatement, file, resources, statementsByRole, synth } from './example';

const template = synth();
const all = template.toJSON()['Resources'] as Record<string, { Type: string; DeletionPolicy?: string }>;

test('evidence outlives the stack, is versioned and can be locked', () => {
  template.hasResource('AWS::S3::Bucket', {
    DeletionPolicy: 'RetainExceptOnCreate',
    UpdateReplacePolicy: 'Retain',
    Properties: { ObjectLockEnabled: true, VersioningConfiguration: { Status: 'Enabled' } },
  });
});

test('what evidence needs to be read outlives the stack too', () => {
  const withPolicy = (policy: string) => Object.values(all).filter((one) => one.DeletionPolicy === policy).map((one) => one.Type).sort();
  // A first deployment that fails leaves none of these …
  assert.deepEqual(withPolicy('RetainExceptOnCreate'), ['AWS::KMS::Key', 'AWS::KMS::Key', 'AWS::S3::Bucket', 'AWS::S3::Bucket']);
  // … and this, which is protected from being deleted.
  assert.deepEqual(withPolicy('Retain'), ['AWS::DynamoDB::Table']);
  assert.ok(Object.values(all).every((one) => !one.Type.startsWith('Custom::') && one.Type !== 'AWS::CloudFormation::CustomResource'));
});

test('the table is the one that the ledger expects', () => {
  template.hasResourceProperties('AWS::DynamoDB::Table', {
    KeySchema: [{ AttributeName: 'scope', KeyType: 'HASH' }, { AttributeName: 'item', KeyType: 'RANGE' }],
    BillingMode: 'PAY_PER_REQUEST',
    PointInTimeRecoverySpecification: { PointInTimeRecoveryEnabled: true },
    TimeToLiveSpecification: Match.absent(),
    SSESpecification: { SSEEnabled: true },
  });
});

test('buckets are closed to the public and to plain HTTP', () => {
  template.allResourcesProperties('AWS::S3::Bucket', {
    PublicAccessBlockConfiguration: { BlockPublicAcls: true, BlockPublicPolicy: true, IgnorePublicAcls: true, RestrictPublicBuckets: true },
  });
  template.allResourcesProperties('AWS::S3::BucketPolicy', {
    PolicyDocument: { Statement: Match.arrayWith([Match.objectLike({ Effect: 'Deny', Condition: { Bool: { 'aws:SecureTransport': 'false' } } })]) },
  });
});

test('nothing of the network but what was asked for is made', () => {
  assert.equal(resources(synth({ network: { vpcId: 'vpc-1', subnetIds: ['subnet-1'], securityGroupIds: ['sg-1'] } }), 'AWS::EC2::VPCEndpoint').length, 0);
  const types = [...new Set(Object.values(all).map((one) => one.Type).filter((type) => type.startsWith('AWS::EC2')))].sort();
  assert.deepEqual(types, ['AWS::EC2::SecurityGroup', 'AWS::EC2::VPCEndpoint']);
  assert.equal(resources(template, 'AWS::EC2::VPCEndpoint').length, file.endpoints.gateway.length + file.endpoints.interface.length);
});

test('recover is called when an execution ends badly, or a worker stops', () => {
  template.hasResourceProperties('AWS::Events::Rule', {
    EventPattern: {
      source: ['aws.states'],
      'detail-type': ['Step Functions Execution Status Change'],
      detail: { status: ['ABORTED', 'TIMED_OUT', 'FAILED'], stateMachineArn: [{ 'Fn::Join': ['', Match.arrayWith([':stateMachine:krossing-prod'])] }] },
    },
    Targets: [Match.objectLike({ Arn: { 'Fn::GetAtt': [Match.stringLikeRegexp('RecoverFunction'), 'Arn'] }, DeadLetterConfig: Match.anyValue() })],
  });
  template.hasResourceProperties('AWS::Events::Rule', {
    EventPattern: { source: ['aws.ecs'], 'detail-type': ['ECS Task State Change'], detail: { lastStatus: ['STOPPED'], clusterArn: Match.anyValue() } },
    Targets: [Match.objectLike({ DeadLetterConfig: Match.anyValue() })],
  });
  template.hasResourceProperties('AWS::Lambda::Function', { FunctionName: 'krossing-prod-recover', DeadLetterConfig: Match.anyValue() });
});

test('chat gets the part of an event that is for it', () => {
  template.hasResourceProperties('AWS::Events::Rule', {
    EventPattern: { source: ['krossing'] },
    Targets: [Match.objectLike({ InputPath: '$.detail.chat', DeadLetterConfig: Match.anyValue() })],
  });
});

test('every placeholder is filled', () => {
  const [, machine] = resources(template, 'AWS::StepFunctions::StateMachine')[0]!;
  assert.deepEqual(Object.keys(machine.Properties['DefinitionSubstitutions'] as object).sort(), Object.keys(file.state_machine.placeholders).sort());
  assert.equal(machine.Properties['StateMachineName'], 'krossing-prod');
  assert.equal((machine.Properties['LoggingConfiguration'] as { IncludeExecutionData: boolean }).IncludeExecutionData, false);
});

test('the worker is nobody, and cannot write to its disk', () => {
  template.hasResourceProperties('AWS::ECS::TaskDefinition', {
    ContainerDefinitions: [Match.objectLike({ Name: 'worker', User: '65532:65532', ReadonlyRootFilesystem: true, Privileged: false, StopTimeout: 120 })],
  });
});

test('an image is made of the binary where no other is given', () => {
  const binary = path.join(mkdtempSync(path.join(os.tmpdir(), 'krossing-binary-')), 'krossing-worker');
  writeFileSync(binary, 'a program');
  const made = synth({ worker: { image: { binary } } });
  assert.ok(JSON.stringify(resources(made, 'AWS::ECS::TaskDefinition')).includes('container-assets'));
  assert.ok(JSON.stringify(statementsByRole(made)['WorkerStart']).includes('container-assets'));
});

test('functions and worker are built for the same processor', () => {
  const arm = synth({ architecture: 'arm64' });
  arm.allResourcesProperties('AWS::Lambda::Function', { Architectures: ['arm64'] });
  arm.hasResourceProperties('AWS::ECS::TaskDefinition', { RuntimePlatform: { CpuArchitecture: 'ARM64' } });
});

test('functions get the configuration with what was made', () => {
  const [, plan] = resources(template, 'AWS::Lambda::Function')[0]!;
  const variables = (plan.Properties['Environment'] as { Variables: Record<string, unknown> }).Variables;
  assert.deepEqual(Object.keys(variables).sort(), ['KROSSING_CONFIG', 'KROSSING_EVENT_BUS', 'RUST_LOG']);
  const text = JSON.stringify(variables['KROSSING_CONFIG']);
  for (const made of ['KrossingSegments', 'KrossingEvidence', 'KrossingTable', 'KrossingSigningKey', '2557d', 'eu-west-1']) assert.ok(text.includes(made), made);
});

test('buckets and a table that are there are used, and none is made', () => {
  const named = { ...MIGRATION.migration, backup: { s3_bucket: 'my-segments' }, evidence: { s3_bucket: 'my-evidence' }, ledger: { dynamodb_table: 'my-ledger' } };
  const other = synth({ configuration: { migration: named } });
  assert.equal(resources(other, 'AWS::S3::Bucket').length + resources(other, 'AWS::DynamoDB::Table').length, 0);
  assert.ok(JSON.stringify(statementsByRole(other)).includes(':s3:::my-evidence/*/evidence.json'));
});

test('evidence is locked for no longer than agreed, whoever says how long', () => {
  const condition = (change: Parameters<typeof synth>[0]) =>
    statementsByRole(synth(change))['Worker']!.find((one) => one.Action === 's3:PutObjectRetention')!.Condition as Record<string, Record<string, string>>;
  const days = (change: Parameters<typeof synth>[0]) => condition(change)['NumericLessThanEquals']!['s3:object-lock-remaining-retention-days'];
  assert.equal(days({ evidenceRetentionDays: 30 }), '31');
  const said = { migration: { ...MIGRATION.migration, evidence: { retention: '2y' } } };
  assert.equal(days({ configuration: said, evidenceRetentionDays: undefined }), '731');
  const inHours = { migration: { ...MIGRATION.migration, evidence: { retention: '8761h' } } };
  assert.equal(days({ configuration: inHours, evidenceRetentionDays: undefined }), '367');
  assert.throws(() => synth({ configuration: said, evidenceRetentionDays: 30 }), /say the same thing: give one/);
});

test('keys and a topic that are there are used, and none is made', () => {
  const other = synth({
    keys: { dataKeyArn: 'arn:aws:kms:eu-west-1:123456789012:key/data', signingKeyArn: 'arn:aws:kms:eu-west-1:123456789012:key/sign' },
    chatTopicArn: 'arn:aws:sns:eu-west-1:123456789012:chat',
  });
  assert.equal(resources(other, 'AWS::KMS::Key').length + resources(other, 'AWS::SNS::Topic').length, 0);
});

test('only rules and alarms of this stack write to its topic', () => {
  const [, policy] = resources(template, 'AWS::SNS::TopicPolicy')[0]!;
  const said = (policy.Properties['PolicyDocument'] as { Statement: (PolicyStatement & { Principal: { Service?: string } })[] }).Statement;
  const services = said.filter((one) => one.Principal.Service !== undefined);
  assert.deepEqual(services.map((one) => one.Principal.Service).sort(), ['cloudwatch.amazonaws.com', 'events.amazonaws.com']);
  for (const one of services) assert.match(JSON.stringify(one.Condition), /aws:SourceArn.*krossing-prod-\*/);
});

test('alarms are on, and say what happened', () => {
  const alarms = resources(template, 'AWS::CloudWatch::Alarm').map(([, one]) => one.Properties as Record<string, unknown>);
  assert.deepEqual(alarms.map((one) => one['AlarmName']).sort(), file.alarms.map((one) => `krossing-prod-${one.name}`).sort());
  assert.ok(alarms.every((one) => (one['AlarmActions'] as unknown[]).length === 1 && one['AlarmDescription']));
  assert.match(JSON.stringify(alarms), /frozen > 60000/);
});

test('bad input is refused with what to do', () => {
  const { source, target } = MIGRATION.migration;
  const refused = (change: Parameters<typeof synth>[0], sentence: RegExp) => assert.throws(() => synth(change), sentence);
  const migration = (more: object) => ({ configuration: { migration: { source, target, ...more } } });
  refused(migration({ topics: { include: Array.from({ length: 300 }, (_, n) => `orders-of-country-${n}`) } }), /Lambda allows 4096\. Leave \d+ out: write patterns/);
  refused(migration({ target: { ...target, auth: { mode: 'scram-sha-512', username: 'me', password: 'hunter2' } } }), /target\.auth\.password is a secret and would stand in the template/);
  refused(migration({ source: { ...source, auth: { mode: 'scram-sha-512', password: '${PASSWORD}' } } }), /source\.auth\.password takes \$\{PASSWORD\} from the environment/);
  refused(migration({ evidence: { directory: '/var/evidence' } }), /evidence\.directory is a file or folder of a machine/);
  refused(migration({ evidence: { kms_key_id: 'alias/mine' } }), /evidence\.kms_key_id: leave it out and give keys\.signingKeyArn/);
  refused(migration({ source: { auth: { mode: 'iam' } } }), /source\.auth\.mode is iam, which needs source\.cluster_arn/);
  refused(migration({ source: { ...source, cluster_arn: 'arn:aws:kafka:eu-west-1:1:cluster/zk' } }), /source\.cluster_arn is no cluster's ARN/);
  refused({ configuration: {} }, /nothing below `migration`/);
  refused(migration({ target: { ...target, auth: { mode: 'IAM' } } }), /target\.auth\.mode: none, scram-sha-512, mtls, iam; not IAM/);
  refused(migration({ target: source }), /are the same cluster/);
  refused(migration({ cutover: { max_producer_freeze: '20m' } }), /cutover\.max_producer_freeze: 1s to 10m in a stack/);
  refused(migration({ evidence: { retention: '-5d' } }), /evidence\.retention: 1d to 100y; not -5d/);
  refused(migration({ sede: { lanes: 2 } }), /sede: there is no such field/);
  refused(migration({ seed: { lanes: 0, segment_max_bytes: '1 TB' } }), /seed\.lanes: 1 to 1000; not 0\n.*seed\.segment_max_bytes: 1MiB to 256MiB bytes; not 1 TB/);
  refused(migration({ seed: { lanes: '${secretsmanager:krossing:lanes}' } }), /seed\.lanes: write the value/);
  refused(migration({ ledger: { dynamodb_table: '${secretsmanager:krossing:table}' } }), /ledger\.dynamodb_table: write the value/);
  refused(migration({ seed: 4 }), /seed: fields of its own, and not 4/);
  refused(migration({ topics: { include: { name: 'orders' } } }), /topics\.include: list, and not fields of its own/);
  refused(migration({ source: { ...source, tls: { enabled: 'yes' } } }), /source\.tls\.enabled: true or false; not yes/);
  refused(migration({ source: { ...source, bootstrap_servers: ['b-1.zk.example'] } }), /source\.bootstrap_servers\[0\]: list of host:port; not b-1/);
  refused(migration({ source: { ...source, auth: { mode: 'mtls' } } }), /source\.auth\.mode is mtls, whose key is in a file/);
  refused(migration({ source: { ...source, auth: { mode: 'scram-sha-512', username: 'me' } } }), /source\.auth\.password: it is missing/);
  refused(migration({ target: { tls: { enabled: true } } }), /target\.bootstrap_servers: it is missing/);
  refused(migration({ aws: { region: 'eu-central-1' } }), /aws\.region is eu-central-1, and the stack's is eu-west-1/);
  refused({ configuration: { migration: { source } } }, /target: the cluster is not given/);
  const odd = (change: object, sentence: RegExp) => refused(change as Parameters<typeof synth>[0], sentence);
  odd({ keys: { dataKeyARN: 'arn:aws:kms:eu-west-1:123456789012:key/data' } }, /keys\.dataKeyARN: there is no such field; there are dataKeyArn/);
  odd({ worker: { image: { uri: 'x' }, memory: 8192 } }, /worker\.memory: there is no such field/);
  odd({ worker: { image: '210987654321.dkr.ecr.eu-west-1.amazonaws.com/krossing' } }, /worker\.image: \{"uri": …\}/);
  odd({ network: { vpcId: 'my-vpc', securityGroupIds: ['sg-1'] } }, /network\.vpcId: the id of a VPC, vpc-…, not "my-vpc"\n.*network\.subnetIds: at least one/);
  odd({ network: { vpcId: 'vpc-1', subnetIds: 'subnet-1', securityGroupIds: ['sg-1'] } }, /network\.subnetIds: a list/);
  odd({ chatTopicArn: 'arn:aws:sns:eu-west-1:123456789012:chat.fifo' }, /chatTopicArn: the ARN of an SNS topic that is no FIFO topic/);
  odd({ eventBus: 'arn:aws:events:eu-west-1:123456789012:event-bus/mine' }, /eventBus: the name of an event bus, not its ARN/);
  odd({ architecture: 'x86' }, /architecture: x86_64 or arm64, not "x86"/);
  refused({ decisionTimeout: Duration.hours(0) }, /decisionTimeout: a minute to 365 days/);
  refused({ name: 'Prod!' }, /name: 1 to 30 small letters/);
  refused({ functionsFolder: '/nowhere' }, /bootstrap is not there: build the functions first/);
  refused({ worker: { image: { binary: '/nowhere' } } }, /\/nowhere is not there: build the worker first/);
  refused({ network: { vpcId: 'vpc-1', subnetIds: ['subnet-1'], securityGroupIds: ['sg-1'], endpoints: ['s3'] } }, /network\.routeTableIds/);
  refused({ network: { vpcId: 'vpc-1', subnetIds: ['subnet-1'], securityGroupIds: ['sg-1'], endpoints: ['sqs'] } }, /sqs is not among/);
});

test('no secret stands in the template', () => {
  const password = { auth: { mode: 'scram-sha-512', username: 'me', password: '${secretsmanager:AmazonMSK_me:password}' } };
  const { source, target } = MIGRATION.migration;
  const text = JSON.stringify(synth({ configuration: { migration: { source: { ...source, ...password }, target: { ...target, ...password } } } }).toJSON());
  const values = [...text.matchAll(/password\\*":\\*"([^"\\]*)/g)].map((match) => match[1]);
  assert.ok(values.length > 0 && values.every((value) => value === '${secretsmanager:AmazonMSK_me:password}'), String(values));
});

test('the dashboard has lag, rate, partitions left and state, from metrics that are said', () => {
  const dashboards = resources(template, 'AWS::CloudWatch::Dashboard');
  assert.equal(dashboards.length, 1);
  const body = JSON.stringify(dashboards[0]);
  for (const shown of ['lag_records_total', 'partitions_left', 'bytes_written', 'State: the last states entered']) {
    assert.ok(body.includes(shown), `${shown} is not shown`);
  }
});

test('segments go by themselves, logs too, and unfinished uploads of both buckets', () => {
  const rules = resources(template, 'AWS::S3::Bucket').map(([, bucket]) => JSON.stringify(bucket.Properties['LifecycleConfiguration']));
  assert.equal(rules.length, 2);
  assert.ok(rules.every((rule) => rule.includes('AbortIncompleteMultipartUpload')), rules.join());
  assert.equal(rules.filter((rule) => rule.includes('ExpirationInDays')).length, 1, 'evidence stays');
  for (const [, group] of resources(template, 'AWS::Logs::LogGroup')) assert.ok(Number(group.Properties['RetentionInDays']) > 0);
});
