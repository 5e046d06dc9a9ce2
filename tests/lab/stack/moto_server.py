"""moto with its interpreter of state machines switched on, and mended where it departs from Step Functions.

moto ships the interpreter of LocalStack with some parts left out, and with some behaviour that hides a mistake in a
definition. Each part below says what AWS does instead. The patches are of moto 5.2.5: another version is not tried.

moto's interpreter calls other services at localhost:$MOTO_PORT. That is the port of front.py, not its own.
"""

import base64
import datetime
import functools
import hashlib
import importlib
import json
import os
import secrets
import sys
import threading
import urllib.request
import uuid

import botocore.session
import jsonata
from botocore.model import ListShape, StringShape, StructureShape
from moto.core.config import default_user_config
from moto.core.exceptions import AWSError

default_user_config.setdefault("stepfunctions", {})["execute_state_machine"] = True

PARSER = "moto.stepfunctions.parser"
FRONT = f"http://127.0.0.1:{os.environ['MOTO_PORT']}"


def module(path):
    return importlib.import_module(f"{PARSER}.{path}")


api = module("api")
backend = module("models").StepFunctionsParserBackend
callbacks = module("asl.eval.callback.callback")
callback_tasks = module("asl.component.state.exec.state_task.service.state_task_service_callback")
CallbackTask = callback_tasks.StateTaskServiceCallback
ServiceTask = module("asl.component.state.exec.state_task.service.state_task_service").StateTaskService
ResourceCondition = module("asl.component.state.exec.state_task.service.resource").ResourceCondition
ExecutionState = module("asl.component.state.exec.execute_state").ExecutionState
Timeout = module("asl.component.common.timeouts.timeout")
Environment = module("asl.eval.environment").Environment
EvalComponent = module("asl.component.eval_component").EvalComponent
State = module("asl.component.state.state").CommonStateField
Program = module("asl.component.program.program").Program
ErrorEquals = module("asl.component.common.error_name.error_equals_decl").ErrorEqualsDecl
failures = module("asl.component.common.error_name.failure_event")
StatesErrorName = module("asl.component.common.error_name.states_error_name").StatesErrorName
StatesErrorNameType = module("asl.component.common.error_name.states_error_name_type").StatesErrorNameType
states = module("asl.eval.states")
program_states = module("asl.eval.program_state")
VariableStore = module("asl.eval.variable_store").VariableStore
execution = module("backend.execution")
iteration = "asl.component.state.exec.state_map.iteration"
inline_map = module(f"{iteration}.inline_iteration_component").InlineIterationComponent
distributed_map = module(f"{iteration}.distributed_iteration_component").DistributedIterationComponent
Branches = module("asl.component.state.exec.state_parallel.branches_decl").BranchesDecl
DistributedWorker = module(
    f"{iteration}.itemprocessor.distributed_item_processor_worker"
).DistributedItemProcessorWorker


# --- JSONata ----------------------------------------------------------------------------------------------------------


def range_of(first, last, step):
    return list(range(first, last + (1 if step > 0 else -1), step))


def partition(array, size):
    return [array[at : at + size] for at in range(0, len(array), size)]


def digest(text, algorithm):
    return hashlib.new(algorithm.replace("-", "").lower(), text.encode()).hexdigest()


# What Step Functions adds to JSONata, but for $random.
FUNCTIONS = {
    "parse": json.loads,
    "uuid": lambda: str(uuid.uuid4()),
    "hash": digest,
    "partition": partition,
    "range": range_of,
}


def evaluate(expression):
    try:
        compiled = jsonata.Jsonata(expression)
        for name, function in FUNCTIONS.items():
            compiled.register_lambda(name, function)
        return json.loads(json.dumps(compiled.evaluate(None)))
    except Exception as error:
        raise jsonata_module.JSONataException("UNKNOWN", str(error)) from error


