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
  aws_ec2 as ec2,
  aws_ecs as ecs,
  aws_events as events,
  aws_events_targets as targets,
  aws_iam as iam,
  type aws_kms as kms,
  aws_lambda as lambda,
  aws_logs as logs,
  aws_sns as sns,
  type aws_sqs as sqs,
  aws_stepfunctions as sfn,
} from 'aws-cdk-lib';
import { Construct } from 'constructs';
import { Configuration, refuseLargeEnvironment } from './configuration';
import { makeEndpoints } from './endpoints';
import { refuseOddInput, retentionDays } from './input';
import { type Facts, type RuleEntry, REPOSITORY, type StackFile, filled, readStackFile, statements } from './stack-file';
import { makeAlarms, makeDashboard } from './watching';
import { arnOf, makeChatTopic, makeDataKey, makeDeadLetters, makeSigningKey, makeStores } from './stores';
import { type MadeImage, type WorkerImage, workerImage } from './worker-image';

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

/** Names that are given before anything is made. */
interface Names {
  readonly workerFamily: string;
  readonly workerTaskArn: string;
  readonly clusterArn: string;
  readonly stateMachineArn: string;
  readonly functionArn: (name: string) => string;
}

interface Kept extends ReturnType<typeof makeStores> {
  readonly dataKey: kms.IKey;
  readonly signingKeyArn: string;
  readonly topic: sns.ITopic;
  readonly letters: sqs.IQueue;
}

interface Worker {
  readonly cluster: ecs.ICluster;
  readonly task: ecs.FargateTaskDefinition;
  readonly roles: iam.Role[];
}

export class Krossing extends Construct {
  readonly stateMachine: sfn.StateMachine;
  readonly functions: Record<string, lambda.Function> = {};

  private readonly file: StackFile = readStackFile();
  private readonly stack = Stack.of(this);
  private readonly prefix: string;
  private readonly configuration: Configuration;
  private readonly names: Names;
  private readonly kept: Kept;
  private readonly image: MadeImage;
  private readonly facts: Facts;
  private readonly logGroups: Record<string, logs.LogGroup> = {};

  constructor(scope: Construct, id: string, private readonly props: KrossingProps) {
    super(scope, id);
    refuseOddInput(props);
    this.prefix = `krossing-${props.name}`;
    this.configuration = Configuration.read(props.configuration);
    if (props.evidenceRetentionDays !== undefined && this.configuration.text('evidence.retention') !== undefined) {
      throw new Error('evidenceRetentionDays and evidence.retention of the configuration say the same thing: give one');
    }
    if (props.permissionsBoundaryArn !== undefined) {
      iam.PermissionsBoundary.of(this).apply(
        iam.ManagedPolicy.fromManagedPolicyArn(this, 'Boundary', props.permissionsBoundaryArn),
      );
    }
    this.acknowledge();

    this.names = this.namesGiven();
    const dataKey = makeDataKey(this, props, this.prefix);
    this.kept = {
      dataKey,
      ...makeStores(this, props, this.configuration, dataKey),
      signingKeyArn: props.keys?.signingKeyArn ?? makeSigningKey(this, this.prefix).keyArn,
      topic: makeChatTopic(this, props, this.prefix, dataKey),
      letters: makeDeadLetters(this),
    };
    this.image = workerImage(this, props.worker.image, props.architecture ?? 'x86_64');
    this.facts = this.whatStandsForNames();

    const variables = this.variables();
    const vpc = this.vpc();
    this.makeFunctions(variables, vpc);
    const worker = this.makeWorker(variables, vpc);
    this.stateMachine = this.makeStateMachine(worker);
    filled(this.file.rules, this.facts.texts).forEach((rule) => this.rule(rule));
    this.makeChat();
    makeEndpoints(this, this.file, props.network, this.prefix);
    makeAlarms(this, { ...this.file, alarms: filled(this.file.alarms, this.facts.texts) }, this.prefix, this.facts.texts['Metrics']!, this.logGroups, this.kept.topic);
    const dashboard = makeDashboard(this, this.prefix, this.logGroups['workflow']!, this.stateMachine);
    this.say(dashboard);
  }

