/**
 * What keeps things: keys, buckets, table, topic and queue.
 *
 * What proves a migration stays when the stack goes: evidence, the table with its journal, and the keys that either was
 * encrypted or signed with. What the user has already is taken by its name, and nothing about it is changed.
 */
import {
  ArnFormat,
  Duration,
  RemovalPolicy,
  Stack,
  aws_dynamodb as dynamodb,
  aws_iam as iam,
  aws_kms as kms,
  aws_s3 as s3,
  aws_sns as sns,
  aws_sqs as sqs,
} from 'aws-cdk-lib';
import type { Construct } from 'constructs';
import type { Configuration } from './configuration';
import type { KrossingProps } from './krossing';

/** An ARN of the stack's account and region. */
export function arnOf(scope: Construct, service: string, resource: string, resourceName: string, arnFormat = ArnFormat.SLASH_RESOURCE_NAME): string {
  return Stack.of(scope).formatArn({ service, resource, resourceName, arnFormat });
}

export function makeDataKey(scope: Construct, props: KrossingProps, prefix: string): kms.IKey {
  if (props.keys?.dataKeyArn !== undefined) return kms.Key.fromKeyArn(scope, 'DataKey', props.keys.dataKeyArn);
  const key = new kms.Key(scope, 'DataKey', {
    description: `Krossing ${props.name}: table, buckets, logs, messages`,
    alias: `${prefix}-data`,
    enableKeyRotation: true,
    // Evidence that cannot be decrypted proves nothing. What a first deployment that fails has made goes with it.
    removalPolicy: RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE,
  });
  key.addToResourcePolicy(
    new iam.PolicyStatement({
      principals: [new iam.ServicePrincipal(`logs.${Stack.of(scope).region}.amazonaws.com`)],
      actions: ['kms:Encrypt', 'kms:Decrypt', 'kms:ReEncryptFrom', 'kms:ReEncryptTo', 'kms:GenerateDataKey', 'kms:DescribeKey'],
      resources: ['*'],
      conditions: {
        ArnLike: {
          'kms:EncryptionContext:aws:logs:arn': ['/aws/lambda/', '/aws/vendedlogs/states/']
            .map((folder) => `${folder}${prefix}*`)
            .concat(`/krossing/${props.name}/*`)
            .map((group) => arnOf(scope, 'logs', 'log-group', group, ArnFormat.COLON_RESOURCE_NAME)),
        },
      },
    }),
  );
  key.addToResourcePolicy(
    new iam.PolicyStatement({
      // What is sent to an encrypted topic is encrypted by the sender.
      principals: [new iam.ServicePrincipal('events.amazonaws.com'), new iam.ServicePrincipal('cloudwatch.amazonaws.com')],
      actions: ['kms:Decrypt', 'kms:GenerateDataKey'],
      resources: ['*'],
    }),
  );
  return key;
}

export function makeSigningKey(scope: Construct, prefix: string): kms.Key {
  return new kms.Key(scope, 'SigningKey', {
    description: 'Krossing: signs evidence (Ed25519)',
    alias: `${prefix}-evidence`,
    keySpec: kms.KeySpec.ECC_NIST_EDWARDS25519,
    keyUsage: kms.KeyUsage.SIGN_VERIFY,
    removalPolicy: RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE,
  });
}

export function makeStores(scope: Construct, props: KrossingProps, configuration: Configuration, dataKey: kms.IKey) {
  const named = (place: string) => configuration.text(place);
  const bucket: s3.BucketProps = {
    encryption: s3.BucketEncryption.KMS,
    encryptionKey: dataKey,
    bucketKeyEnabled: true,
    blockPublicAccess: s3.BlockPublicAccess.BLOCK_ALL,
    objectOwnership: s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
    enforceSSL: true,
    minimumTLSVersion: 1.2,
    // A bucket that holds anything cannot be removed anyway, and a stack that tries ends half removed.
    removalPolicy: RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE,
  };
  const leftovers = { abortIncompleteMultipartUploadAfter: Duration.days(7) };
  const segments = named('backup.s3_bucket');
  const evidence = named('evidence.s3_bucket');
  const table = named('ledger.dynamodb_table');
  return {
    segments: segments
      ? s3.Bucket.fromBucketName(scope, 'Segments', segments)
      : new s3.Bucket(scope, 'Segments', {
          ...bucket,
          lifecycleRules: [{ id: 'segments-expire', expiration: Duration.days(props.segmentsExpireDays ?? 90), ...leftovers }],
        }),
    // No default retention: it would lock plans and maps too. What is signed is locked object by object.
    evidence: evidence
      ? s3.Bucket.fromBucketName(scope, 'Evidence', evidence)
      : new s3.Bucket(scope, 'Evidence', {
          ...bucket,
          versioned: true,
          objectLockEnabled: true,
          lifecycleRules: [{ id: 'unfinished-uploads', ...leftovers }],
        }),
    table: table
      ? dynamodb.Table.fromTableName(scope, 'Table', table)
      : new dynamodb.Table(scope, 'Table', {
          partitionKey: { name: 'scope', type: dynamodb.AttributeType.STRING },
          sortKey: { name: 'item', type: dynamodb.AttributeType.STRING },
          billingMode: dynamodb.BillingMode.PAY_PER_REQUEST,
          pointInTimeRecoverySpecification: { pointInTimeRecoveryEnabled: true },
          encryption: dynamodb.TableEncryption.CUSTOMER_MANAGED,
          encryptionKey: dataKey,
          deletionProtection: true,
          // Not RETAIN_ON_UPDATE_OR_DELETE: what is protected cannot be deleted by a first deployment that fails either.
          removalPolicy: RemovalPolicy.RETAIN,
        }),
  };
}

export function makeChatTopic(scope: Construct, props: KrossingProps, prefix: string, dataKey: kms.IKey): sns.ITopic {
  if (props.chatTopicArn !== undefined) return sns.Topic.fromTopicArn(scope, 'ChatTopic', props.chatTopicArn);
  const topic = new sns.Topic(scope, 'ChatTopic', {
    displayName: `Krossing ${props.name}`,
    masterKey: dataKey,
    enforceSSL: true,
  });
  topic.addToResourcePolicy(
    new iam.PolicyStatement({
      sid: 'AlarmsOfThisAccount',
      principals: [new iam.ServicePrincipal('cloudwatch.amazonaws.com')],
      actions: ['sns:Publish'],
      resources: [topic.topicArn],
      conditions: { ArnLike: { 'aws:SourceArn': arnOf(scope, 'cloudwatch', 'alarm', `${prefix}-*`, ArnFormat.COLON_RESOURCE_NAME) } },
    }),
  );
  // Operators copy commands from what stands here: a rule of another account must not write it.
  const rules = [`${prefix}-*`, `*/${prefix}-*`].map((rule) => arnOf(scope, 'events', 'rule', rule));
  topic.addToResourcePolicy(
    new iam.PolicyStatement({
      sid: 'RulesOfThisStack',
      principals: [new iam.ServicePrincipal('events.amazonaws.com')],
      actions: ['sns:Publish'],
      resources: [topic.topicArn],
      conditions: { ArnLike: { 'aws:SourceArn': rules } },
    }),
  );
  return topic;
}

export function makeDeadLetters(scope: Construct): sqs.Queue {
  return new sqs.Queue(scope, 'DeadLetters', {
    // EventBridge and Lambda write it: with a key of SQS's own neither needs a right on ours.
    encryption: sqs.QueueEncryption.SQS_MANAGED,
    enforceSSL: true,
    retentionPeriod: Duration.days(14),
  });
}
