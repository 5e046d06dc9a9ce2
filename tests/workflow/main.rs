//! The Step Functions definition, held equal to the table of states in `shared/core`.
//!
//! The definition says nothing of the journal, except in comments; what each of its states journals is said here, in
//! [`journals`] and [`done`]. The definition is then walked: from every position in which a state of it may be entered
//! through every Next, Choice, Catch and End, until nothing new is reached. What is walked is wider than what happens
//! (an error may strike before and after each entry of the journal), so that what is refused here is refused for sure.
//!
//! Does not: run the definition. The end-to-end tests do.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use krossing_core::{
    ErrorClass,
    transition::{Position, State},
};
use serde_json::Value;

use State::{
    AwaitingClientSwitch, Cutover, DrainReady, Failed, Finalized, Planned, Precheck, RolledBack, Seed, Tail,
    TopologyCopy, Validating,
};

/// What CDK, Terraform and the tests fill in.
const PLACEHOLDERS: [&str; 14] = [
    "ClientSwitchFunction",
    "Cluster",
    "CutoverFunction",
    "DecisionTimeoutSeconds",
    "NotifyFunction",
    "PlanFunction",
    "PrecheckFunction",
    "RecoverFunction",
    "RollbackFunction",
    "SecurityGroups",
    "SeedConcurrency",
    "Subnets",
    "TopologyFunction",
    "WorkerTask",
];

/// Errors of AWS that may be named: https://docs.aws.amazon.com/step-functions/latest/dg/concepts-error-handling.html
const ERRORS_OF_AWS: [&str; 15] = [
    "AmazonECS.Unknown",
    "ECS.AmazonECSException",
    "ECS.ServerException",
    "Lambda.AWSLambdaException",
    "Lambda.ClientExecutionTimeoutException",
    "Lambda.SdkClientException",
    "Lambda.ServiceException",
    "Lambda.TooManyRequestsException",
    "Lambda.Unknown",
    "Runtime.ExitError",
    "Sandbox.Timedout",
    "States.ALL",
    "States.HeartbeatTimeout",
    "States.TaskFailed",
    "States.Timeout",
];

const CLASSES: [ErrorClass; 5] =
    [ErrorClass::Retryable, ErrorClass::Refused, ErrorClass::DataAtRisk, ErrorClass::Fenced, ErrorClass::Internal];

/// Tasks that are not tried again, and why.
const NOT_TRIED_AGAIN: [(&str, &str); 1] = [("Cutover", "the next cutover is a new decision of the operator")];

/// Tasks whose errors leave through what they stand in, and why.
const NOT_CAUGHT: [(&str, &str); 2] = [
    ("SeedLane", "a lane that cannot be seeded ends the seed, which is caught"),
    ("Acknowledge", "the groups' worker has to end too: the error ends both sides, which is caught"),
];

/// What the state of the definition may write into the journal next, where the migration stands at `at`.
fn journals(asl: &str, at: Position) -> Vec<State> {
    use Position::{At, FailedIn, Unborn};
    match (asl, at) {
        ("Plan", Unborn) => vec![Planned],
        // A cutover is never entered again by a resume.
        ("Plan", FailedIn(before)) if before != Cutover => vec![before],
        ("Precheck", At(Planned)) => vec![Precheck],
        ("Precheck", At(Precheck)) => vec![TopologyCopy],
        ("TopologyCopy", At(TopologyCopy)) => vec![Seed],
        ("DrainReady", At(Seed)) => vec![Tail],
        ("DrainReady", At(Tail)) => vec![DrainReady],
        ("Cutover", At(DrainReady)) => vec![Cutover],
        ("Cutover", At(Cutover)) => vec![AwaitingClientSwitch, DrainReady],
        ("Acknowledge", At(AwaitingClientSwitch)) => vec![Validating],
        ("Validating", At(Validating)) => vec![Finalized],
        ("RollbackAtGate" | "Rollback", At(Cutover)) => vec![Failed],
        ("RollbackAtGate" | "Rollback", At(before)) if before.is_before_cutover() => vec![RolledBack],
        ("RollbackAtSwitch" | "Rollback", At(AwaitingClientSwitch)) => vec![RolledBack],
        ("RollbackAtGate" | "RollbackAtSwitch" | "Rollback", FailedIn(before)) if before <= AwaitingClientSwitch => {
            vec![RolledBack]
        }
        ("Recover" | "TakeBack" | "TakeBackCutover", FailedIn(Cutover)) => vec![DrainReady, Failed],
        ("Recover" | "TakeBack" | "TakeBackCutover", At(state)) if !state.is_terminal() => vec![Failed],
        ("Recover" | "TakeBack" | "TakeBackCutover", FailedIn(_)) => vec![Failed],
        _ => Vec::new(),
    }
}

