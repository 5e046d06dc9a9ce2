"""A function that does what its input says, through Lambda's Runtime API: answer, fail, stand still, end, or keep the
token of a gate in an event."""

import json
import os
import sys
import time
import urllib.request

API = f"http://{os.environ['AWS_LAMBDA_RUNTIME_API']}/2018-06-01/runtime/invocation"


def post(url, value, headers=None):
    urllib.request.urlopen(urllib.request.Request(url, json.dumps(value).encode(), headers or {}, method="POST")).close()


def put_event(detail):
    entry = {"Source": "krossing", "DetailType": "Krossing Decision Needed", "Detail": json.dumps(detail)}
    head = {"X-Amz-Target": "AWSEvents.PutEvents", "Content-Type": "application/x-amz-json-1.1"}
    scope = f"Credential=test/20260101/{os.environ['AWS_REGION']}/events/aws4_request, SignedHeaders=host, Signature=0"
    head["Authorization"] = f"AWS4-HMAC-SHA256 {scope}"
    post(os.environ["AWS_ENDPOINT_URL"], {"Entries": [entry]}, head)


while True:
    with urllib.request.urlopen(f"{API}/next") as response:
        request, asked = response.headers["Lambda-Runtime-Aws-Request-Id"], json.load(response)
    match asked.get("do"):
        case "fail":
            error = {"errorType": asked["class"], "errorMessage": "as asked", "stackTrace": []}
            post(f"{API}/{request}/error", error)
        case "sleep":
            time.sleep(asked["seconds"])
            post(f"{API}/{request}/response", {"slept": asked["seconds"]})
        case "exit":
            sys.exit(3)
        case "ask":
            put_event({"chat": {"source": "custom", "content": {"title": "continue?"}}, "token": asked["token"]})
            post(f"{API}/{request}/response", {})
        case _:
            post(f"{API}/{request}/response", {"got": asked, "greeting": os.environ.get("GREETING")})