  /** Names that are given before anything is made: roles and rules name each other's resources without a circle. */
  private namesGiven(): Names {
    const workerFamily = `${this.prefix}-worker`;
    return {
      workerFamily,
      workerTaskArn: this.arn('ecs', 'task-definition', workerFamily),
      clusterArn: this.arn('ecs', 'cluster', this.prefix),
      stateMachineArn: this.arn('states', 'stateMachine', this.prefix, ArnFormat.COLON_RESOURCE_NAME),
      functionArn: (name: string) => this.arn('lambda', 'function', `${this.prefix}-${name}`, ArnFormat.COLON_RESOURCE_NAME),
    };
  }

  /** What stands for the names in `infra/stack.json`. */
  private whatStandsForNames(): Facts {
    return {
      lists: {
        Secrets: this.configuration.secrets().map((secret) => this.secretArn(secret)),
        OtherKeys: this.props.keys?.otherKeyArns ?? [],
        FunctionsOfStateMachine: this.file.functions.filter((one) => one.name !== 'decide').map((one) => this.names.functionArn(one.name)),
        ImageRepository: this.image.repositoryArn === undefined ? [] : [this.image.repositoryArn],
      },
      holds: {
        source_iam: this.configuration.text('source.auth.mode') === 'iam',
        target_iam: this.configuration.text('target.auth.mode') === 'iam',
        source_arn: this.configuration.clusterArn('source') !== undefined,
        target_arn: this.configuration.clusterArn('target') !== undefined,
        any_arn: ['source', 'target'].some((side) => this.configuration.clusterArn(side) !== undefined),
        secrets: this.configuration.secrets().length > 0,
        other_keys: (this.props.keys?.otherKeyArns ?? []).length > 0,
        own_image: this.image.repositoryArn !== undefined,
        marks: this.configuration.marks,
        tracing: this.props.tracing === true,
      },
      texts: {
        ...clusterTexts('Source', this.configuration.clusterArn('source')),
        ...clusterTexts('Target', this.configuration.clusterArn('target')),
        Partition: this.stack.partition,
        Region: this.stack.region,
        Account: this.stack.account,
        Stack: this.props.name,
        TableArn: this.kept.table.tableArn,
        SegmentsBucketArn: this.kept.segments.bucketArn,
        EvidenceBucketArn: this.kept.evidence.bucketArn,
        DataKeyArn: this.kept.dataKey.keyArn,
        SigningKeyArn: this.kept.signingKeyArn,
        DeadLettersArn: this.kept.letters.queueArn,
        EventBus: this.props.eventBus ?? 'default',
        Metrics: `Krossing/${this.props.name}`,
        StateMachine: this.names.stateMachineArn,
        Cluster: this.names.clusterArn,
        ClusterName: this.prefix,
        OwnFunctions: this.names.functionArn('*'),
        DeadLettersName: this.kept.letters.queueName,
        DrainMaxPartitionLag: String(this.configuration.drainMaxPartitionLag),
        FreezeBudgetMs: String(this.configuration.freezeBudgetMs),
        // A day more: what is left is counted in days that have begun.
        EvidenceRetentionDaysMax: String((this.configuration.retentionDaysMax ?? retentionDays(this.props)) + 1),
      },
    };
  }

  /** What functions and worker find in their environment. */
  private variables(): Record<string, string> {
    const fill: Record<string, string> = {
      SegmentsBucketName: this.kept.segments.bucketName,
      EvidenceBucketName: this.kept.evidence.bucketName,
      EvidenceRetention: `${retentionDays(this.props)}d`,
      SigningKeyArn: this.kept.signingKeyArn,
      TableName: this.kept.table.tableName,
      Region: this.stack.region,
      Stack: this.props.name,
    };
    const variables: Record<string, string> = {
      KROSSING_CONFIG: this.configuration.completed(
        this.stack,
        Object.fromEntries(Object.entries(this.file.configuration).map(([place, name]) => [place, fill[name]!])),
      ),
      KROSSING_EVENT_BUS: this.props.eventBus ?? 'default',
      RUST_LOG: this.props.logLevel ?? 'info',
    };
    refuseLargeEnvironment(this.stack, variables);
    return variables;
  }