/// Whether the state of the definition may end well where the migration stands at `at`.
fn done(asl: &str, at: Position) -> bool {
    use Position::{At, FailedIn, Unborn};
    match asl {
        "Plan" => matches!(at, At(_) | FailedIn(Cutover)),
        "Precheck" => at == At(TopologyCopy),
        "TopologyCopy" => matches!(at, At(Seed | Tail | DrainReady)),
        "DrainReady" => at == At(DrainReady),
        "Cutover" => at == At(AwaitingClientSwitch),
        "Acknowledge" => at == At(Validating),
        "Validating" => at == At(Finalized),
        "RollbackAtGate" | "RollbackAtSwitch" | "Rollback" => at == At(RolledBack),
        "TakeBackCutover" => at == At(DrainReady),
        "Recover" | "TakeBack" => match at {
            At(state) => state == DrainReady || state.is_terminal(),
            FailedIn(before) => before != Cutover,
            Unborn | Position::FailedTooOften(_) => at == Unborn,
        },
        _ => true,
    }
}

/// Where the migration may stand while the definition is in one of these: no name may lie to who looks at the console.
fn stands(asl: &str) -> Option<&'static [State]> {
    Some(match asl {
        "Precheck" => &[Planned, Precheck],
        "TopologyCopy" => &[TopologyCopy, Seed, Tail, DrainReady],
        "Seed" | "SeedLane" => &[Seed],
        "AskedToEnd" => &[DrainReady],
        "Tail" | "DrainReady" => &[Seed, Tail, DrainReady],
        "ApproveCutover" | "FreezeProducers" | "RollbackAtGate" | "Cutover" => &[DrainReady],
        "TakeBackCutover" => &[Cutover],
        "AwaitingClientSwitch" | "KeepGroupsInStep" | "AcknowledgeSwitch" | "Acknowledge" | "RollbackAtSwitch" => {
            &[AwaitingClientSwitch]
        }
        "Validating" => &[Validating],
        "Finalized" => &[Finalized],
        "RolledBack" => &[RolledBack],
        _ => return None,
    })
}

fn definition() -> String {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(here.join("../statemachine/migration.asl.json")).expect("the definition is in the repository")
}

/// A state of the definition, and where it stands in it.
struct Node {
    json: Value,
    /// The Parallel or Map it is part of.
    inside: Option<String>,
    /// Which branch of that.
    branch: usize,
}

struct Machine {
    start: String,
    nodes: BTreeMap<String, Node>,
}

impl Machine {
    fn read() -> Self {
        let json: Value = serde_json::from_str(&definition()).expect("it is JSON");
        let mut nodes = BTreeMap::new();
        collect(&json, None, 0, &mut nodes);
        Machine { start: text(&json, "StartAt").expect("it starts somewhere"), nodes }
    }

    fn of_type(&self, kind: &str) -> impl Iterator<Item = (&String, &Value)> {
        let wanted = self.nodes.iter().filter(move |(_, node)| node.json["Type"] == kind);
        wanted.map(|(name, node)| (name, &node.json))
    }

