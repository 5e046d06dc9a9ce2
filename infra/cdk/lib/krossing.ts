/**
 * Krossing in an account: table, buckets, functions, worker, state machine, rules, alarms.
 *
 * Who may do what is in `infra/stack.json`, and roles hold that and nothing else: what the library would add on its own
 * is not taken. VPC, subnets, security groups and clusters are the user's and only named. What proves a migration
 * (evidence, journal and the keys they were encrypted and signed with) outlives the stack.
 */
import { existsSync, readFileSync } from 'node:fs';
import * as path from 'node:path';
import {
  Annotations,
  ArnFormat,
  CfnOutput,
  Duration,
  RemovalPolicy,
  Stack,
  Validations,
  aws_chatbot as chatbot,
  aws_dynamodb as dynamodb,
  aws_ec2 as ec2,
  aws_ecs as ecs,
  aws_events as events,
  aws_events_targets as targets,
  aws_iam as iam,
  aws_kms as kms,
  aws_lambda as lambda,
  aws_logs as logs,
  aws_s3 as s3,
  aws_sns as sns,
  aws_sqs as sqs,
  aws_stepfunctions as sfn,
} from 'aws-cdk-lib';
import { Construct } from 'constructs';
import { Configuration, refuseLargeEnvironment } from './configuration';
import { makeEndpoints } from './endpoints';
import { type Facts, type RuleEntry, REPOSITORY, type StackFile, filled, readStackFile, statements } from './stack-file';
import { makeAlarms, makeDashboard } from './watching';
import { type WorkerImage, workerImage } from './worker-image';

export interface KrossingProps {
  /** Name of this deployment: `prod` makes the state machine `krossing-prod`. */
  readonly name: string;
  /** The migration's configuration: the document of the command line, or the path of its YAML file. */
  readonly configuration: string | object;
  /** An existing VPC. It, its subnets and security groups are used and never changed. */
  readonly network: {
    readonly vpcId: string;
    /** Private subnets that reach both clusters. */
    readonly subnetIds: string[];
    /** Let functions and worker out to brokers and AWS. */
    readonly securityGroupIds: string[];
    /** VPC endpoints to make; `needed` is all that Krossing needs. Default: none. */
    readonly endpoints?: string[] | 'needed';
    /** Route tables of the subnets: what endpoints of S3 and DynamoDB are written into. */
    readonly routeTableIds?: string[];
  };
  readonly worker: {
    readonly image: WorkerImage;
    /** Fargate's CPU units. Default: 2048, with 4096 MB. */
    readonly cpu?: number;
    readonly memoryMb?: number;
  };
  /** Folder with one folder a function, each with its `bootstrap`. Default: `target/lambda`. */
  readonly functionsFolder?: string;
  /** Default: `statemachine/migration.asl.json`. */
  readonly stateMachineFile?: string;
  /** Default: `x86_64`. */
  readonly architecture?: 'x86_64' | 'arm64';
  /** Lanes that are seeded at the same time. Default: 10. */
  readonly seedConcurrency?: number;
  /** How long a gate waits for an operator. Default: 14 days. */
  readonly decisionTimeout?: Duration;
  /** How long signed evidence is locked, where the configuration does not say. Default: 2557 days, 7 years. */
  readonly evidenceRetentionDays?: number;
  /** When segments are removed. Must be longer than the migration takes. Default: 90 days. */
  readonly segmentsExpireDays?: number;
  /** Default: 90 days. */
  readonly logRetentionDays?: number;
  /** SNS topic that messages and alarms go to. Default: one is made. */
  readonly chatTopicArn?: string;
  /** A Slack channel, where Amazon Q in chat applications has been let into the workspace. */
  readonly slack?: { readonly workspaceId: string; readonly channelId: string };
  /** Event bus of that name. Default: `default`. */
  readonly eventBus?: string;
  readonly keys?: {
    /** Encrypts table, buckets, logs, topic and variables. Default: one is made. */
    readonly dataKeyArn?: string;
    /** Signs evidence: an Ed25519 key. Default: one is made. */
    readonly signingKeyArn?: string;
    /** Keys of secrets and of buckets that were there before. */
    readonly otherKeyArns?: string[];
  };
  /** Put on every role. */
  readonly permissionsBoundaryArn?: string;
  /** X-Ray for the state machine. Default: off. */
  readonly tracing?: boolean;
  /** What is logged, as in RUST_LOG. Default: `info`. */
  readonly logLevel?: string;
}