  private vpc(): ec2.IVpc {
    return ec2.Vpc.fromVpcAttributes(this, 'Vpc', {
      vpcId: this.props.network.vpcId,
      // Nothing here asks in which zones they are, but the library wants as many names as there are subnets.
      availabilityZones: this.props.network.subnetIds.map((_, zone) => `zone-${zone}`),
      privateSubnetIds: this.props.network.subnetIds,
    });
  }

  /** Warnings of the library that say nothing here. */
  private acknowledge(): void {
    const known = Annotations.of(this);
    known.acknowledgeWarning('@aws-cdk/aws-ec2:noSubnetRouteTableId', 'nobody here asks a subnet for its routes');
    known.acknowledgeWarning('@aws-cdk/aws-ecs:ecrImageRequiresPolicy', 'the right to pull is in infra/stack.json');
    Validations.of(this).acknowledge({ id: 'CloudFormation-Validate::E1029', reason: '${secretsmanager:…} is read by Krossing, not by CloudFormation' });
  }

  private logGroup(name: string, logGroupName: string): logs.LogGroup {
    return (this.logGroups[name] = new logs.LogGroup(this, `${pascal(name)}Log`, {
      logGroupName,
      retention: this.props.logRetentionDays ?? logs.RetentionDays.THREE_MONTHS,
      encryptionKey: this.kept.dataKey,
      removalPolicy: RemovalPolicy.DESTROY,
    }));
  }

  private role(name: string, service: string, grants: string[], more: Record<string, string[]> = {}): iam.Role {
    return new iam.Role(this, `${pascal(name)}Role`, {
      assumedBy: new iam.ServicePrincipal(service, this.trustConditions(service)),
      inlinePolicies: {
        krossing: new iam.PolicyDocument({
          statements: statements(this.file, grants, { ...this.facts, lists: { ...this.facts.lists, ...more } }),
        }),
      },
    });
  }

  private makeFunctions(variables: Record<string, string>, vpc: ec2.IVpc): void {
    const groups = this.props.network.securityGroupIds.map((group, index) =>
      ec2.SecurityGroup.fromSecurityGroupId(this, `SecurityGroup${index}`, group, { mutable: false }),
    );

    for (const entry of this.file.functions) {
      const log = this.logGroup(entry.name, `/aws/lambda/${this.prefix}-${entry.name}`);
      this.functions[entry.name] = new lambda.Function(this, `${pascal(entry.name)}Function`, {
        functionName: `${this.prefix}-${entry.name}`,
        description: `Krossing ${this.props.name}: ${entry.does}`,
        runtime: lambda.Runtime.PROVIDED_AL2023,
        architecture: this.props.architecture === 'arm64' ? lambda.Architecture.ARM_64 : lambda.Architecture.X86_64,
        handler: 'bootstrap',
        code: lambda.Code.fromAsset(functionFolder(this.props, entry.binary)),
        timeout: Duration.seconds(entry.timeout_seconds),
        memorySize: entry.memory_mb,
        environment: only(variables, entry.environment),
        environmentEncryption: this.kept.dataKey,
        role: this.role(entry.name, 'lambda.amazonaws.com', entry.grants, { OwnLogStreams: [log.logGroupArn] }).withoutPolicyUpdates(),
        logGroup: log,
        vpc,
        vpcSubnets: { subnets: vpc.privateSubnets },
        securityGroups: groups,
        // Only recover is called without anybody waiting for its answer.
        ...(entry.name === 'recover' && { deadLetterQueue: this.kept.letters, retryAttempts: 2, maxEventAge: Duration.hours(6) }),
      });
    }
  }