    /// Whether anything in this branch journals; the end of one that does not says nothing about where it all stands.
    fn branch_journals(&self, inside: &str, branch: usize) -> bool {
        self.nodes.iter().any(|(name, node)| {
            let here = node.inside.as_deref() == Some(inside) && node.branch == branch;
            here && every_position().any(|at| !journals(name, at).is_empty())
        })
    }
}

fn collect(machine: &Value, inside: Option<&str>, branch: usize, nodes: &mut BTreeMap<String, Node>) {
    for (name, json) in machine["States"].as_object().expect("a machine has states") {
        for (branch, part) in parts(json).into_iter().enumerate() {
            collect(part, Some(name), branch, nodes);
        }
        let node = Node { json: json.clone(), inside: inside.map(str::to_owned), branch };
        assert!(nodes.insert(name.clone(), node).is_none(), "two states are called {name}");
    }
}

/// The machines within a Parallel or a Map.
fn parts(json: &Value) -> Vec<&Value> {
    let branches = json["Branches"].as_array().into_iter().flatten();
    branches.chain(json.get("ItemProcessor")).collect()
}

fn text(json: &Value, key: &str) -> Option<String> {
    json[key].as_str().map(str::to_owned)
}

fn list<'a>(json: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    json[key].as_array().into_iter().flatten()
}

fn errors(retry_or_catch: &Value) -> impl Iterator<Item = &str> {
    list(retry_or_catch, "ErrorEquals").filter_map(Value::as_str)
}

fn every_position() -> impl Iterator<Item = Position> {
    let working = State::ALL.into_iter().filter(|state| *state != Failed);
    working.flat_map(|state| [Position::At(state), Position::FailedIn(state)]).chain([Position::Unborn])
}

fn after(at: Position, to: State) -> Position {
    match (at, to) {
        (Position::Unborn, Failed) => unreachable!("what is not born cannot fail"),
        (Position::At(before) | Position::FailedIn(before) | Position::FailedTooOften(before), Failed) => {
            Position::FailedIn(before)
        }
        (_, to) => Position::At(to),
    }
}

/// What a condition says of the output of the state before; nothing where that depends on an answer.
fn holds(condition: &str, before: &Value, at: Position) -> Option<bool> {
    let quoted = || condition.split('\'').skip(1).step_by(2);
    if condition.contains("$states.input.state in [") {
        assert!(before.get("state").is_some(), "{condition} looks at what is not there");
        let name = at.working_state().map_or("unborn", State::name);
        return Some(quoted().any(|listed| listed == name));
    }
    if condition.contains("$exists($states.input.failed)") {
        return Some(before.get("failed").is_some());
    }
    if condition.contains("$states.input.lanes_anew") || condition.contains("$states.input.ask_first") {
        return None;
    }
    assert!(condition.contains("$states.input.decision = '"), "{condition} is not understood here");
    let decided = before.get("decision")?.as_str()?;
    Some(quoted().next() == Some(decided))
}

/// A way through the definition that has come to a state: the migration stands at `at`, and the state's input is the
/// output of `before`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Arrival {
    asl: String,
    at: Position,
    before: String,
}

/// Everything that can be arrived at, and every edge of the journal that is made on the way.
struct Walked {
    arrivals: Vec<Arrival>,
    edges: BTreeSet<(Option<State>, State)>,
}