export class Krossing extends Construct {
  readonly stateMachine: sfn.StateMachine;
  readonly functions: Record<string, lambda.Function>;

  private readonly file: StackFile = readStackFile();
  private readonly stack = Stack.of(this);
  private readonly prefix: string;

  constructor(scope: Construct, id: string, props: KrossingProps) {
    super(scope, id);
    refuseOddInput(props);
    this.prefix = `krossing-${props.name}`;
    if (props.permissionsBoundaryArn !== undefined) {
      iam.PermissionsBoundary.of(this).apply(
        iam.ManagedPolicy.fromManagedPolicyArn(this, 'Boundary', props.permissionsBoundaryArn),
      );
    }
    const configuration = Configuration.read(props.configuration);
    if (props.evidenceRetentionDays !== undefined && configuration.text('evidence.retention') !== undefined) {
      throw new Error('evidenceRetentionDays and evidence.retention of the configuration say the same thing: give one');
    }
    const names = this.names(props);
    const dataKey = this.dataKey(props);
    const stores = this.stores(props, configuration, dataKey);
    const signingKeyArn = props.keys?.signingKeyArn ?? this.signingKey().keyArn;
    const topic = this.chatTopic(props, dataKey);
    const letters = this.deadLetters();
    const image = workerImage(this, props.worker.image, props.architecture ?? 'x86_64');

    const facts: Facts = {
      lists: {
        Secrets: configuration.secrets().map((secret) => this.secretArn(secret)),
        OtherKeys: props.keys?.otherKeyArns ?? [],
        FunctionsOfStateMachine: this.file.functions.filter((one) => one.name !== 'decide').map((one) => names.functionArn(one.name)),
        ImageRepository: image.repositoryArn === undefined ? [] : [image.repositoryArn],
      },
      holds: {
        source_iam: configuration.text('source.auth.mode') === 'iam',
        target_iam: configuration.text('target.auth.mode') === 'iam',
        source_arn: configuration.clusterArn('source') !== undefined,
        target_arn: configuration.clusterArn('target') !== undefined,
        any_arn: ['source', 'target'].some((side) => configuration.clusterArn(side) !== undefined),
        secrets: configuration.secrets().length > 0,
        other_keys: (props.keys?.otherKeyArns ?? []).length > 0,
        own_image: image.repositoryArn !== undefined,
        marks: configuration.marks,
        tracing: props.tracing === true,
      },
      texts: {
        ...clusterTexts('Source', configuration.clusterArn('source')),
        ...clusterTexts('Target', configuration.clusterArn('target')),
        Partition: this.stack.partition,
        Region: this.stack.region,
        Account: this.stack.account,
        Stack: props.name,
        TableArn: stores.table.tableArn,
        SegmentsBucketArn: stores.segments.bucketArn,
        EvidenceBucketArn: stores.evidence.bucketArn,
        DataKeyArn: dataKey.keyArn,
        SigningKeyArn: signingKeyArn,
        DeadLettersArn: letters.queueArn,
        EventBus: props.eventBus ?? 'default',
        Metrics: `Krossing/${props.name}`,
        StateMachine: names.stateMachineArn,
        Cluster: names.clusterArn,
        ClusterName: this.prefix,
        OwnFunctions: names.functionArn('*'),
        DeadLettersName: letters.queueName,
        DrainMaxPartitionLag: String(configuration.drainMaxPartitionLag),
        FreezeBudgetMs: String(configuration.freezeBudgetMs),
        // A day more: what is left is counted in days that have begun.
        EvidenceRetentionDaysMax: String((configuration.retentionDaysMax ?? retentionDays(props)) + 1),
      },
    };

    const fill: Record<string, string> = {
      SegmentsBucketName: stores.segments.bucketName,
      EvidenceBucketName: stores.evidence.bucketName,
      EvidenceRetention: `${retentionDays(props)}d`,
      SigningKeyArn: signingKeyArn,
      TableName: stores.table.tableName,
      Region: this.stack.region,
    };
    const variables: Record<string, string> = {
      KROSSING_CONFIG: configuration.completed(
        this.stack,
        Object.fromEntries(Object.entries(this.file.configuration).map(([place, name]) => [place, fill[name]!])),
      ),
      KROSSING_EVENT_BUS: props.eventBus ?? 'default',
      RUST_LOG: props.logLevel ?? 'info',
    };
    refuseLargeEnvironment(this.stack, variables);

    const vpc = ec2.Vpc.fromVpcAttributes(this, 'Vpc', {
      vpcId: props.network.vpcId,
      // Nothing here asks in which zones they are, but the library wants as many names as there are subnets.
      availabilityZones: props.network.subnetIds.map((_, zone) => `zone-${zone}`),
      privateSubnetIds: props.network.subnetIds,
    });
    const groups = props.network.securityGroupIds.map((group, index) =>
      ec2.SecurityGroup.fromSecurityGroupId(this, `SecurityGroup${index}`, group, { mutable: false }),
    );

    const known = Annotations.of(this);
    known.acknowledgeWarning('@aws-cdk/aws-ec2:noSubnetRouteTableId', 'nobody here asks a subnet for its routes');
    known.acknowledgeWarning('@aws-cdk/aws-ecs:ecrImageRequiresPolicy', 'the right to pull is in infra/stack.json');
    Validations.of(this).acknowledge({ id: 'CloudFormation-Validate::E1029', reason: '${secretsmanager:…} is read by Krossing, not by CloudFormation' });

    const logGroups: Record<string, logs.LogGroup> = {};
    const logGroup = (name: string, logGroupName: string) =>
      (logGroups[name] = new logs.LogGroup(this, `${pascal(name)}Log`, {
        logGroupName,
        retention: props.logRetentionDays ?? logs.RetentionDays.THREE_MONTHS,
        encryptionKey: dataKey,
        removalPolicy: RemovalPolicy.DESTROY,
      }));
    const role = (name: string, service: string, grants: string[], more: Record<string, string[]> = {}) =>
      new iam.Role(this, `${pascal(name)}Role`, {
        assumedBy: new iam.ServicePrincipal(service, this.trustConditions(service)),
        inlinePolicies: {
          krossing: new iam.PolicyDocument({
            statements: statements(this.file, grants, { ...facts, lists: { ...facts.lists, ...more } }),
          }),
        },
      });

    this.functions = {};
    for (const entry of this.file.functions) {
      const log = logGroup(entry.name, `/aws/lambda/${this.prefix}-${entry.name}`);
      this.functions[entry.name] = new lambda.Function(this, `${pascal(entry.name)}Function`, {
        functionName: `${this.prefix}-${entry.name}`,
        description: `Krossing ${props.name}: ${entry.does}`,
        runtime: lambda.Runtime.PROVIDED_AL2023,
        architecture: props.architecture === 'arm64' ? lambda.Architecture.ARM_64 : lambda.Architecture.X86_64,
        handler: 'bootstrap',
        code: lambda.Code.fromAsset(functionFolder(props, entry.binary)),
        timeout: Duration.seconds(entry.timeout_seconds),
        memorySize: entry.memory_mb,
        environment: only(variables, entry.environment),
        environmentEncryption: dataKey,
        role: role(entry.name, 'lambda.amazonaws.com', entry.grants, { OwnLogStreams: [log.logGroupArn] }).withoutPolicyUpdates(),
        logGroup: log,
        vpc,
        vpcSubnets: { subnets: vpc.privateSubnets },
        securityGroups: groups,
        // Only recover is called without anybody waiting for its answer.
        ...(entry.name === 'recover' && { deadLetterQueue: letters, retryAttempts: 2, maxEventAge: Duration.hours(6) }),
      });
    }

    const cluster = new ecs.Cluster(this, 'Cluster', {
      clusterName: this.prefix,
      vpc,
      enableFargateCapacityProviders: true,
      // The alarm on a stalled heartbeat asks how many tasks run.
      containerInsightsV2: ecs.ContainerInsights.ENABLED,
    });
    const workerLog = logGroup('worker', `/krossing/${props.name}/worker`);
    const workerRole = role('worker', 'ecs-tasks.amazonaws.com', this.file.worker.grants);
    const startRole = this.otherRole(role, 'worker-start', { OwnLogStreams: [workerLog.logGroupArn] });
    const task = new ecs.FargateTaskDefinition(this, 'WorkerTask', {
      family: names.workerFamily,
      cpu: props.worker.cpu ?? 2048,
      memoryLimitMiB: props.worker.memoryMb ?? 4096,
      taskRole: workerRole.withoutPolicyUpdates(),
      executionRole: startRole.withoutPolicyUpdates(),
      runtimePlatform: {
        cpuArchitecture: props.architecture === 'arm64' ? ecs.CpuArchitecture.ARM64 : ecs.CpuArchitecture.X86_64,
        operatingSystemFamily: ecs.OperatingSystemFamily.LINUX,
      },
    });
    task.addContainer('Worker', {
      containerName: this.file.worker.container,
      image: image.image,
      environment: only(variables, this.file.worker.environment),
      logging: ecs.LogDrivers.awsLogs({ logGroup: workerLog, streamPrefix: 'worker', mode: ecs.AwsLogDriverMode.NON_BLOCKING }),
      user: this.file.worker.user,
      readonlyRootFilesystem: true,
      privileged: false,
      stopTimeout: Duration.seconds(this.file.worker.stop_timeout_seconds),
    });

    const workflowLog = logGroup('workflow', `/aws/vendedlogs/states/${this.prefix}`);
    const machineRole = this.otherRole(role, 'state-machine', { WorkerRoles: [workerRole.roleArn, startRole.roleArn] });
    this.stateMachine = new sfn.StateMachine(this, 'StateMachine', {
      stateMachineName: this.prefix,
      stateMachineType: sfn.StateMachineType.STANDARD,
      definitionBody: sfn.DefinitionBody.fromString(
        readFileSync(props.stateMachineFile ?? path.join(REPOSITORY, this.file.state_machine.definition), 'utf8'),
      ),
      definitionSubstitutions: this.placeholders(props, names),
      role: machineRole.withoutPolicyUpdates(),
      // Executions carry identities and outcomes only, and tokens: the log has no use for those.
      logs: { destination: workflowLog, level: sfn.LogLevel.ALL, includeExecutionData: false },
      tracingEnabled: props.tracing === true,
    });
    this.stateMachine.node.addDependency(task, cluster, machineRole);
    // cfn-lint 1.58 reads JSONata as text where a number may stand, and falls over in branches; asl-validator judges.
    (this.stateMachine.node.defaultChild as sfn.CfnStateMachine).addMetadata('cfn-lint', {
      config: { ignore_checks: ['E3601', 'E1101'] },
    });

    const rules = filled(this.file.rules, facts.texts);
    rules.forEach((rule) => this.rule(rule, props, letters, topic));

    if (props.slack !== undefined) {
      new chatbot.SlackChannelConfiguration(this, 'Slack', {
        slackChannelConfigurationName: this.prefix,
        slackWorkspaceId: props.slack.workspaceId,
        slackChannelId: props.slack.channelId,
        notificationTopics: [topic],
        role: this.otherRole(role, 'chat').withoutPolicyUpdates(),
        // A channel can do no more than its role, whatever its members may do.
        guardrailPolicies: [iam.ManagedPolicy.fromAwsManagedPolicyName('service-role/AWSLambdaRole')],
      });
    }
    makeEndpoints(this, this.file, props.network, this.prefix);
    makeAlarms(this, { ...this.file, alarms: filled(this.file.alarms, facts.texts) }, this.prefix, `Krossing/${props.name}`, logGroups, topic);
    const dashboard = makeDashboard(this, this.prefix, workflowLog, this.stateMachine);

    this.output('StateMachineArn', this.stateMachine.stateMachineArn);
    this.output('Table', stores.table.tableName);
    this.output('SegmentsBucket', stores.segments.bucketName);
    this.output('EvidenceBucket', stores.evidence.bucketName);
    this.output('SigningKey', signingKeyArn);
    this.output('ChatTopic', topic.topicArn);
    this.output('DecideFunction', `${this.prefix}-decide`);
    this.output('Dashboard', dashboard);
    this.output('WorkerLog', workerLog.logGroupName);
    this.output(
      'Start',
      `aws stepfunctions start-execution --state-machine-arn ${this.stateMachine.stateMachineArn} --name MIGRATION_ID-1 --input '{"migration_id":"MIGRATION_ID"}'`,
    );
  }

