"""A worker that does what its arguments say, and answers with its task token: succeed, fail, or stand still."""

import json
import os
import sys
import time
import urllib.error
import urllib.request


def states(action, **asked):
    scope = f"Credential=test/20260101/{os.environ['AWS_REGION']}/states/aws4_request, SignedHeaders=host, Signature=0"
    head = {
        "X-Amz-Target": f"AWSStepFunctions.{action}",
        "Content-Type": "application/x-amz-json-1.0",
        "Authorization": f"AWS4-HMAC-SHA256 {scope}",
    }
    body = json.dumps({"taskToken": os.environ["KROSSING_TASK_TOKEN"], **asked}).encode()
    request = urllib.request.Request(os.environ["AWS_ENDPOINT_URL"], body, head, method="POST")
    try:
        urllib.request.urlopen(request).close()
    except urllib.error.HTTPError as error:
        print(f"{action}: {json.load(error)['__type']}", flush=True)


# One that comes before Step Functions waits.
states("SendTaskHeartbeat")
match sys.argv[1:]:
    case ["seed", "--lane", lane]:
        execution = os.environ["KROSSING_EXECUTION"]
        states("SendTaskSuccess", output=json.dumps({"lane": int(lane), "execution": execution}))
    case ["fail", kind]:
        states("SendTaskFailure", error=kind, cause="as asked")
        sys.exit(1)
    case ["stand-still"]:
        time.sleep(600)