  private makeWorker(variables: Record<string, string>, vpc: ec2.IVpc): Worker {
    const cluster = new ecs.Cluster(this, 'Cluster', {
      clusterName: this.prefix,
      vpc,
      // The alarm on a stalled heartbeat asks how many tasks run.
      containerInsightsV2: ecs.ContainerInsights.ENABLED,
    });
    const workerLog = this.logGroup('worker', `/krossing/${this.props.name}/worker`);
    const workerRole = this.role('worker', 'ecs-tasks.amazonaws.com', this.file.worker.grants);
    const startRole = this.otherRole('worker-start', { OwnLogStreams: [workerLog.logGroupArn] });
    const task = new ecs.FargateTaskDefinition(this, 'WorkerTask', {
      family: this.names.workerFamily,
      cpu: this.props.worker.cpu ?? 2048,
      memoryLimitMiB: this.props.worker.memoryMb ?? 4096,
      taskRole: workerRole.withoutPolicyUpdates(),
      executionRole: startRole.withoutPolicyUpdates(),
      runtimePlatform: {
        cpuArchitecture: this.props.architecture === 'arm64' ? ecs.CpuArchitecture.ARM64 : ecs.CpuArchitecture.X86_64,
        operatingSystemFamily: ecs.OperatingSystemFamily.LINUX,
      },
    });
    task.addContainer('Worker', {
      containerName: this.file.worker.container,
      image: this.image.image,
      environment: only(variables, this.file.worker.environment),
      logging: ecs.LogDrivers.awsLogs({ logGroup: workerLog, streamPrefix: 'worker', mode: ecs.AwsLogDriverMode.NON_BLOCKING }),
      user: this.file.worker.user,
      readonlyRootFilesystem: true,
      privileged: false,
      stopTimeout: Duration.seconds(this.file.worker.stop_timeout_seconds),
    });
    return { cluster, task, roles: [workerRole, startRole] };
  }

  private makeStateMachine(worker: Worker): sfn.StateMachine {
    const workflowLog = this.logGroup('workflow', `/aws/vendedlogs/states/${this.prefix}`);
    const machineRole = this.otherRole('state-machine', { WorkerRoles: worker.roles.map((role) => role.roleArn) });
    const machine = new sfn.StateMachine(this, 'StateMachine', {
      stateMachineName: this.prefix,
      stateMachineType: sfn.StateMachineType.STANDARD,
      definitionBody: sfn.DefinitionBody.fromString(
        readFileSync(this.props.stateMachineFile ?? path.join(REPOSITORY, this.file.state_machine.definition), 'utf8'),
      ),
      definitionSubstitutions: this.placeholders(),
      role: machineRole.withoutPolicyUpdates(),
      // Executions carry identities and outcomes only, and tokens: the log has no use for those.
      logs: { destination: workflowLog, level: sfn.LogLevel.ALL, includeExecutionData: false },
      tracingEnabled: this.props.tracing === true,
    });
    machine.node.addDependency(worker.task, worker.cluster, machineRole);
    // cfn-lint 1.58 reads JSONata as text where a number may stand, and falls over in branches; asl-validator judges.
    (machine.node.defaultChild as sfn.CfnStateMachine).addMetadata('cfn-lint', {
      config: { ignore_checks: ['E3601', 'E1101'] },
    });
    return machine;
  }

  private makeChat(): void {
    if (this.props.slack === undefined) return;
    new chatbot.SlackChannelConfiguration(this, 'Slack', {
      slackChannelConfigurationName: this.prefix,
      slackWorkspaceId: this.props.slack.workspaceId,
      slackChannelId: this.props.slack.channelId,
      notificationTopics: [this.kept.topic],
      role: this.otherRole('chat').withoutPolicyUpdates(),
      // A channel can do no more than its role, whatever its members may do.
      guardrailPolicies: [iam.ManagedPolicy.fromAwsManagedPolicyName('service-role/AWSLambdaRole')],
    });
  }