fn walk(machine: &Machine) -> Walked {
    let begin = |at| Arrival { asl: machine.start.clone(), at, before: String::new() };
    let mut open: Vec<Arrival> = every_position().filter(can_be_found).map(begin).collect();
    let mut walked = Walked { arrivals: Vec::new(), edges: BTreeSet::new() };
    while let Some(arrival) = open.pop() {
        if walked.arrivals.contains(&arrival) {
            continue;
        }
        walked.arrivals.push(arrival.clone());
        let node = &machine.nodes[&arrival.asl];
        let reached = reached(&arrival, &mut walked.edges);
        for part in parts(&node.json) {
            let asl = text(part, "StartAt").expect("a branch starts somewhere");
            open.push(Arrival { asl, ..arrival.clone() });
        }
        match node.json["Type"].as_str() {
            Some("Choice") => open.extend(chosen(machine, &arrival)),
            Some("Fail") => open.extend(caught(machine, node.inside.as_deref(), arrival.at, false)),
            // It ends as what is in it ends; it may also fail by itself, where what is in it cannot be started.
            Some("Parallel" | "Map") => open.extend(caught(machine, Some(&arrival.asl), arrival.at, false)),
            _ => {
                let well = reached.iter().filter(|at| done(&arrival.asl, **at));
                open.extend(well.flat_map(|at| left(machine, &arrival.asl, *at, &arrival.asl)));
                if node.json["Type"] == "Task" {
                    let changed = |at: Position| at != arrival.at;
                    let errors = reached.iter().map(|at| caught(machine, Some(&arrival.asl), *at, changed(*at)));
                    open.extend(errors.flatten());
                }
            }
        }
    }
    walked
}

/// Where an execution may find a migration: never `failed` in a state after which nothing follows.
fn can_be_found(at: &Position) -> bool {
    !matches!(at, Position::FailedIn(before) if before.is_terminal())
}

/// Every position that the state may come to, the one it begins in first.
fn reached(arrival: &Arrival, edges: &mut BTreeSet<(Option<State>, State)>) -> Vec<Position> {
    let mut reached = vec![arrival.at];
    let mut next = 0;
    while let Some(at) = reached.get(next).copied() {
        next += 1;
        for to in journals(&arrival.asl, at) {
            assert!(at.allows(to), "{} journals {to} at {at:?}, which the table forbids", arrival.asl);
            edges.insert((at.tip(), to));
            let then = after(at, to);
            if !reached.contains(&then) {
                reached.push(then);
            }
        }
    }
    reached
}

/// Where it goes after `asl` has ended well.
fn left(machine: &Machine, asl: &str, at: Position, before: &str) -> Vec<Arrival> {
    let node = &machine.nodes[asl];
    if let Some(next) = text(&node.json, "Next") {
        return vec![Arrival { asl: next, at, before: before.to_owned() }];
    }
    match &node.inside {
        Some(inside) if machine.branch_journals(inside, node.branch) || !any_branch_journals(machine, inside) => {
            left(machine, inside, at, before)
        }
        _ => Vec::new(),
    }
}

fn any_branch_journals(machine: &Machine, inside: &str) -> bool {
    let branches = parts(&machine.nodes[inside].json).len();
    (0..branches).any(|branch| machine.branch_journals(inside, branch))
}

/// Where it goes after an error in `asl`: to each of its catchers, and out of what it stands in where none takes all. Who
/// refuses has journaled no change of state: one that takes only that is not for whoever has `changed` the state before.
fn caught(machine: &Machine, asl: Option<&str>, at: Position, changed: bool) -> Vec<Arrival> {
    let Some(asl) = asl else { return Vec::new() };
    let node = &machine.nodes[asl];
    let to = |catch: &Value| Arrival {
        asl: text(catch, "Next").expect("a catcher leads somewhere"),
        at,
        before: String::new(),
    };
    let fits = |catch: &&Value| !(changed && errors(catch).eq([ErrorClass::Refused.name()]));
    let mut arrivals: Vec<Arrival> = list(&node.json, "Catch").filter(fits).map(to).collect();
    if !list(&node.json, "Catch").any(|catch| errors(catch).eq(["States.ALL"])) {
        arrivals.extend(caught(machine, node.inside.as_deref(), at, changed));
    }
    arrivals
}

