"""The endpoint of AWS for everything in a stack: what moto lacks is done here, and the rest goes to moto.

- Lambda: functions are real binaries that speak the Runtime API, one process for each concurrent invocation.
- ECS: a task is a process, with the environment and the command of its overrides.
- EventBridge: the rules of the configuration, applied to what is put and to what AWS services would emit.
- MSK's control API, from a seed file that is read anew at each call; KMS keys of Ed25519.

Below /_lab/ the test looks on and interferes. Usage: front.py CONFIG, a JSON file that stack.rs writes.
"""

import base64
import datetime
import http.client
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

with open(sys.argv[1], encoding="utf-8") as file:
    CONFIG = json.load(file)
PORT, MOTO_PORT, LOGS = CONFIG["port"], CONFIG["moto_port"], CONFIG["logs"]
REGION, ACCOUNT = CONFIG["region"], CONFIG["account"]
# Quotas of Lambda, ECS and EventBridge that a stack could run into, in bytes or characters.
FUNCTION_ENVIRONMENT_MAX = 4096
OVERRIDES_MAX = 8192
EVENTS_MAX = 256 * 1024


class Refused(Exception):
    """An answer of a service that says no."""

    def __init__(self, kind, message, status=400):
        super().__init__(message)
        self.kind, self.message, self.status = kind, message, status


def log(message):
    print(f"{datetime.datetime.now().isoformat(timespec='milliseconds')} {message}", flush=True)


