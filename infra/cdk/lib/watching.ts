/**
 * Alarms and the dashboard.
 *
 * Krossing's metrics carry the migration's id, which nobody knows when alarms are made. Alarms therefore watch what is
 * counted once more from the stack's own log; the dashboard searches by metric and shows every migration.
 */
import {
  Duration,
  Stack,
  aws_cloudwatch as cloudwatch,
  aws_cloudwatch_actions as actions,
  aws_logs as logs,
  type aws_sns as sns,
  type aws_stepfunctions as sfn,
} from 'aws-cdk-lib';
import type { Construct } from 'constructs';
import type { StackFile } from './stack-file';

export function makeAlarms(
  scope: Construct,
  file: StackFile,
  prefix: string,
  namespace: string,
  logGroups: Record<string, logs.LogGroup>,
  topic: sns.ITopic,
): void {
  for (const { metric, log } of file.metrics.from_logs) {
    new logs.MetricFilter(scope, `Count-${metric}-${log}`, {
      logGroup: logGroups[log]!,
      filterName: `${prefix}-${metric}-${log}`,
      metricNamespace: namespace,
      metricName: metric,
      metricValue: `$.${metric}`,
      filterPattern: logs.FilterPattern.exists(`$.${metric}`),
    });
  }
  for (const entry of file.alarms) {
    const period = Duration.seconds(entry.period_seconds);
    const usingMetrics = Object.fromEntries(
      Object.entries(entry.metrics).map(([id, metric]) => [
        id,
        new cloudwatch.Metric({
          namespace: metric.namespace,
          metricName: metric.metric,
          statistic: metric.statistic,
          period,
          ...(metric.dimensions && { dimensionsMap: metric.dimensions }),
        }),
      ]),
    );
    const alarm = new cloudwatch.Alarm(scope, `Alarm-${entry.name}`, {
      alarmName: `${prefix}-${entry.name}`,
      alarmDescription: entry.says,
      metric: new cloudwatch.MathExpression({ expression: entry.expression, usingMetrics, period, label: entry.name }),
      comparisonOperator: cloudwatch.ComparisonOperator.GREATER_THAN_OR_EQUAL_TO_THRESHOLD,
      threshold: entry.threshold,
      evaluationPeriods: entry.periods,
      // No data is what a stack has while no migration runs.
      treatMissingData: cloudwatch.TreatMissingData.NOT_BREACHING,
    });
    alarm.addAlarmAction(new actions.SnsAction(topic));
    alarm.addOkAction(new actions.SnsAction(topic));
  }
}

/** Makes it and answers its address. */
export function makeDashboard(scope: Construct, prefix: string, workflow: logs.LogGroup, machine: sfn.StateMachine): string {
  const search = (metric: string, statistic: string, label: string) =>
    new cloudwatch.MathExpression({
      expression: `SEARCH('{Krossing,migration_id,lane} MetricName="${metric}"', '${statistic}', 60)`,
      usingMetrics: {},
      label,
      period: Duration.minutes(1),
    });
  const graph = (title: string, left: cloudwatch.IMetric[], unit: string) =>
    new cloudwatch.GraphWidget({ title, left, width: 12, height: 6, leftYAxis: { label: unit, showUnits: false, min: 0 } });
  const dashboard = new cloudwatch.Dashboard(scope, 'Dashboard', { dashboardName: prefix, defaultInterval: Duration.hours(3) });
  dashboard.addWidgets(
    graph('Lag, by lane', [search('lag_records_total', 'Maximum', '')], 'records'),
    graph('Partitions left, by lane', [search('partitions_left', 'Minimum', '')], 'partitions'),
  );
  dashboard.addWidgets(
    graph(
      'Rate',
      [
        new cloudwatch.MathExpression({
          expression: `SUM(SEARCH('{Krossing,migration_id,lane} MetricName="bytes_written"', 'Sum', 60)) / 60`,
          usingMetrics: {},
          label: 'all lanes',
          period: Duration.minutes(1),
        }),
      ],
      'bytes a second',
    ),
    graph(
      'Executions',
      [machine.metricStarted(), machine.metricSucceeded(), machine.metricFailed(), machine.metricAborted()].map((metric) =>
        metric.with({ period: Duration.minutes(1) }),
      ),
      'executions',
    ),
  );
  dashboard.addWidgets(
    new cloudwatch.LogQueryWidget({
      title: 'State: the last states entered',
      width: 24,
      height: 8,
      logGroupNames: [workflow.logGroupName],
      queryLines: [
        'fields @timestamp, details.name as state, execution_arn',
        'filter type like /StateEntered|Execution(Failed|Aborted|TimedOut|Succeeded)/',
        'sort @timestamp desc',
        'limit 50',
      ],
    }),
  );
  const region = Stack.of(scope).region;
  return `https://${region}.console.aws.amazon.com/cloudwatch/home?region=${region}#dashboards:name=${prefix}`;
}
