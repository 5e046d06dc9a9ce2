/**
 * VPC endpoints, for subnets that have no other way to AWS.
 *
 * Made only where asked for: in a VPC that has them already a second one of the same name is refused by AWS, and others
 * use what is there. The group that they get lets in Krossing's own security groups and nobody else.
 */
import { Stack, Tags, aws_ec2 as ec2 } from 'aws-cdk-lib';
import type { Construct } from 'constructs';
import type { KrossingProps } from './krossing';
import type { StackFile } from './stack-file';

export function makeEndpoints(scope: Construct, file: StackFile, network: KrossingProps['network'], prefix: string): void {
  const { gateway, interface: byInterface } = file.endpoints;
  const wanted = network.endpoints === 'needed' ? [...gateway, ...byInterface] : (network.endpoints ?? []);
  const unknown = wanted.filter((name) => ![...gateway, ...byInterface].includes(name));
  if (unknown.length > 0) {
    throw new Error(`network.endpoints: ${unknown.join(', ')} is not among ${[...gateway, ...byInterface].join(', ')}`);
  }
  const region = Stack.of(scope).region;
  const gateways = wanted.filter((name) => gateway.includes(name));
  if (gateways.length > 0 && (network.routeTableIds ?? []).length === 0) {
    throw new Error(`network.routeTableIds: endpoints of ${gateways.join(' and ')} are routes: name the route tables of the subnets`);
  }
  for (const name of gateways) {
    new ec2.CfnVPCEndpoint(scope, `Endpoint-${name}`, {
      vpcEndpointType: 'Gateway',
      serviceName: `com.amazonaws.${region}.${name}`,
      vpcId: network.vpcId,
      routeTableIds: network.routeTableIds,
    });
  }
  const interfaces = wanted.filter((name) => byInterface.includes(name));
  if (interfaces.length === 0) return;
  const group = new ec2.CfnSecurityGroup(scope, 'EndpointsGroup', {
    vpcId: network.vpcId,
    groupDescription: `${prefix}: endpoints of AWS services`,
    securityGroupIngress: network.securityGroupIds.map((from) => ({
      ipProtocol: 'tcp',
      fromPort: 443,
      toPort: 443,
      sourceSecurityGroupId: from,
      description: 'HTTPS from functions and worker',
    })),
    // An endpoint begins no connection. Without a rule of its own the group would let everything out.
    securityGroupEgress: [{ ipProtocol: 'icmp', fromPort: 252, toPort: 86, cidrIp: '255.255.255.255/32', description: 'nothing' }],
  });
  Tags.of(group).add('Name', `${prefix}-endpoints`);
  for (const name of interfaces) {
    new ec2.CfnVPCEndpoint(scope, `Endpoint-${name}`, {
      vpcEndpointType: 'Interface',
      serviceName: `com.amazonaws.${region}.${name}`,
      vpcId: network.vpcId,
      subnetIds: network.subnetIds,
      securityGroupIds: [group.attrGroupId],
      privateDnsEnabled: true,
    });
  }
}