def now_text():
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def environment(own):
    """What a process of the stack sees: of ours only how to find programs, as a sandbox of AWS has nothing of ours."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TZ", "RUST_BACKTRACE") if name in os.environ}
    return {**inherited, "AWS_REGION": REGION, **CONFIG["environment"], **own}


def start(command, env, name):
    with open(os.path.join(LOGS, name), "ab") as output:
        return subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output)


# --- HTTP -------------------------------------------------------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body are written one after the other: with Nagle's algorithm each answer would take 40 ms.
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def body(self):
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(chunks)

    def answer(self, status, body=b"", headers=()):
        try:
            self.send_response_only(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):
            # Who asked has gone: killed, or out of patience.
            self.close_connection = True

    def answer_json(self, status, value, kind="application/json", headers=()):
        self.answer(status, json.dumps(value).encode(), [("Content-Type", kind), *headers])


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        error = sys.exc_info()[1]
        if not isinstance(error, ConnectionError):
            super().handle_error(request, client_address)


def ask_moto(method, path, headers, body):
    connection = http.client.HTTPConnection("127.0.0.1", MOTO_PORT, timeout=3600)
    try:
        connection.request(method, path, body=body, headers=headers)
        response = connection.getresponse()
        return response.status, response.getheaders(), response.read()
    finally:
        connection.close()


# --- Lambda -----------------------------------------------------------------------------------------------------------


class Invocation:
    def __init__(self, payload, timeout):
        self.id = str(uuid.uuid4())
        self.payload = payload or b"{}"
        self.deadline_ms = int((time.time() + timeout) * 1000)
        self.outcome = queue.Queue()


class Sandbox:
    """One process of a function, and the Runtime API that only it talks to."""

    def __init__(self, function):
        self.function = function
        self.invocations = queue.Queue()
        self.current = None
        self.first_next = threading.Event()
        self.server = Server(("127.0.0.1", 0), self.runtime_api())
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        self.began = time.monotonic()
        own = {
            **function.environment,
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self.server.server_port}",
            "AWS_LAMBDA_FUNCTION_NAME": function.name,
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1024",
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{function.name}",
            "AWS_LAMBDA_LOG_STREAM_NAME": "lab",
        }
        self.process = start(function.command, environment(own), f"function-{function.name}.log")
        threading.Thread(target=self.wait, daemon=True).start()

    def runtime_api(self):
        sandbox = self

        class RuntimeApi(Handler):
            def do_GET(self):
                if not self.path.endswith("/runtime/invocation/next"):
                    return self.answer(404)
                if not sandbox.first_next.is_set():
                    sandbox.init_ms = (time.monotonic() - sandbox.began) * 1000
                    sandbox.first_next.set()
                invocation = sandbox.invocations.get()
                head = [
                    ("Content-Type", "application/json"),
                    ("Lambda-Runtime-Aws-Request-Id", invocation.id),
                    ("Lambda-Runtime-Deadline-Ms", str(invocation.deadline_ms)),
                    ("Lambda-Runtime-Invoked-Function-Arn", sandbox.function.arn),
                    ("Lambda-Runtime-Trace-Id", "Root=1-00000000-000000000000000000000000;Sampled=0"),
                ]
                self.answer(200, invocation.payload, head)

            def do_POST(self):
                body, (*_, request, what) = self.body(), self.path.split("/")
                invocation = sandbox.current
                if self.path.endswith("/runtime/init/error"):
                    # The process ends after this: whoever waits learns it then.
                    sandbox.init_error = body
                elif invocation is not None and invocation.id == request and what in ("response", "error"):
                    invocation.outcome.put((what, body))
                else:
                    return self.answer_json(403, {"errorType": "InvalidRequestID"})
                self.answer_json(202, {"status": "OK"})

        return RuntimeApi

    init_ms = 0.0
    init_error = None

    def wait(self):
        code = self.process.wait()
        self.server.shutdown()
        self.server.server_close()
        invocation = self.current
        log(f"function {self.function.name}: process {self.process.pid} ended with {code}")
        if invocation is not None:
            why = f"signal: {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
            text = f"RequestId: {invocation.id} Error: Runtime exited with error: {why}"
            failure = self.init_error or json.dumps({"errorType": "Runtime.ExitError", "errorMessage": text}).encode()
            invocation.outcome.put(("error", failure))

    def run(self, invocation, timeout):
        """Its outcome, and whether the process can be used again."""
        self.current = invocation
        self.invocations.put(invocation)
        try:
            if self.process.poll() is not None and invocation.outcome.empty():
                # It ended before `wait` could see the invocation.
                text = f"RequestId: {invocation.id} Error: Runtime exited without providing a reason"
                failure = {"errorType": "Runtime.ExitError", "errorMessage": text}
                return ("error", json.dumps(failure).encode()), False
            return invocation.outcome.get(timeout=timeout), self.process.poll() is None
        except queue.Empty:
            self.process.kill()
            text = f"RequestId: {invocation.id} Error: Task timed out after {timeout:.2f} seconds"
            failure = {"errorType": "Sandbox.Timedout", "errorMessage": text}
            return ("error", json.dumps(failure).encode()), False
        finally:
            self.current = None


class Function:
    def __init__(self, name, given):
        self.name = name
        self.command = given["command"]
        self.timeout = given["timeout_seconds"]
        self.environment = given.get("environment", {})
        self.arn = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{name}"
        self.lock = threading.Lock()
        self.idle, self.busy = [], set()
        size = sum(len(key) + len(value) for key, value in self.environment.items())
        if size > FUNCTION_ENVIRONMENT_MAX:
            sys.exit(f"the environment of function {name} has {size} characters: Lambda takes {FUNCTION_ENVIRONMENT_MAX}")

    def take(self):
        with self.lock:
            while self.idle:
                sandbox = self.idle.pop()
                if sandbox.process.poll() is None:
                    self.busy.add(sandbox)
                    return sandbox, False
            sandbox = Sandbox(self)
            self.busy.add(sandbox)
            return sandbox, True

    def invoke(self, payload):
        began = time.monotonic()
        sandbox, cold = self.take()
        invocation = Invocation(payload, self.timeout)
        (what, body), usable = sandbox.run(invocation, self.timeout)
        with self.lock:
            self.busy.discard(sandbox)
            if usable:
                self.idle.append(sandbox)
        record = {
            "function": self.name,
            "request_id": invocation.id,
            "cold": cold,
            "init_ms": round(sandbox.init_ms, 1) if cold else 0.0,
            "took_ms": round((time.monotonic() - began) * 1000, 1),
            "payload": payload.decode(errors="replace"),
            "answer": body.decode(errors="replace"),
            "failed": what == "error",
        }
        TIMINGS.append(record)
        log(f"function {self.name}: {'cold' if cold else 'warm'} {record['took_ms']} ms{' FAILED' if record['failed'] else ''}")
        return invocation.id, what == "error", body

    def invoke_later(self, payload):
        """As an asynchronous invocation: two more attempts where it fails."""

        def attempts():
            for pause in [0, *CONFIG["async_retry_seconds"]]:
                time.sleep(pause)
                if not self.invoke(payload)[1]:
                    return

        threading.Thread(target=attempts, daemon=True).start()

    def kill(self, also_idle):
        with self.lock:
            sandboxes = [*self.busy, *(self.idle if also_idle else [])]
        for sandbox in sandboxes:
            sandbox.process.kill()
        return len(sandboxes)


TIMINGS = []
FUNCTIONS = {name: Function(name, given) for name, given in CONFIG["functions"].items()}


def function_named(text):
    """By its name or its ARN, with or without a qualifier."""
    name = text.split(":function:")[-1].split(":")[0]
    if name not in FUNCTIONS:
        message = f"Function not found: arn:aws:lambda:{REGION}:{ACCOUNT}:function:{name}"
        raise Refused("ResourceNotFoundException", message, 404)
    return FUNCTIONS[name]


def lambda_api(handler, path, body):
    function = function_named(unquote(path.split("/")[3]))
    version = ("X-Amz-Executed-Version", "$LATEST")
    if handler.headers.get("X-Amz-Invocation-Type") == "Event":
        function.invoke_later(body)
        return handler.answer(202, b"", [("x-amzn-RequestId", str(uuid.uuid4()))])
    request, failed, answer = function.invoke(body)
    head = [("Content-Type", "application/json"), ("x-amzn-RequestId", request), version]
    if failed:
        head.append(("X-Amz-Function-Error", "Unhandled"))
    return handler.answer(200, answer, head)


# --- ECS --------------------------------------------------------------------------------------------------------------


class Task:
    def __init__(self, asked, family, definition):
        self.id = uuid.uuid4().hex
        cluster = asked.get("cluster", "default")
        self.cluster = cluster if cluster.startswith("arn:") else f"arn:aws:ecs:{REGION}:{ACCOUNT}:cluster/{cluster}"
        self.arn = f"arn:aws:ecs:{REGION}:{ACCOUNT}:task/{self.cluster.split('/')[-1]}/{self.id}"
        self.definition = f"arn:aws:ecs:{REGION}:{ACCOUNT}:task-definition/{family}:1"
        self.container = definition["container"]
        self.stop_timeout = definition["stop_timeout_seconds"]
        self.asked, self.overrides = asked, asked.get("overrides") or {}
        override = self.override()
        self.command = override.get("command") or definition.get("arguments", [])
        self.environment = {item["name"]: item["value"] for item in override.get("environment", [])}
        self.started_at, self.stopped_at = now_text(), None
        self.stop_code = self.stopped_reason = self.exit_code = None
        self.version = 1
        env = environment({**definition.get("environment", {}), **self.environment})
        # Of a task that never starts there is no process, and its container has no exit code.
        self.never_starts = NEVER_STARTS["reason"]
        command = [*definition["command"], *self.command]
        self.process = None if self.never_starts else start(command, env, f"task-{self.id}.log")
        self.lock = threading.Lock()
        self.ended = threading.Event()

    def override(self):
        overrides = self.overrides.get("containerOverrides", [])
        for override in overrides:
            if override.get("name") != self.container:
                message = f"Override for container named {override.get('name')} is not a container in the TaskDefinition."
                raise Refused("InvalidParameterException", message)
        return overrides[0] if overrides else {}

    def watch(self):
        code = self.process.wait() if self.process else None
        with self.lock:
            if code is None:
                self.stop_code, self.stopped_reason = "TaskFailedToStart", self.never_starts
            else:
                # As a shell says it, and so does ECS.
                self.exit_code = 128 - code if code < 0 else code
            self.stopped_at, self.version = now_text(), self.version + 1
            self.stop_code = self.stop_code or "EssentialContainerExited"
            self.stopped_reason = self.stopped_reason or "Essential container in task exited"
        self.ended.set()
        log(f"task {self.id} {self.command}: stopped, exit code {self.exit_code}, {self.stop_code}: {self.stopped_reason}")
        self.emit()

    def stop(self, reason):
        with self.lock:
            if self.ended.is_set():
                return
            self.stop_code, self.stopped_reason = "UserInitiated", reason or "Task stopped by user"
            if self.process is None:
                return
        self.process.terminate()

        def insist():
            if not self.ended.wait(self.stop_timeout):
                self.process.kill()

        threading.Thread(target=insist, daemon=True).start()

    def describe(self):
        stopped = self.ended.is_set()
        status = "STOPPED" if stopped else "RUNNING"
        container = {"name": self.container, "containerArn": f"{self.arn}/{self.container}", "taskArn": self.arn}
        container["lastStatus"] = status
        text = {
            "taskArn": self.arn,
            "clusterArn": self.cluster,
            "taskDefinitionArn": self.definition,
            "launchType": self.asked.get("launchType", "FARGATE"),
            "lastStatus": status,
            "desiredStatus": "STOPPED" if stopped or self.stop_code else "RUNNING",
            "group": f"family:{self.definition.split('/')[-1].split(':')[0]}",
            "overrides": self.overrides,
            "containers": [container],
            "attachments": [],
            "version": self.version,
            "startedAt": self.started_at,
            "createdAt": self.started_at,
        }
        if self.asked.get("startedBy"):
            text["startedBy"] = self.asked["startedBy"]
        if stopped:
            if self.exit_code is not None:
                container["exitCode"] = self.exit_code
            more = {"stopCode": self.stop_code, "stoppedReason": self.stopped_reason, "stoppedAt": self.stopped_at}
            text.update(more)
        return text

    def emit(self):
        publish_event(
            {
                "version": "0",
                "id": str(uuid.uuid4()),
                "detail-type": "ECS Task State Change",
                "source": "aws.ecs",
                "account": ACCOUNT,
                "time": now_text(),
                "region": REGION,
                "resources": [self.arn],
                "detail": self.describe(),
            }
        )


TASKS = {}
# Why tasks that are run from now on never start, as ECS would say it; none: they do.
NEVER_STARTS = {"reason": None}
# A worker that is about to say this of its task dies instead: its process is killed, and nothing was heard. Once.
DIES_SAYING = {"text": None}


def dies_saying(action, body):
    """Whether whoever sent this has been killed for it."""
    text = DIES_SAYING["text"]
    if action != "SendTaskSuccess" or text is None or text not in body.decode(errors="replace"):
        return False
    token = json.loads(body)["taskToken"]
    task = next((task for task in TASKS.values() if task.environment.get("KROSSING_TASK_TOKEN") == token), None)
    if task is None:
        return False
    DIES_SAYING["text"] = None
    task.process.kill()
    task.ended.wait()
    return True


def in_api_form(task):
    """The API has dates as seconds, where events have text."""
    for name in ("startedAt", "createdAt", "stoppedAt"):
        if name in task:
            task[name] = datetime.datetime.fromisoformat(task[name].replace("Z", "+00:00")).timestamp()
    return task


def task_named(text):
    if (task := TASKS.get(text.split("/")[-1])) is None:
        raise Refused("InvalidParameterException", "The referenced task was not found.")
    return task


def run_task(asked):
    family = asked["taskDefinition"].split("/")[-1].split(":")[0]
    if family not in CONFIG["tasks"]:
        raise Refused("ClientException", "TaskDefinition not found.")
    if not (asked.get("networkConfiguration") or {}).get("awsvpcConfiguration", {}).get("subnets"):
        message = "Network Configuration must be provided when networkMode 'awsvpc' is specified."
        raise Refused("InvalidParameterException", message)
    if len(json.dumps(asked.get("overrides") or {}, separators=(",", ":"))) > OVERRIDES_MAX:
        raise Refused("InvalidParameterException", f"Container Overrides length must be at most {OVERRIDES_MAX}")
    tasks = []
    for _ in range(asked.get("count", 1)):
        task = Task(asked, family, CONFIG["tasks"][family])
        TASKS[task.id] = task
        log(f"task {task.id} {task.command}: {f'process {task.process.pid}' if task.process else 'never starts'}")
        tasks.append(in_api_form(task.describe()))
        # After the answer is made: a task that ends at once is not stopped before it has run.
        threading.Thread(target=lambda task=task: (task.emit(), task.watch()), daemon=True).start()
    return {"tasks": tasks, "failures": []}


def describe_tasks(asked):
    known = [TASKS[name.split("/")[-1]] for name in asked["tasks"] if name.split("/")[-1] in TASKS]
    missing = [{"arn": name, "reason": "MISSING"} for name in asked["tasks"] if name.split("/")[-1] not in TASKS]
    return {"tasks": [in_api_form(task.describe()) for task in known], "failures": missing}


def stop_task(asked):
    task = task_named(asked["task"])
    task.stop(asked.get("reason"))
    return {"task": in_api_form(task.describe())}


def list_tasks(asked):
    wanted = asked.get("desiredStatus", "RUNNING")
    tasks = [task for task in TASKS.values() if task.describe()["desiredStatus"] == wanted]
    if asked.get("family"):
        tasks = [task for task in tasks if f"/{asked['family']}:" in task.definition]
    if asked.get("startedBy"):
        tasks = [task for task in tasks if task.asked.get("startedBy") == asked["startedBy"]]
    return {"taskArns": [task.arn for task in tasks]}


ECS = {"RunTask": run_task, "DescribeTasks": describe_tasks, "StopTask": stop_task, "ListTasks": list_tasks}


# --- EventBridge ------------------------------------------------------------------------------------------------------


def matches(pattern, value):
    """The part of EventBridge's patterns that a stack uses: exact values, prefix, anything-but, exists."""
    if isinstance(pattern, dict):
        return isinstance(value, dict) and all(matches(wanted, value.get(name)) for name, wanted in pattern.items())
    values = value if isinstance(value, list) else [value]
    return any(matches_one(wanted, item) for wanted in pattern for item in values)