def evaluate_string(self, env):
    """AWS calls an expression that fails States.QueryEvaluationError, moto calls it States.Runtime."""
    try:
        original_string(self, env)
    except jsonata_module.JSONataException as error:
        kind = StatesErrorName(StatesErrorNameType.StatesQueryEvaluationError)
        cause = f"The JSONata expression '{self.expression}' threw an error: {error.args[-1]}"
        details = {"evaluationFailedEventDetails": {"error": kind.error_name, "cause": cause}}
        kind_of_event = api.HistoryEventType.EvaluationFailed
        raise failures.FailureEventException(failures.FailureEvent(env, kind, kind_of_event, details)) from error


jsonata_module = module("asl.jsonata.jsonata")
jsonata_module._eval_jsonata = evaluate
StringJSONata = module("asl.component.common.string.string_expression").StringJSONata
original_string = StringJSONata._eval_body
StringJSONata._eval_body = evaluate_string


# --- Parameters and results of service calls --------------------------------------------------------------------------


@functools.cache
def operation(service, action):
    model = botocore.session.get_session().get_service_model(service)
    names = {botocore.xform_name(name): name for name in model.operation_names}
    return model.operation_model(names[action])


def operation_of(task, service, action):
    return operation(task._get_boto_service_name(service), task._get_boto_service_action(action))


def refuse_other_than_strings(value, shape, path):
    """AWS refuses a number where ECS wants a string; moto's interpreter would write it as text."""
    if isinstance(shape, StructureShape) and isinstance(value, dict):
        members = {name[:1].upper() + name[1:]: member for name, member in shape.members.items()}
        for name, item in value.items():
            if name not in members:
                raise ValueError(f'The field "{path}{name}" is not supported by Step Functions')
            refuse_other_than_strings(item, members[name], f"{path}{name}.")
    elif isinstance(shape, ListShape) and isinstance(value, list):
        for item in value:
            refuse_other_than_strings(item, shape.member, path)
    elif isinstance(shape, StringShape) and not isinstance(value, str):
        raise ValueError(f"The value for the field '{path.rstrip('.')}' must be a STRING")


def with_names_of_the_service(task, parameters, boto_service_name=None, service_action_name=None):
    shape = operation_of(task, boto_service_name, service_action_name).input_shape
    if shape is None:
        return
    if task.resource.service_name == "ecs":
        refuse_other_than_strings(parameters, shape, "")
    task._to_boto_request(parameters, shape)


def with_names_of_step_functions(task, response, boto_service_name=None, service_action_name=None):
    shape = operation_of(task, boto_service_name, service_action_name).output_shape
    if shape is not None:
        task._from_boto_response(response, shape)
        dates_as_text(response)


def dates_as_text(value):
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(item, datetime.datetime):
            value[key] = int(item.timestamp() * 1000)
        elif isinstance(item, (dict, list)):
            dates_as_text(item)


ServiceTask._normalise_parameters = with_names_of_the_service
ServiceTask._normalise_response = with_names_of_step_functions


# --- Executions that end while a state waits --------------------------------------------------------------------------
# moto marks an execution stopped and goes on waiting for its task. AWS ends it at once, and what comes later is void.


class Halted(BaseException):
    """The execution, or the branch, ended around a state that waits. No catcher of a definition may see this."""