  /** Names that are given before anything is made: roles and rules name each other's resources without a circle. */
  private names(props: KrossingProps) {
    const workerFamily = `${this.prefix}-worker`;
    return {
      workerFamily,
      workerTaskArn: this.arn('ecs', 'task-definition', workerFamily),
      clusterArn: this.arn('ecs', 'cluster', this.prefix),
      stateMachineArn: this.arn('states', 'stateMachine', this.prefix, ArnFormat.COLON_RESOURCE_NAME),
      functionArn: (name: string) => this.arn('lambda', 'function', `${this.prefix}-${name}`, ArnFormat.COLON_RESOURCE_NAME),
      subnets: props.network.subnetIds.join(','),
    };
  }

  private placeholders(props: KrossingProps, names: ReturnType<Krossing['names']>): Record<string, string> {
    const values: Record<string, string> = {
      Cluster: names.clusterArn,
      WorkerTask: names.workerTaskArn,
      Subnets: names.subnets,
      SecurityGroups: props.network.securityGroupIds.join(','),
      SeedConcurrency: String(props.seedConcurrency ?? 10),
      DecisionTimeoutSeconds: String((props.decisionTimeout ?? Duration.days(14)).toSeconds()),
    };
    return Object.fromEntries(
      Object.entries(this.file.state_machine.placeholders).map(([name, means]) => [
        name,
        means.startsWith('function ') ? this.functions[means.slice('function '.length)]!.functionArn : values[name]!,
      ]),
    );
  }