def matches_one(wanted, value):
    if not isinstance(wanted, dict):
        return wanted == value
    ((kind, operand),) = wanted.items()
    if kind == "exists":
        return (value is not None) == operand
    if kind == "prefix":
        return isinstance(value, str) and value.startswith(operand)
    if kind == "anything-but":
        return value is not None and value not in (operand if isinstance(operand, list) else [operand])
    raise ValueError(f"the front knows no pattern of kind {kind}")


def at_path(event, path):
    for name in path.split(".")[1:]:
        event = event.get(name) if isinstance(event, dict) else None
    return event


EVENTS, MESSAGES = [], []


def publish_event(event, bus="default"):
    EVENTS.append({"bus": bus, "event": event})
    for rule in CONFIG["rules"]:
        if rule["bus"] == bus and matches(rule["pattern"], event):
            log(f"event {event['source']} / {event['detail-type']}: rule {rule['name']}")
            deliver(rule, event)


def deliver(rule, event):
    selected = at_path(event, rule["input_path"]) if "input_path" in rule else event
    if selected is None:
        # EventBridge delivers nothing where the path selects nothing.
        return log(f"rule {rule['name']}: nothing at {rule['input_path']}")
    text = json.dumps(selected, separators=(",", ":"))
    if "function" in rule:
        return function_named(rule["function"]).invoke_later(text.encode())
    form = {"Action": "Publish", "Version": "2010-03-31", "TopicArn": rule["topic"], "Message": text}
    # moto finds the service in what is signed; nothing checks the signature.
    scope = f"AWS4-HMAC-SHA256 Credential=lab/20260101/{REGION}/sns/aws4_request, SignedHeaders=host, Signature=0"
    head = {"Content-Type": "application/x-www-form-urlencoded", "Authorization": scope, "Host": f"sns.{REGION}.amazonaws.com"}
    status, _, answer = ask_moto("POST", "/", head, urlencode(form).encode())
    MESSAGES.append({"topic": rule["topic"], "message": text, "status": status})
    if status != 200:
        log(f"rule {rule['name']}: SNS said {status}: {answer.decode(errors='replace')}")