/// Which rules of a Choice may be taken.
fn chosen(machine: &Machine, arrival: &Arrival) -> Vec<Arrival> {
    let choice = &machine.nodes[&arrival.asl].json;
    let before = machine.nodes.get(&arrival.before).map_or(&Value::Null, |node| &node.json["Output"]);
    let to = |rule: &Value, key| {
        let asl = text(rule, key).unwrap_or_else(|| panic!("{} has nowhere to go at {:?}", arrival.asl, arrival.at));
        Arrival { asl, ..arrival.clone() }
    };
    let mut arrivals = Vec::new();
    for rule in list(choice, "Choices") {
        let condition = rule["Condition"].as_str().expect("a rule has a condition");
        match holds(condition, before, arrival.at) {
            Some(false) => {}
            Some(true) => {
                arrivals.push(to(rule, "Next"));
                return arrivals;
            }
            None => arrivals.push(to(rule, "Next")),
        }
    }
    arrivals.push(to(choice, "Default"));
    arrivals
}

#[test]
fn every_state_of_the_journal_is_seen_in_the_console() {
    let machine = Machine::read();
    for state in State::ALL {
        // `failed` is a note about a state, not a place to be; `planned` lasts as long as making the plan.
        let named = match state {
            Failed => "Recover".to_owned(),
            Planned => "Plan".to_owned(),
            state => state.name().split('_').map(|word| word[..1].to_uppercase() + &word[1..]).collect(),
        };
        assert!(machine.nodes.contains_key(&named), "{state} has no state {named}");
    }
}

#[test]
fn exactly_the_edges_of_the_journals_table_are_made() {
    let walked = walk(&Machine::read());
    let first = [(None, Planned)];
    let table = State::ALL.into_iter().flat_map(|from| from.successors().iter().map(move |to| (Some(from), *to)));
    let table: BTreeSet<_> = table.chain(first).collect();
    assert_eq!(walked.edges, table);
}

#[test]
fn no_state_is_entered_where_it_cannot_do_its_work() {
    let walked = walk(&Machine::read());
    for arrival in &walked.arrivals {
        let Arrival { asl, at, .. } = arrival;
        if let Some(states) = stands(asl) {
            assert!(at.working_state().is_some_and(|state| states.contains(&state)), "{asl} is entered at {at:?}");
        }
        // Asked for too late a rollback is refused, and the operator is asked again.
        let refused = asl == "Rollback" && at.working_state().is_none_or(|state| state > AwaitingClientSwitch);
        let reached = reached(arrival, &mut BTreeSet::new());
        assert!(refused || reached.iter().any(|at| done(asl, *at)), "{asl} is entered at {at:?} and cannot end well");
    }
}

#[test]
fn what_an_operator_decides_is_done_by_an_answer_only() {
    let decided = ["Cutover", "RollbackAtGate", "RollbackAtSwitch", "Rollback", "Acknowledge"];
    for (name, node) in &Machine::read().nodes {
        let catches = list(&node.json, "Catch").filter_map(|catch| text(catch, "Next"));
        let ways = [text(&node.json, "Next"), text(&node.json, "Default")].into_iter().flatten().chain(catches);
        for to in ways {
            assert!(!decided.contains(&to.as_str()), "{name} leads to {to} without an answer");
            // An interrupted cutover is taken back and looked at again: that begins nothing.
            assert!(to != "Plan" || name == "TakeBackCutover", "{name} tries again without an answer");
        }
        for rule in list(&node.json, "Choices") {
            let to = rule["Next"].as_str().unwrap_or_default();
            let answered = rule["Condition"].as_str().is_some_and(|text| text.contains("$states.input.decision = '"));
            assert!(answered || !decided.contains(&to) && to != "Plan", "{name} leads to {to} without an answer");
        }
    }
}

#[test]
fn every_state_is_reached() {
    let machine = Machine::read();
    let walked = walk(&machine);
    for name in machine.nodes.keys() {
        assert!(walked.arrivals.iter().any(|arrival| &arrival.asl == name), "{name} is never reached");
    }
}