  private dataKey(props: KrossingProps): kms.IKey {
    if (props.keys?.dataKeyArn !== undefined) return kms.Key.fromKeyArn(this, 'DataKey', props.keys.dataKeyArn);
    const key = new kms.Key(this, 'DataKey', {
      description: `Krossing ${props.name}: table, buckets, logs, messages`,
      alias: `${this.prefix}-data`,
      enableKeyRotation: true,
      // Evidence that cannot be decrypted proves nothing.
      removalPolicy: RemovalPolicy.RETAIN,
    });
    key.addToResourcePolicy(
      new iam.PolicyStatement({
        principals: [new iam.ServicePrincipal(`logs.${this.stack.region}.amazonaws.com`)],
        actions: ['kms:Encrypt', 'kms:Decrypt', 'kms:ReEncryptFrom', 'kms:ReEncryptTo', 'kms:GenerateDataKey', 'kms:DescribeKey'],
        resources: ['*'],
        conditions: {
          ArnLike: {
            'kms:EncryptionContext:aws:logs:arn': ['/aws/lambda/', '/aws/vendedlogs/states/']
              .map((folder) => `${folder}${this.prefix}*`)
              .concat(`/krossing/${props.name}/*`)
              .map((group) => this.arn('logs', 'log-group', group, ArnFormat.COLON_RESOURCE_NAME)),
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

  private signingKey(): kms.Key {
    return new kms.Key(this, 'SigningKey', {
      description: 'Krossing: signs evidence (Ed25519)',
      alias: `${this.prefix}-evidence`,
      keySpec: kms.KeySpec.ECC_NIST_EDWARDS25519,
      keyUsage: kms.KeyUsage.SIGN_VERIFY,
      removalPolicy: RemovalPolicy.RETAIN,
    });
  }

  private stores(props: KrossingProps, configuration: Configuration, dataKey: kms.IKey) {
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
      removalPolicy: RemovalPolicy.RETAIN,
    };
    const leftovers = { abortIncompleteMultipartUploadAfter: Duration.days(7) };
    const segments = named('backup.s3_bucket');
    const evidence = named('evidence.s3_bucket');
    const table = named('ledger.dynamodb_table');
    return {
      segments: segments
        ? s3.Bucket.fromBucketName(this, 'Segments', segments)
        : new s3.Bucket(this, 'Segments', {
            ...bucket,
            lifecycleRules: [{ id: 'segments-expire', expiration: Duration.days(props.segmentsExpireDays ?? 90), ...leftovers }],
          }),
      // No default retention: it would lock plans and maps too. What is signed is locked object by object.
      evidence: evidence
        ? s3.Bucket.fromBucketName(this, 'Evidence', evidence)
        : new s3.Bucket(this, 'Evidence', {
            ...bucket,
            versioned: true,
            objectLockEnabled: true,
            lifecycleRules: [{ id: 'unfinished-uploads', ...leftovers }],
          }),
      table: table
        ? dynamodb.Table.fromTableName(this, 'Table', table)
        : new dynamodb.Table(this, 'Table', {
            partitionKey: { name: 'scope', type: dynamodb.AttributeType.STRING },
            sortKey: { name: 'item', type: dynamodb.AttributeType.STRING },
            billingMode: dynamodb.BillingMode.PAY_PER_REQUEST,
            pointInTimeRecoverySpecification: { pointInTimeRecoveryEnabled: true },
            encryption: dynamodb.TableEncryption.CUSTOMER_MANAGED,
            encryptionKey: dataKey,
            deletionProtection: true,
            removalPolicy: RemovalPolicy.RETAIN,
          }),
    };
  }

  private chatTopic(props: KrossingProps, dataKey: kms.IKey): sns.ITopic {
    if (props.chatTopicArn !== undefined) return sns.Topic.fromTopicArn(this, 'ChatTopic', props.chatTopicArn);
    const topic = new sns.Topic(this, 'ChatTopic', {
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
        conditions: { ArnLike: { 'aws:SourceArn': this.arn('cloudwatch', 'alarm', `${this.prefix}-*`, ArnFormat.COLON_RESOURCE_NAME) } },
      }),
    );
    return topic;
  }

  private deadLetters(): sqs.Queue {
    return new sqs.Queue(this, 'DeadLetters', {
      // EventBridge and Lambda write it: with a key of SQS's own neither needs a right on ours.
      encryption: sqs.QueueEncryption.SQS_MANAGED,
      enforceSSL: true,
      retentionPeriod: Duration.days(14),
    });
  }

  private rule(rule: RuleEntry, props: KrossingProps, letters: sqs.IQueue, topic: sns.ITopic): void {
    const bus = props.eventBus ?? 'default';
    const made = new events.Rule(this, `${pascal(rule.name)}Rule`, {
      ruleName: `${this.prefix}-${rule.name}`,
      description: `Krossing ${props.name}: ${rule.why}`,
      eventPattern: eventPattern(rule.pattern),
      // What AWS itself reports comes on the default bus, whatever ours is.
      ...(rule.bus !== 'default' && bus !== 'default' && { eventBus: events.EventBus.fromEventBusName(this, 'EventBus', bus) }),
    });
    const delivery = { deadLetterQueue: letters, retryAttempts: 20, maxEventAge: Duration.hours(6) };
    made.addTarget(
      rule.target === 'chat topic'
        ? new targets.SnsTopic(topic, { message: events.RuleTargetInput.fromEventPath(rule.input_path!), ...delivery })
        : new targets.LambdaFunction(this.functions[rule.target]!, delivery),
    );
  }

  private otherRole(
    role: (name: string, service: string, grants: string[], more?: Record<string, string[]>) => iam.Role,
    name: string,
    more: Record<string, string[]> = {},
  ): iam.Role {
    const entry = this.file.other_roles[name]!;
    return role(name, entry.trusts, entry.grants, more);
  }

  /** Services that act for many accounts are trusted only when they act for this one. */
  private trustConditions(service: string): iam.ServicePrincipalOpts {
    const confused = service === 'ecs-tasks.amazonaws.com' || service === 'states.amazonaws.com';
    return confused ? { conditions: { StringEquals: { 'aws:SourceAccount': this.stack.account } } } : {};
  }

  private secretArn(secret: string): string {
    // Secrets Manager ends an ARN with six characters of its own.
    return secret.startsWith('arn:') ? secret : this.arn('secretsmanager', 'secret', `${secret}-??????`, ArnFormat.COLON_RESOURCE_NAME);
  }

  private arn(service: string, resource: string, resourceName: string, arnFormat = ArnFormat.SLASH_RESOURCE_NAME): string {
    return this.stack.formatArn({ service, resource, resourceName, arnFormat });
  }

  private output(name: string, value: string): void {
    new CfnOutput(this, `Output${name}`, { value }).overrideLogicalId(name);
  }
}

/** What the ARNs of topics and groups are made of: they differ from their cluster's in the middle. */
function clusterTexts(side: 'Source' | 'Target', cluster: string | undefined): Record<string, string> {
  const [head, tail] = cluster?.split(':cluster/') ?? [];
  return head === undefined || tail === undefined ? {} : { [`${side}ArnHead`]: head, [`${side}ArnTail`]: tail };
}

function eventPattern(pattern: Record<string, unknown>): events.EventPattern {
  const { 'detail-type': detailType, ...rest } = pattern;
  return (detailType === undefined ? rest : { ...rest, detailType }) as events.EventPattern;
}

function refuseOddInput(props: KrossingProps): void {
  const problems: string[] = [];
  if (!/^[a-z][a-z0-9-]{0,29}$/.test(props.name)) {
    problems.push('name: 1 to 30 small letters, digits and hyphens, beginning with a letter');
  }
  if (props.network.subnetIds.length === 0) problems.push('network.subnetIds: at least one subnet, two in production');
  if (props.network.securityGroupIds.length === 0) problems.push('network.securityGroupIds: at least one');
  if (props.seedConcurrency !== undefined && !(props.seedConcurrency >= 1 && props.seedConcurrency <= 1000)) {
    problems.push('seedConcurrency: 1 to 1000');
  }
  if (retentionDays(props) < 1 || retentionDays(props) > 36500) problems.push('evidenceRetentionDays: 1 to 36500');
  if ((props.decisionTimeout ?? Duration.days(14)).toSeconds() > Duration.days(365).toSeconds()) {
    problems.push('decisionTimeout: at most 365 days, which is as long as an execution may take');
  }
  if (problems.length > 0) throw new Error(`cannot make a stack of this input:\n  ${problems.join('\n  ')}`);
}

function functionFolder(props: KrossingProps, binary: string): string {
  const folder = path.join(props.functionsFolder ?? path.join(REPOSITORY, 'target/lambda'), binary);
  if (!existsSync(path.join(folder, 'bootstrap'))) {
    throw new Error(`${path.join(folder, 'bootstrap')} is not there: build the functions first (infra/README.md says how), or give functionsFolder`);
  }
  return folder;
}

function retentionDays(props: KrossingProps): number {
  return props.evidenceRetentionDays ?? 2557;
}

function only(variables: Record<string, string>, names: string[]): Record<string, string> {
  return Object.fromEntries(names.map((name) => [name, variables[name]!]));
}

function pascal(name: string): string {
  return name.split('-').map((part) => part[0]!.toUpperCase() + part.slice(1)).join('');
}