def put_events(asked):
    entries = asked["Entries"]
    if not 1 <= len(entries) <= 10 or sum(len(json.dumps(entry)) for entry in entries) > EVENTS_MAX:
        raise Refused("ValidationException", "1 to 10 entries of at most 256 KB")
    for entry in entries:
        event = {
            "version": "0",
            "id": str(uuid.uuid4()),
            "detail-type": entry["DetailType"],
            "source": entry["Source"],
            "account": ACCOUNT,
            "time": now_text(),
            "region": REGION,
            "resources": entry.get("Resources", []),
            "detail": json.loads(entry["Detail"]),
        }
        publish_event(event, entry.get("EventBusName", "default").split("/")[-1])


# --- MSK --------------------------------------------------------------------------------------------------------------


def msk_api(handler, path, query):
    """None where the call is not one of these."""
    if handler.command != "GET" or not CONFIG.get("msk_seed"):
        return None
    with open(CONFIG["msk_seed"], encoding="utf-8") as file:
        seed = json.load(file)
    clusters = {cluster["arn"]: cluster for cluster in seed.get("clusters", [])}

    def cluster(arn):
        if arn not in clusters:
            raise Refused("NotFoundException", f"Cluster {arn} was not found.", 404)
        return clusters[arn]

    for version, form in (("/api/v2", "v2"), ("/v1", "v1")):
        if path == f"{version}/clusters":
            wanted = query.get("clusterNameFilter", [""])[0]
            found = [item[form] for item in clusters.values() if form in item]
            return {"clusterInfoList": [item for item in found if item["clusterName"].startswith(wanted)]}
    if path == "/v1/compatible-kafka-versions":
        return {"compatibleKafkaVersions": cluster(query["clusterArn"][0]).get("compatible_versions", [])}
    if path.startswith("/api/v2/clusters/"):
        return {"clusterInfo": cluster(path.removeprefix("/api/v2/clusters/"))["v2"]}
    if path.startswith("/v1/configurations/"):
        return msk_configuration(seed.get("configurations", {}), path.removeprefix("/v1/configurations/"))
    if not path.startswith("/v1/clusters/"):
        return None
    rest = path.removeprefix("/v1/clusters/")
    for what, member in (("nodes", "nodeInfoList"), ("scram-secrets", "secretArnList")):
        if rest.endswith(f"/{what}"):
            return {member: cluster(rest.removesuffix(f"/{what}")).get(what.replace("-", "_"), [])}
    if rest.endswith("/bootstrap-brokers"):
        return cluster(rest.removesuffix("/bootstrap-brokers"))["bootstrap_brokers"]
    return {"clusterInfo": cluster(rest)["v1"]} if rest in clusters else None


