//! `make demo`: a real migration between two real clusters, told as it happens.
//!
//! Everything that is shown was done: the commands are the ones a user types, the load is live until producers are
//! frozen, and the verdict is that of a client that shares no code with Krossing. `KROSSING_SCALE=small` takes a
//! thirtieth of the data.
//!
//! `make demo-aws`: the same migration as AWS runs it, with the definition, Lambdas and Fargate tasks of a stack. What
//! stands in for AWS is said in `lab::stack`.

use std::{collections::BTreeMap, path::Path, process::Command, time::Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::{
    Lab, Stack, StackSpec,
    compare::{Resumption, compare, groups_resume_exactly},
    rehearsal::{Outcome, Rehearsal, RehearsalSpec, command_file, read_journal},
    stack::{CONFIG, EVIDENCE},
    workload::{Offsets, Scale},
};
use serde_json::Value;

fn main() -> Result<()> {
    let form = match std::env::args().nth(1).as_deref() {
        None => Form::Command,
        Some("aws") => Form::Stack,
        Some(other) => bail!("{other}: there is a demo, and a demo aws"),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let lab = Lab::new("demo")?;
    let told = runtime.block_on(demo(&lab, form));
    if told.is_err() {
        lab.keep_logs();
    }
    told
}

/// Who does the work.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// The command itself.
    Command,
    /// A stack, which the command asks.
    Stack,
}

/// A command as a user types it; against the stack where there is one.
async fn run(rehearsal: &Rehearsal, form: Form, name: &str) -> Result<Outcome> {
    let id = ["--migration-id", &rehearsal.id];
    let arguments = match form {
        Form::Command => id.to_vec(),
        Form::Stack => [&id[..], &["--stack", "lab"]].concat(),
    };
    Ok(show(rehearsal.start(name, &arguments)?.finish().await?.expect_code(0)?))
}

async fn demo(lab: &Lab, form: Form) -> Result<()> {
    let began = Instant::now();
    chapter("Two clusters and a source full of hard data");
    let config = if form == Form::Stack { CONFIG.to_owned() } else { String::new() };
    let spec = RehearsalSpec { scale: Scale::from_environment(), config, ..RehearsalSpec::default() };
    let mut rehearsal = Rehearsal::prepare(lab, &spec).await?;
    tell(&format!(
        "source: Kafka 3.9.1 with ZooKeeper, up in {:.1} s; target: Kafka 3.9.1 with KRaft, up in {:.1} s",
        rehearsal.source.started_in.as_secs_f64(),
        rehearsal.target.started_in.as_secs_f64()
    ));
    tell(&format!(
        "{} topics, {} records, {:.0} MB of keys and values, loaded in {:.0} s: every codec, transactions committed and \
         aborted, compacted topics with gaps, deleted heads, one-record batches, records of 3 MB, old and future \
         timestamps, tombstones, names of 249 characters",
        rehearsal.workload.topics.len(),
        rehearsal.workload.recorder.count(),
        rehearsal.workload.bytes as f64 / 1e6,
        rehearsal.workload.took.as_secs_f64()
    ));
    tell(&format!(
        "{} consumer groups in awkward places, {} of them consuming; producers keep writing until they are frozen",
        rehearsal.groups.names().len(),
        rehearsal.groups.live.len()
    ));

    let mut stack = None;
    if form == Form::Stack {
        chapter("A stack: the definition, nine Lambdas, a Fargate worker, a table, buckets, a key");
        let deployed = lab.stack(StackSpec::of_product(&rehearsal)?).await?;
        rehearsal.migration.env = deployed.environment();
        tell(
            "in place of AWS: moto runs the definition, a server of the lab starts the real Lambda and worker binaries,",
        );
        tell("DynamoDB Local keeps the ledger, versitygw the buckets, with Object Lock");
        stack = Some(deployed);
    }

    chapter("krossing execute: copy everything, then keep up");
    let executed = run(&rehearsal, form, "execute").await?;

    chapter("krossing cutover: producers stand still, the source is closed, groups are carried over");
    run(&rehearsal, form, "cutover").await?;

    chapter("The clients switch");
    rehearsal.groups.stop_live().await?;
    tell("consumers have left the source, each where it had come to");
    run(&rehearsal, form, "cutover-ack").await?;

    chapter("Judged by librdkafka, reading committed records of both clusters");
    let (source, target) = (rehearsal.source.client(), rehearsal.target.client());
    let compared = compare(&source, &target, &rehearsal.topics()).await?;
    tell(&format!(
        "{} records of {} partitions compared one by one (key, value, headers, timestamp, order): {} differences",
        compared.records,
        compared.partitions,
        compared.differences.len()
    ));
    ensure!(compared.differences.is_empty(), "{:#?}", compared.differences);
    let acknowledged = rehearsal.workload.recorder.verify(&target, Offsets::Any).await?;
    tell(&format!(
        "{} records that producers had acknowledged: {} missing, {} too many",
        acknowledged.records,
        acknowledged.missing.len(),
        acknowledged.extra
    ));
    ensure!(acknowledged.missing.is_empty() && acknowledged.extra == 0, "{acknowledged:?}");
    let resumptions = groups_resume_exactly(&source, &target, &rehearsal.groups.names()).await?;
    tell_groups(&resumptions);
    let wrong: Vec<_> = resumptions.iter().filter(|resumption| resumption.problem.is_some()).collect();
    ensure!(wrong.is_empty(), "{wrong:#?}");

    chapter("krossing finalize: validate, set the planned settings, write the report");
    run(&rehearsal, form, "finalize").await?;

    let journal = match &stack {
        None => rehearsal.journal()?,
        Some(stack) => {
            chapter("krossing evidence verify: what was signed, brought from its bucket");
            let evidence = stack.servers().bucket_on_disk(EVIDENCE);
            verify(&evidence.join(&rehearsal.id).join("evidence.json"), &evidence)?;
            // The copy that lies beside the evidence.
            read_journal(&evidence.join(&rehearsal.id).join("journal.jsonl"))?
        }
    };
    chapter("What it cost");
    let seeded_gb = tell_what_it_cost(&journal)?;
    match &stack {
        None => tell(&format!(
            "execute, from plan to drain_ready: {:.0} s, {:.1} CPU-seconds ({:.1} a GB), at most {:.0} MB of memory",
            executed.took.as_secs_f64(),
            executed.cpu.as_secs_f64(),
            executed.cpu.as_secs_f64() / seeded_gb,
            executed.memory_bytes_max as f64 / 1e6
        )),
        Some(stack) => tell_of_stack(stack, &rehearsal.id).await?,
    }
    tell(&format!("the whole demo: {:.0} s", began.elapsed().as_secs_f64()));
    Ok(())
}

/// The seed and the cutover, as the journal has them. Answers how many GB were seeded.
fn tell_what_it_cost(journal: &[Value]) -> Result<f64> {
    let entered = |state: &str| {
        let mut entries = journal.iter().rev();
        let found = entries.find(|entry| entry["kind"] == "transition" && entry["to"] == state);
        found.with_context(|| format!("the journal has no {state}"))
    };
    let (seed, tail) = (entered("seed")?, entered("tail")?);
    let bytes = tail["detail"]["bytes_written"].as_f64().context("the seed has no bytes")?;
    let at_ms = |entry: &Value| entry["at_unix_ms"].as_f64().context("an entry has no time");
    let seed_ms = at_ms(tail)? - at_ms(seed)?;
    tell(&format!(
        "seed: {:.2} GB of record batches in {:.1} s, {:.0} MB/s, through segments on the same disk",
        bytes / 1e9,
        seed_ms / 1e3,
        bytes / 1e3 / seed_ms
    ));
    let timings = &entered("awaiting_client_switch")?["detail"]["timings"];
    tell(&format!("producers stood still for {} ms until READY: {timings}", timings["frozen_ms"]));
    Ok(bytes / 1e9)
}

/// Has the command check evidence, and shows what it says.
fn verify(file: &Path, objects: &Path) -> Result<()> {
    let said =
        Command::new(command_file()?).args(["evidence", "verify"]).arg(file).arg("--objects").arg(objects).output()?;
    let [stdout, stderr] = [said.stdout, said.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    stdout.lines().chain(stderr.lines()).for_each(|line| println!("   | {line}"));
    ensure!(said.status.success(), "the evidence does not hold");
    Ok(())
}

/// Events, tasks, and how long functions took.
async fn tell_of_stack(stack: &Stack, id: &str) -> Result<()> {
    let execution = format!("{}:{id}-1", stack.state_machine().replace(":stateMachine:", ":execution:"));
    let history = stack.history(&execution).await?;
    let entered = |event: &&Value| event["type"].as_str().is_some_and(|kind| kind.ends_with("StateEntered"));
    tell(&format!(
        "the execution: {} events in its history, {} states entered, beside two for each task of a lane",
        history.len(),
        history.iter().filter(entered).count()
    ));
    for task in stack.tasks().await? {
        let exit = task.exit_code.map_or("running".to_owned(), |code| format!("exit {code}"));
        tell(&format!("task {}: {exit}", task.command.join(" ")));
    }
    let mut of_function: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for invocation in stack.invocations().await? {
        of_function.entry(invocation.function.clone()).or_default().push(invocation);
    }
    for (function, invocations) in of_function {
        let times = invocations.iter().map(|one| {
            let start = if one.cold { "cold" } else { "warm" };
            format!("{start} {} ms", one.took.as_millis())
        });
        tell(&format!("{function}: {}", times.collect::<Vec<_>>().join(", ")));
    }
    tell("(recover looks after each task that has stopped: one that has said how it ended leaves it nothing to do)");
    let messages = stack.messages().await?;
    tell(&format!("{} messages for the chat, the first that asks:", messages.len()));
    if let Some(asks) = messages.iter().find(|message| message["content"]["nextSteps"].is_array()) {
        let content = &asks["content"];
        let text = ["title", "description"].map(|part| content[part].as_str().unwrap_or_default());
        let steps = content["nextSteps"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let lines = text.iter().flat_map(|text| text.lines()).filter(|line| !line.is_empty());
        lines.chain(steps).for_each(|line| println!("   | {line}"));
    }
    Ok(())
}

fn chapter(title: &str) {
    println!("\n== {title}");
}

fn tell(sentence: &str) {
    println!("   {sentence}");
}

fn show(outcome: Outcome) -> Outcome {
    for line in outcome.stdout.lines().chain(outcome.stderr.lines()) {
        println!("   | {line}");
    }
    outcome
}

/// One line a group: its first partition, before and after.
fn tell_groups(resumptions: &[Resumption]) {
    let mut of_group: BTreeMap<&str, Vec<&Resumption>> = BTreeMap::new();
    for resumption in resumptions {
        of_group.entry(&resumption.group).or_default().push(resumption);
    }
    println!(
        "   {:<34} {:>10}  {:<28} {:>9} {:>9}  next record",
        "group", "partitions", "for example", "source", "target"
    );
    for (group, all) in of_group {
        let example = all[0];
        let verdict = if all.iter().all(|one| one.problem.is_none()) { "the same" } else { "DIFFERS" };
        let at = |offset: Option<i64>| offset.map_or("-".to_owned(), |offset| offset.to_string());
        let topic: String = example.topic.chars().take(24).collect();
        println!(
            "   {group:<34} {:>10}  {:<28} {:>9} {:>9}  {verdict}",
            all.len(),
            format!("{topic}-{}", example.partition),
            at(example.source_committed),
            at(example.target_committed)
        );
    }
}
