"""Deploys a template to moto's CloudFormation and looks at what is there afterwards.

Shows that references, names and order hold together without an account. What moto does not know it leaves out and
says so; the list of that is held here, so that it can only get shorter unnoticed.
"""

import io
import json
import logging
import sys
import warnings
import zipfile
from pathlib import Path

import boto3
from moto import mock_aws

ACCOUNT = "123456789012"
STACK = "krossing-prod"
# Types that moto's CloudFormation passes over.
UNKNOWN_TO_MOTO = {
    "AWS::CloudWatch::Alarm",
    "AWS::Chatbot::SlackChannelConfiguration",
    "AWS::Lambda::EventInvokeConfig",
    "AWS::Logs::MetricFilter",
    "AWS::S3::BucketPolicy",
    "AWS::SNS::TopicPolicy",
    "AWS::SQS::QueuePolicy",
}


@mock_aws
def main(folder: Path) -> None:
    # Each type that moto passes over, twice; what was passed over is held below.
    warnings.simplefilter("ignore")
    logging.getLogger("moto").setLevel(logging.ERROR)
    region = "eu-west-1"
    session = boto3.Session(aws_access_key_id="test", aws_secret_access_key="test", region_name=region)
    client = session.client

    template = json.loads((folder / f"{STACK}.template.json").read_text())
    # What `cdk bootstrap` leaves in an account.
    client("ssm").put_parameter(Name="/cdk-bootstrap/hnb659fds/version", Value="21", Type="String")
    publish_assets(client("s3"), folder, region)
    body = in_a_network(client("ec2"), without_what_moto_misreads(template))

    client("s3").create_bucket(Bucket="templates", CreateBucketConfiguration={"LocationConstraint": region})
    client("s3").put_object(Bucket="templates", Key="t.json", Body=body)
    cloudformation = client("cloudformation")
    cloudformation.create_stack(
        StackName=STACK,
        TemplateURL="https://templates.s3.amazonaws.com/t.json",
        Capabilities=["CAPABILITY_NAMED_IAM"],
    )
    stack = cloudformation.describe_stacks(StackName=STACK)["Stacks"][0]
    assert stack["StackStatus"] == "CREATE_COMPLETE", stack
    outputs = {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}

    made = {r["LogicalResourceId"] for page in cloudformation.get_paginator("list_stack_resources").paginate(StackName=STACK) for r in page["StackResourceSummaries"]}
    missing = {name: r["Type"] for name, r in template["Resources"].items() if name not in made}
    odd = {name: kind for name, kind in missing.items() if kind not in UNKNOWN_TO_MOTO}
    assert not odd, f"not made: {odd}"

    look(client, outputs)
    print(f"{len(made)} resources are there; moto passes over {len(missing)} others, of the types {', '.join(sorted(set(missing.values())))}")


def publish_assets(s3, folder: Path, region: str) -> None:
    """What `cdk deploy` does before: the functions' code."""
    assets = json.loads((folder / f"{STACK}.assets.json").read_text())
    code = io.BytesIO()
    with zipfile.ZipFile(code, "w") as archive:
        archive.writestr("bootstrap", "#!/bin/sh\n")
    bucket = f"cdk-hnb659fds-assets-{ACCOUNT}-{region}"
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": region})
    for file in assets["files"].values():
        for to in file["destinations"].values():
            s3.put_object(Bucket=bucket, Key=to["objectKey"], Body=code.getvalue())


def without_what_moto_misreads(template: dict) -> str:
    for resource in template["Resources"].values():
        # moto reads a key's tags under the names that KMS's own API has.
        if resource["Type"] == "AWS::KMS::Key":
            resource["Properties"].pop("Tags", None)
    return json.dumps(template)


def in_a_network(ec2, body: str) -> str:
    """The template with ids of a VPC that exists, which is the user's and not the stack's."""
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnets = [ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.0.{n}.0/24")["Subnet"]["SubnetId"] for n in range(2)]
    group = ec2.create_security_group(GroupName="functions", Description="functions", VpcId=vpc)["GroupId"]
    table = ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
    for given, real in {
        "vpc-0123456789abcdef0": vpc,
        "subnet-0123456789abcdef0": subnets[0],
        "subnet-0123456789abcdef1": subnets[1],
        "sg-0123456789abcdef0": group,
        "rtb-0123456789abcdef0": table,
    }.items():
        assert given in body, f"the template does not name {given}"
        body = body.replace(given, real)
    return body


def look(client, outputs: dict) -> None:
    table = client("dynamodb").describe_table(TableName=outputs["Table"])["Table"]
    assert [(k["AttributeName"], k["KeyType"]) for k in table["KeySchema"]] == [("scope", "HASH"), ("item", "RANGE")], table
    functions = {f["FunctionName"]: f for f in client("lambda").list_functions()["Functions"]}
    assert outputs["DecideFunction"] in functions and len(functions) == 9, list(functions)
    config = json.loads(functions[outputs["DecideFunction"]]["Environment"]["Variables"]["KROSSING_CONFIG"])["migration"]
    assert config["ledger"]["dynamodb_table"] == outputs["Table"], config
    assert config["backup"]["s3_bucket"] == outputs["SegmentsBucket"], config
    assert config["evidence"]["s3_bucket"] == outputs["EvidenceBucket"], config
    assert config["evidence"]["kms_key_id"] == outputs["SigningKey"], config
    task = client("ecs").describe_task_definition(taskDefinition="krossing-prod-worker")["taskDefinition"]
    assert task["containerDefinitions"][0]["name"] == "worker", task
    machine = client("stepfunctions").describe_state_machine(stateMachineArn=outputs["StateMachineArn"])
    assert machine["name"] == STACK and machine["type"] == "STANDARD", machine
    rules = {rule["Name"]: rule for rule in client("events").list_rules()["Rules"]}
    ended = json.loads(rules[f"{STACK}-execution-ended"]["EventPattern"])
    assert ended["detail"]["stateMachineArn"] == [outputs["StateMachineArn"]], ended
    chat = client("events").list_targets_by_rule(Rule=f"{STACK}-chat")["Targets"][0]
    assert (chat["Arn"], chat["InputPath"]) == (outputs["ChatTopic"], "$.detail.chat"), chat
    assert outputs["StateMachineArn"] in outputs["Start"], outputs["Start"]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