def msk_configuration(configurations, rest):
    arn, _, revision = rest.partition("/revisions/")
    if arn not in configurations:
        raise Refused("NotFoundException", f"Configuration {arn} was not found.", 404)
    found = configurations[arn]
    if not revision:
        return found["configuration"]
    properties = base64.b64encode(found["revisions"][revision].encode()).decode()
    return {"arn": arn, "revision": int(revision), "serverProperties": properties}


# --- KMS --------------------------------------------------------------------------------------------------------------
# moto has no keys of Ed25519. The configuration names them; each is fresh.

KEYS = {key: Ed25519PrivateKey.generate() for key in CONFIG.get("ed25519_keys", [])}


def key_named(asked):
    return KEYS.get(asked.get("KeyId", "").split(":key/")[-1])


def kms_sign(asked):
    if asked.get("MessageType") != "RAW" or asked.get("SigningAlgorithm") != "ED25519_SHA_512":
        raise Refused("ValidationException", "Ed25519 signs raw messages with ED25519_SHA_512")
    signature = base64.b64encode(key_named(asked).sign(base64.b64decode(asked["Message"]))).decode()
    return {"KeyId": asked["KeyId"], "Signature": signature, "SigningAlgorithm": "ED25519_SHA_512"}


def kms_public_key(asked):
    public = key_named(asked).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return {
        "KeyId": asked["KeyId"],
        "PublicKey": base64.b64encode(public).decode(),
        "KeySpec": "ECC_NIST_EDWARDS25519",
        "KeyUsage": "SIGN_VERIFY",
        "SigningAlgorithms": ["ED25519_SHA_512"],
    }