def halting(evaluate_attempt):
    @functools.wraps(evaluate_attempt)
    def evaluate_while_running(self, env):
        ended = []

        def attempt():
            try:
                evaluate_attempt(self, env)
                ended.append(None)
            except BaseException as error:
                ended.append(error)

        thread = threading.Thread(target=attempt, daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(0.02)
            if not env.is_running():
                raise Halted
        if ended[0] is not None:
            raise ended[0]

    return evaluate_while_running


def state_eval(self, env):
    try:
        EvalComponent.eval(self, env)
    except Halted:
        # What ended it has set the state; the program reads that.
        raise RuntimeError("halted") from None


def set_error(self, error):
    with self._state_mutex:
        if self.is_running():
            original_set_error(self, error)


def program_eval(self, env):
    env.next_state_name = self.start_at.start_at_name
    thread = threading.Thread(target=EvalComponent.eval, args=(self, env), daemon=True)
    thread.start()
    thread.join(self.timeout_seconds.timeout_seconds if self.timeout_seconds else None)
    if thread.is_alive():
        env.set_timed_out()
        # It writes the last event of the history.
        thread.join(2)


ExecutionState._evaluate_with_timeout = halting(ExecutionState._evaluate_with_timeout)
State.eval = state_eval
original_set_error = Environment.set_error
Environment.set_error = set_error
Program.eval = program_eval


# --- Task tokens ------------------------------------------------------------------------------------------------------
# On AWS each attempt of a task has a token of its own, and a token is void once its attempt is over: the answer is
# TaskTimedOut. moto keeps one token for all attempts and takes answers to it for ever.

TOKENS = {}


def new_token(self):
    # Real ones have some 700 characters of base64: what carries them must bear that.
    token = "AQC" + base64.b64encode(secrets.token_bytes(540)).decode()
    self.context_object_data["Task"] = states.TaskData(Token=token)
    return token


def evaluate_attempt(self, env):
    if self.resource.condition != ResourceCondition.WaitForTaskToken:
        return ExecutionState._evaluate_with_timeout(self, env)
    token = env.states.context_object.update_task_token()
    endpoint = TOKENS[token] = env.callback_pool_manager.add(token)
    endpoint.env = env
    endpoint.over = False
    try:
        return ExecutionState._evaluate_with_timeout(self, env)
    finally:
        endpoint.over = True


class InvalidToken(AWSError):
    TYPE = "InvalidToken"


class InvalidOutput(AWSError):
    TYPE = "InvalidOutput"


class TaskTimedOut(AWSError):
    TYPE = "TaskTimedOut"


def live_endpoint(token):
    endpoint = TOKENS.get(token)
    if endpoint is None:
        raise InvalidToken("Invalid Token: 'Invalid token'")
    if endpoint.over or not endpoint.env.is_running() or endpoint.get_outcome() is not None:
        raise TaskTimedOut("Task Timed Out: 'Provided task does not exist anymore'")
    return endpoint


def send_task_success(self, task_token, outcome):
    try:
        json.loads(outcome)
    except ValueError as error:
        raise InvalidOutput(f"Invalid Output: '{error}'") from error
    endpoint = live_endpoint(task_token)
    endpoint.notify(callbacks.CallbackOutcomeSuccess(callback_id=task_token, output=outcome))


def send_task_failure(self, task_token, error=None, cause=None):
    endpoint = live_endpoint(task_token)
    endpoint.notify(callbacks.CallbackOutcomeFailure(callback_id=task_token, error=error, cause=cause))


def send_task_heartbeat(self, task_token):
    # One that comes before the wait has begun is good too.
    live_endpoint(task_token).notify_heartbeat()


def wait_with_heartbeat(self, env, callback_endpoint, heartbeat_endpoint):
    # An answer may have come before the heartbeat's clock was set up: moto would wait for a heartbeat, and time out.
    while env.is_running():
        if callback_endpoint.get_outcome() is not None:
            return callback_endpoint.get_outcome()
        if not heartbeat_endpoint.clear_and_wait():
            return callback_endpoint.get_outcome() or callbacks.HeartbeatTimedOut()
    return None


def failure_response(self):
    # moto's own drops the cause.
    self.stepfunction_backend.send_task_failure(
        self._get_param("taskToken"), error=self._get_param("error"), cause=self._get_param("cause")
    )
    return responses.EmptyResult()


responses = importlib.import_module("moto.stepfunctions.responses")
responses.StepFunctionResponse.send_task_failure = failure_response
states.ContextObject.update_task_token = new_token
CallbackTask._evaluate_with_timeout = evaluate_attempt
CallbackTask._wait_for_task_token_heartbeat = wait_with_heartbeat
backend.send_task_success = send_task_success
backend.send_task_failure = send_task_failure
backend.send_task_heartbeat = send_task_heartbeat


# --- Timeouts ---------------------------------------------------------------------------------------------------------


def from_state_props(self, state_props):
    original_from_state_props(self, state_props)
    # moto ends a task that has a heartbeat and no timeout after a minute. AWS does not.
    if getattr(self.timeout, "is_default", False):
        self.timeout = Timeout.TimeoutSeconds(Timeout.TimeoutSeconds.DEFAULT_TIMEOUT_SECONDS, is_default=True)


def failure_of_callback(self, env, ex):
    event = original_callback_failure(self, env, ex)
    if isinstance(ex, callbacks.HeartbeatTimeoutError):
        event.error_name.of_heartbeat = True
    return event


def error_equals(self, env):
    # The history calls both kinds States.Timeout. A heartbeat that ran out is caught by either name.
    error_name = env.stack[-1]
    original_error_equals(self, env)
    if getattr(error_name, "of_heartbeat", False) and not env.stack[-1]:
        wanted = [name.error_name for name in self.error_names]
        env.stack[-1] = "States.HeartbeatTimeout" in wanted


original_from_state_props = ExecutionState.from_state_props
ExecutionState.from_state_props = from_state_props
original_callback_failure = CallbackTask._from_error
CallbackTask._from_error = failure_of_callback
original_error_equals = ErrorEquals._eval_body
ErrorEquals._eval_body = error_equals


# --- Executions and their events --------------------------------------------------------------------------------------


def start_execution(self, state_machine_arn, name=None, execution_input=None, trace_header=None):
    # moto would call it "None".
    name = name or str(uuid.uuid4())
    return original_start_execution(self, state_machine_arn, name, execution_input, trace_header)


def milliseconds(date):
    return int(date.timestamp() * 1000) if date else None


def emit(source, detail_type, resource, detail):
    """Gives an event to the front, whose rules say who gets it: moto emits none of these."""
    _, _, _, region, account, *_ = resource.split(":", 5)
    event = {
        "version": "0",
        "id": str(uuid.uuid4()),
        "detail-type": detail_type,
        "source": source,
        "account": account,
        "time": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "region": region,
        "resources": [resource],
        "detail": detail,
    }
    request = urllib.request.Request(f"{FRONT}/_lab/events", json.dumps(event).encode(), method="POST")
    try:
        urllib.request.urlopen(request, timeout=5).close()
    except OSError as error:
        print(f"could not emit an event: {error}", file=sys.stderr, flush=True)


def emit_status(arn, machine, name, status, start, stop, given, output=None, error=None, cause=None):
    detail = {
        "executionArn": arn,
        "stateMachineArn": machine,
        "name": name,
        "status": status,
        "startDate": milliseconds(start),
        "stopDate": milliseconds(stop),
        "input": json.dumps(given, separators=(",", ":")),
        "output": json.dumps(output, separators=(",", ":")) if status == "SUCCEEDED" else None,
        "inputDetails": {"included": True},
        "outputDetails": {"included": True} if status == "SUCCEEDED" else None,
        "error": error,
        "cause": cause,
    }
    emit("aws.states", "Step Functions Execution Status Change", arn, detail)


def emit_status_of(run):
    emit_status(
        run.exec_arn, run.state_machine.arn, run.name, run.status, run.start_date, run.stop_date, run.input_data,
        run.output, run.error, run.cause,
    )  # fmt: skip


def terminated(self):
    run = self.execution
    original_terminated(self)
    ended = run.exec_worker.env.program_state()
    if isinstance(ended, program_states.ProgramStopped):
        run.error, run.cause = ended.error, ended.cause
    emit_status_of(run)


def start(self):
    original_start(self)
    emit_status_of(self)


def stop_execution(self):
    # moto's own drops who stopped it and why.
    run = self.stepfunction_backend.describe_execution(self._get_param("executionArn"))
    now = datetime.datetime.now(datetime.timezone.utc)
    if run.status == "RUNNING":
        run.stop(stop_date=now, error=self._get_param("error"), cause=self._get_param("cause"))
    return responses.ActionResult({"stopDate": run.stop_date or now})


responses.StepFunctionResponse.stop_execution = stop_execution
original_start_execution = backend.start_execution
backend.start_execution = start_execution
original_terminated = execution.BaseExecutionWorkerCommunication.terminated
execution.BaseExecutionWorkerCommunication.terminated = terminated
original_start = execution.Execution.start
execution.Execution.start = start


# --- Map states -------------------------------------------------------------------------------------------------------
# A distributed map runs each item as an execution of its own: with its own name and ARN, blind to the variables of the
# state machine around it; where more fail than are tolerated, the map run fails. moto's children share the parent's
# name and variables, and one that fails is null in the output of a map that succeeded.


def exceeded(env):
    kind = StatesErrorNameType.StatesExceedToleratedFailureThreshold
    details = api.MapRunFailedEventDetails(
        error=kind.to_name(),
        cause="The specified tolerated failure threshold was exceeded",
    )
    return failures.FailureEventException(
        failures.FailureEvent(
            env=env,
            error_name=StatesErrorName(kind),
            event_type=api.HistoryEventType.MapRunFailed,
            event_details={"mapRunFailedEventDetails": details},
        )
    )


def child_of(env, record):
    context = env.states.context_object.context_object_data
    parent = context["Execution"]
    name = str(uuid.uuid4())
    machine = record.map_state_machine_arn
    now = datetime.datetime.now(datetime.timezone.utc)
    arn = f"{machine.replace(':stateMachine:', ':execution:')}:{name}"
    context["Execution"] = {**parent, "Id": arn, "Name": name, "StartTime": now.isoformat()}
    context["StateMachine"] = {"Id": machine, "Name": machine.split(":stateMachine:")[1]}
    env.variable_store = VariableStore()
    return arn, machine, name, now


def evaluate_child(self, env, job):
    record = self._map_run_record
    child = []

    def select_item(env_frame):
        # The selector belongs to the map, and sees what the map sees.
        original_select_item(self, env_frame)
        child.append(child_of(env_frame, record))

    self._eval_input = select_item
    original_child(self, env, job)
    if not child:
        # The selector itself has failed.
        job.job_output = exceeded(env)
        return
    arn, machine, name, began = child[0]
    ended = env.program_state()
    now = datetime.datetime.now(datetime.timezone.utc)
    if isinstance(ended, program_states.ProgramError):
        error, cause = ended.error.get("error"), ended.error.get("cause")
        emit_status(arn, machine, name, "FAILED", began, now, job.job_input, error=error, cause=cause)
        failed, total = record.execution_counter.failed.get(), len(self._job_pool.get_closed_jobs()) + 1
        share = 100 * failed / max(total, self._job_pool._jobs_number)
        # Both are none unless the definition gives them: then none may fail.
        count, percentage = record.tolerated_failure_count or 0, record.tolerated_failure_percentage or 0
        if failed > count and share > percentage:
            job.job_output = exceeded(env)
    elif isinstance(ended, program_states.ProgramStopped):
        emit_status(arn, machine, name, "ABORTED", began, now, job.job_input)
    else:
        emit_status(arn, machine, name, "SUCCEEDED", began, now, job.job_input, output=job.job_output)


def aborting(run_all):
    """What still runs when one branch fails is aborted; moto lets it run on."""

    @functools.wraps(run_all)
    def run_and_abort(self, env, *args, **kwargs):
        try:
            return run_all(self, env, *args, **kwargs)
        except BaseException:
            for frame in list(env._frames):
                frame.set_stop(stop_date=datetime.datetime.now(datetime.timezone.utc), cause=None, error=None)
            raise

    return run_and_abort


original_select_item = DistributedWorker._eval_input
original_child = DistributedWorker._eval_job
DistributedWorker._eval_job = evaluate_child
distributed_map._map_run = aborting(distributed_map._map_run)
inline_map._eval_body = aborting(inline_map._eval_body)
Branches._eval_body = aborting(Branches._eval_body)


if __name__ == "__main__":
    from moto.server import main

    main(sys.argv[1:])
