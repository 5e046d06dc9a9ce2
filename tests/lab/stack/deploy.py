"""Makes what a stack consists of, in order, as a deployment would. Usage: deploy.py PLAN, a JSON file of stack.rs.

The table lies on DynamoDB Local and the buckets on an S3 server, the rest in moto: the SDK finds them by AWS_ENDPOINT_URL
and its kin. Prints the ARN of the state machine.
"""

import json
import sys

import boto3
from botocore.config import Config

with open(sys.argv[1], encoding="utf-8") as file:
    plan = json.load(file)

table = plan["table"]
boto3.client("dynamodb").create_table(
    TableName=table["name"],
    KeySchema=[{"AttributeName": table["hash"], "KeyType": "HASH"}, {"AttributeName": table["range"], "KeyType": "RANGE"}],
    AttributeDefinitions=[{"AttributeName": table[key], "AttributeType": "S"} for key in ("hash", "range")],
    BillingMode="PAY_PER_REQUEST",
)

s3 = boto3.client("s3", config=Config(s3={"addressing_style": "path"}))
for bucket in plan["buckets"]:
    s3.create_bucket(Bucket=bucket["name"], ObjectLockEnabledForBucket=bucket["object_lock"])

boto3.client("sns").create_topic(Name=plan["topic"])
if plan["event_bus"] != "default":
    boto3.client("events").create_event_bus(Name=plan["event_bus"])

secrets = boto3.client("secretsmanager")
for name, value in plan["secrets"]:
    secrets.create_secret(Name=name, SecretString=value)

machine = boto3.client("stepfunctions").create_state_machine(
    name=plan["state_machine"],
    definition=plan["definition"],
    roleArn=plan["role"],
    type="STANDARD",
)
print(machine["stateMachineArn"])