KMS = {"Sign": kms_sign, "GetPublicKey": kms_public_key}


# --- What the test asks -----------------------------------------------------------------------------------------------


def task_for_test(task):
    said = {"id": task.id, "command": task.command, "environment": task.environment}
    return {**said, "running": not task.ended.is_set(), "exit_code": task.exit_code, "stopped_reason": task.stopped_reason}


def control(method, path, body):
    asked = json.loads(body) if body else {}
    match [method, *path.split("/")[2:]]:
        case ["GET", "timings"]:
            return list(TIMINGS)
        case ["GET", "events"]:
            return list(EVENTS)
        case ["GET", "messages"]:
            return list(MESSAGES)
        case ["GET", "tasks"]:
            return [task_for_test(task) for task in TASKS.values()]
        case ["POST", "events"]:
            publish_event(asked)
            return {}
        case ["POST", "functions", name, "kill"]:
            return {"killed": function_named(name).kill(asked.get("also_idle", False))}
        case ["POST", "tasks", "never-start"]:
            NEVER_STARTS["reason"] = asked["reason"]
            return {}
        case ["POST", "tasks", "die-saying"]:
            DIES_SAYING["text"] = asked["text"]
            return {}
        case ["POST", "tasks", task, "signal"]:
            # Not one that has been reaped: its number may be somebody else's.
            if task_named(task).ended.is_set():
                raise Refused("Ended", "the task has stopped")
            task_named(task).process.send_signal(signal.Signals[f"SIG{asked['signal']}"])
            return {}
    raise Refused("NotFound", f"{method} {path}", 404)