#[test]
fn errors_are_named_as_those_who_raise_them_do() {
    let machine = Machine::read();
    let mut classes = BTreeSet::new();
    for (name, node) in &machine.nodes {
        for error in list(&node.json, "Retry").chain(list(&node.json, "Catch")).flat_map(errors) {
            let class = CLASSES.iter().find(|class| class.name() == error);
            classes.extend(class.map(|class| class.name()));
            assert!(class.is_some() || ERRORS_OF_AWS.contains(&error), "{name} waits for {error}, which nobody raises");
        }
    }
    assert_eq!(classes.len(), CLASSES.len(), "some class is never named: {classes:?}");
}

#[test]
fn every_task_is_tried_again_and_caught_or_says_why_not() {
    let machine = Machine::read();
    for (name, task) in machine.of_type("Task") {
        let excepted = |list: &[(&str, &str)]| list.iter().any(|(excepted, _)| excepted == name);
        assert_eq!(task.get("Retry").is_none(), excepted(&NOT_TRIED_AGAIN), "Retry of {name}");
        assert_eq!(task.get("Catch").is_none(), excepted(&NOT_CAUGHT), "Catch of {name}");
        let risk = |retry: &&Value| errors(retry).any(|error| error == ErrorClass::DataAtRisk.name());
        let never = list(task, "Retry").find(risk).is_some_and(|retry| retry["MaxAttempts"] == 0);
        let any =
            list(task, "Retry").flat_map(errors).any(|error| error == "States.TaskFailed" || error == "States.ALL");
        assert!(never || !any, "{name} goes on where data is at risk");
    }
    for (name, kind) in machine.of_type("Map").chain(machine.of_type("Parallel")) {
        assert!(list(kind, "Catch").any(|catch| errors(catch).eq(["States.ALL"])), "{name} lets errors through");
    }
}

#[test]
fn nothing_waits_for_ever() {
    for (name, task) in Machine::read().of_type("Task") {
        assert!(task.get("TimeoutSeconds").is_some(), "{name} may last for ever");
        let worker = task["Resource"].as_str().is_some_and(|resource| resource.contains("ecs:runTask"));
        assert_eq!(task.get("HeartbeatSeconds").is_some(), worker, "a worker beats, a person does not: {name}");
    }
}

/// The history of an execution ends at 25,000 events. Lanes may be a thousand, a lane's worker may be replaced for weeks,
/// and none of that is in it.
#[test]
fn what_lanes_do_is_in_histories_of_their_own() {
    let machine = Machine::read();
    assert!(machine.of_type("Map").count() > 0);
    for (name, map) in machine.of_type("Map") {
        let config = &map["ItemProcessor"]["ProcessorConfig"];
        assert_eq!(config["Mode"], "DISTRIBUTED", "{name} adds events of each lane to the history");
        assert_eq!(config["ExecutionType"], "STANDARD", "{name} ends after five minutes");
    }
}

#[test]
fn lanes_are_told_what_they_need() {
    // Executions of a distributed map see neither the variables nor the execution of the one that started them.
    let machine = Machine::read();
    for (name, map) in machine.of_type("Map") {
        let inside = map["ItemProcessor"].to_string();
        for unseen in ["$states.context.Execution", "$lanes", "$asked", "$freeze", "$failure"] {
            assert!(!inside.contains(unseen), "{name}: {unseen} is something else in there");
        }
        for told in ["lane", "migration_id", "execution"] {
            assert!(map["ItemSelector"].get(told).is_some(), "{name} does not say {told}");
        }
    }
}

#[test]
fn placeholders_are_those_that_are_filled() {
    let definition = definition();
    let used: BTreeSet<&str> =
        definition.split("${").skip(1).map(|rest| rest.split('}').next().expect("split gives one")).collect();
    assert_eq!(used, BTreeSet::from(PLACEHOLDERS));
    assert!(!definition.contains("{%{"), "Terraform reads that as a directive of its own");
}