  /** What a user needs next. */
  private say(dashboard: string): void {
    this.output('StateMachineArn', this.stateMachine.stateMachineArn);
    this.output('Table', this.kept.table.tableName);
    this.output('SegmentsBucket', this.kept.segments.bucketName);
    this.output('EvidenceBucket', this.kept.evidence.bucketName);
    this.output('SigningKey', this.kept.signingKeyArn);
    this.output('ChatTopic', this.kept.topic.topicArn);
    this.output('DecideFunction', `${this.prefix}-decide`);
    this.output('Dashboard', dashboard);
    this.output('WorkerLog', this.logGroups['worker']!.logGroupName);
    // The values are those of any function, and this one whoever decides may call.
    this.output(
      'CommandConfiguration',
      `aws lambda get-function-configuration --function-name ${this.prefix}-decide --region ${this.stack.region} --query Environment.Variables.KROSSING_CONFIG --output text > operator.yaml`,
    );
    this.output(
      'Start',
      `aws stepfunctions start-execution --region ${this.stack.region} --state-machine-arn ${this.stateMachine.stateMachineArn} --name MIGRATION_ID-1 --input '{"migration_id":"MIGRATION_ID"}'`,
    );
  }

  private placeholders(): Record<string, string> {
    const values: Record<string, string> = {
      Cluster: this.names.clusterArn,
      WorkerTask: this.names.workerTaskArn,
      Subnets: this.props.network.subnetIds.join(','),
      SecurityGroups: this.props.network.securityGroupIds.join(','),
      SeedConcurrency: String(this.props.seedConcurrency ?? 10),
      DecisionTimeoutSeconds: String((this.props.decisionTimeout ?? Duration.days(14)).toSeconds()),
    };
    return Object.fromEntries(
      Object.entries(this.file.state_machine.placeholders).map(([name, means]) => [
        name,
        means.startsWith('function ') ? this.functions[means.slice('function '.length)]!.functionArn : values[name]!,
      ]),
    );
  }

  private rule(rule: RuleEntry): void {
    const bus = this.props.eventBus ?? 'default';
    const made = new events.Rule(this, `${pascal(rule.name)}Rule`, {
      ruleName: `${this.prefix}-${rule.name}`,
      description: `Krossing ${this.props.name}: ${rule.why}`,
      eventPattern: eventPattern(rule.pattern),
      // What AWS itself reports comes on the default bus, whatever ours is.
      ...(rule.bus !== 'default' && bus !== 'default' && { eventBus: events.EventBus.fromEventBusName(this, 'EventBus', bus) }),
    });
    const delivery = { deadLetterQueue: this.kept.letters, retryAttempts: 20, maxEventAge: Duration.hours(6) };
    made.addTarget(
      rule.target === 'chat topic'
        ? new targets.SnsTopic(this.topicOfRules(rule.name), { message: events.RuleTargetInput.fromEventPath(rule.input_path!), ...delivery })
        : new targets.LambdaFunction(this.functions[rule.target]!, delivery),
    );
  }

  /** By its ARN alone: the library would let the rules of every account write to it. */
  private topicOfRules(rule: string): sns.ITopic {
    return sns.Topic.fromTopicArn(this, `TopicOf${pascal(rule)}`, this.kept.topic.topicArn);
  }

  private otherRole(name: string, more: Record<string, string[]> = {}): iam.Role {
    const entry = this.file.other_roles[name]!;
    return this.role(name, entry.trusts, entry.grants, more);
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
    return arnOf(this, service, resource, resourceName, arnFormat);
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

function functionFolder(props: KrossingProps, binary: string): string {
  const folder = path.join(props.functionsFolder ?? path.join(REPOSITORY, 'target/lambda'), binary);
  if (!existsSync(path.join(folder, 'bootstrap'))) {
    throw new Error(`${path.join(folder, 'bootstrap')} is not there: build the functions first (infra/README.md says how), or give functionsFolder`);
  }
  return folder;
}

function only(variables: Record<string, string>, names: string[]): Record<string, string> {
  return Object.fromEntries(names.map((name) => [name, variables[name]!]));
}

function pascal(name: string): string {
  return name.split('-').map((part) => part[0]!.toUpperCase() + part.slice(1)).join('');
}