# --- The endpoint -----------------------------------------------------------------------------------------------------



JSON_1_1 = "application/x-amz-json-1.1"


class Front(Handler):
    def handle_request(self):
        body = self.body()
        address = urlsplit(self.path)
        path = unquote(address.path)
        service, _, action = self.headers.get("X-Amz-Target", "").rpartition(".")
        try:
            if path.startswith("/_lab/"):
                return self.answer_json(200, control(self.command, path, body))
            if path.startswith("/2015-03-31/functions/") and path.endswith("/invocations"):
                return lambda_api(self, address.path, body)
            if service.startswith("AmazonEC2ContainerService") and action in ECS:
                return self.answer_json(200, ECS[action](json.loads(body)), JSON_1_1)
            if service == "TrentService" and action in KMS and key_named(json.loads(body)):
                return self.answer_json(200, KMS[action](json.loads(body)), JSON_1_1)
            if (found := msk_api(self, path, parse_qs(address.query))) is not None:
                return self.answer_json(200, found)
            if dies_saying(action, body):
                self.close_connection = True
                return None
            if service == "AWSEvents" and action == "PutEvents":
                put_events(json.loads(body))
        except Refused as refused:
            log(f"{self.command} {path} {action}: {refused.kind}: {refused.message}")
            said = {"__type": refused.kind, "message": refused.message, "Message": refused.message}
            return self.answer_json(refused.status, said, JSON_1_1, [("x-amzn-ErrorType", refused.kind)])
        return self.pass_on(body)

    def pass_on(self, body):
        hop = ("transfer-encoding", "connection", "content-length", "expect")
        head = {name: value for name, value in self.headers.items() if name.lower() not in hop}
        head["Content-Length"] = str(len(body))
        status, headers, answer = ask_moto(self.command, self.path, head, body)
        kept = [(name, value) for name, value in headers if name.lower() not in (*hop, "date", "server")]
        return self.answer(status, answer, kept)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_PATCH = handle_request


if __name__ == "__main__":
    log(f"listening on 127.0.0.1:{PORT}")
    Server(("127.0.0.1", PORT), Front).serve_forever()
