//! Values that a file takes from elsewhere: `${NAME}` from the environment, `${secretsmanager:NAME:KEY}` from AWS
//! Secrets Manager.
//!
//! Reading a configuration waits for nothing: which secrets it names is told first ([`Config::wanted`]), whoever can
//! reach them brings them, and then it is read. A secret is brought whole and once, whatever keys are taken out of it.
//!
//! Invariant: no problem says what a secret holds, and none says so by showing a value that came out of one.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use serde_json::Value;

use super::{Config, Problem, Secret, reading::Reading};

/// What a reference to a secret begins with.
const SECRETS_MANAGER: &str = "secretsmanager:";

/// Why a value cannot be had: what is wrong, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unavailable {
    /// What is wrong; not what the secret holds.
    pub what: String,
    /// What to do.
    pub remedy: String,
    /// Whether the same question may be answered the next time.
    pub passing: bool,
}

impl Unavailable {
    fn for_good(what: String, remedy: impl Into<String>) -> Self {
        Self { what, remedy: remedy.into(), passing: false }
    }
}

/// Secrets by name, each whole, or why it cannot be had.
pub type Secrets = BTreeMap<String, Result<Secret, Unavailable>>;

/// Stands for what the field at `path` takes from a secret, where nobody reads that: what is needed to log in, or to ask
/// the webhook. Whatever else stands in a secret would be taken for what it is not: a table, a bucket.
fn left_alone(path: &str) -> Result<String, Unavailable> {
    match path.split_once('.') {
        Some(("cutover", "producer_freeze_webhook")) => Ok("https://left-in-its-secret.invalid".to_owned()),
        Some(("source" | "target" | "cutover", _)) => Ok("left-in-its-secret.invalid:9092".to_owned()),
        _ => Err(Unavailable::for_good(
            "it stands in a secret, and who only asks, decides or looks reads none".to_owned(),
            "write the value here",
        )),
    }
}

/// What must be brought before a configuration can be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Names (or ARNs) of secrets.
    pub secrets: BTreeSet<String>,
    /// The region that the configuration gives.
    pub region: Option<String>,
}

/// What stands between `${` and `}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reference<'a> {
    /// An environment variable.
    Variable(&'a str),
    /// A secret, or the value under one key of it.
    Secret { name: &'a str, key: Option<&'a str> },
}

impl<'a> Reference<'a> {
    pub(super) fn parse(text: &'a str) -> Self {
        let Some(secret) = text.strip_prefix(SECRETS_MANAGER) else { return Reference::Variable(text) };
        // An ARN has six colons of its own; a name has none.
        let colons = if secret.starts_with("arn:") { 6 } else { 0 };
        let (name, key) = match secret.match_indices(':').nth(colons) {
            Some((at, _)) => (&secret[..at], Some(&secret[at + 1..])),
            None => (secret, None),
        };
        Reference::Secret { name, key: key.filter(|key| !key.is_empty()) }
    }
}

/// Answers a reference.
pub(super) fn look_up(
    reference: Reference<'_>,
    env: &impl Fn(&str) -> Option<String>,
    secrets: &Secrets,
) -> Result<String, Unavailable> {
    match reference {
        Reference::Variable(name) => env(name).ok_or_else(|| {
            let what = format!("the environment variable {name} is not set");
            Unavailable::for_good(what, format!("set {name}, or write the value here"))
        }),
        Reference::Secret { name: "", .. } => Err(Unavailable::for_good(
            "it names no secret".to_owned(),
            "write ${secretsmanager:NAME} or ${secretsmanager:NAME:KEY}",
        )),
        Reference::Secret { name, key } => {
            let not_asked = || {
                let what = format!("the secret {name} was not asked for: secrets are not looked up here");
                Unavailable::for_good(what, "write the value here, or take it from the environment")
            };
            let secret = secrets.get(name).cloned().unwrap_or_else(|| Err(not_asked()))?;
            key.map_or_else(|| Ok(secret.expose().to_owned()), |key| value_of(name, key, secret.expose()))
        }
    }
}

/// The value under a key of a secret that is a JSON object, which is what Secrets Manager's own pages write.
fn value_of(name: &str, key: &str, secret: &str) -> Result<String, Unavailable> {
    let unavailable = |what, remedy: &str| Err(Unavailable::for_good(what, remedy));
    // What the parser complains of would show what stands there.
    let Ok(Value::Object(values)) = serde_json::from_str(secret) else {
        return unavailable(
            format!("the secret {name} is not a JSON object, so that it has no key {key}"),
            "store it as key/value pairs, or leave the key out to take it whole",
        );
    };
    match values.get(key) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(value @ (Value::Number(_) | Value::Bool(_))) => Ok(value.to_string()),
        Some(Value::Null | Value::Array(_) | Value::Object(_)) => unavailable(
            format!("what the secret {name} has under {key} is no text"),
            "store a text there, or name another key",
        ),
        None => unavailable(format!("the secret {name} has no key {key}"), "correct the key, or add it to the secret"),
    }
}

impl Config {
    /// Reads a configuration and leaves the secrets that it names alone: for whoever logs in nowhere with them, and then
    /// needs no right to read them.
    pub fn parse_without_secrets(text: &str, env: impl Fn(&str) -> Option<String>) -> Result<Self, Vec<Problem>> {
        Self::parse_by(text, &|path, reference| match reference {
            Reference::Secret { name, .. } if !name.is_empty() => left_alone(path),
            reference => look_up(reference, &env, &Secrets::new()),
        })
    }

    /// What must be brought before this text can be read. What is wrong with the text is told when it is read.
    pub fn wanted(text: &str, env: impl Fn(&str) -> Option<String>) -> Wanted {
        let secrets = RefCell::new(BTreeSet::new());
        let reading = Reading::first_look(text, |_, reference| match reference {
            Reference::Variable(name) => Ok(env(name).unwrap_or_default()),
            Reference::Secret { name, .. } => {
                if !name.is_empty() {
                    secrets.borrow_mut().insert(name.to_owned());
                }
                Ok(String::new())
            }
        });
        Wanted { region: reading.written("aws.region").filter(|region| !region.is_empty()), secrets: secrets.take() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, name: &str, key: Option<&str>) {
        assert_eq!(Reference::parse(text), Reference::Secret { name, key }, "{text}");
    }

    #[test]
    fn secrets_are_named_by_name_or_arn_with_or_without_a_key() {
        const ARN: &str = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:AmazonMSK_orders-a1B2c3";
        check("secretsmanager:AmazonMSK_orders", "AmazonMSK_orders", None);
        check("secretsmanager:prod/kafka:password", "prod/kafka", Some("password"));
        check("secretsmanager:prod/kafka:a:b", "prod/kafka", Some("a:b"));
        check("secretsmanager:prod/kafka:", "prod/kafka", None);
        check(&format!("secretsmanager:{ARN}"), ARN, None);
        check(&format!("secretsmanager:{ARN}:password"), ARN, Some("password"));
        assert_eq!(Reference::parse("PASSWORD"), Reference::Variable("PASSWORD"));
    }

    #[test]
    fn secrets_may_be_left_alone_wherever_a_text_stands() {
        let text = "migration:
  source: {bootstrap_servers: '${secretsmanager:brokers}', auth: {mode: scram-sha-512, username: '${secretsmanager:u:name}',
    password: '${secretsmanager:u:password}'}}
  target: {bootstrap_servers: 't:9092'}
  backup: {s3_bucket: b}
  evidence: {s3_bucket: e}
  cutover: {producer_freeze_webhook: '${secretsmanager:url}', producer_freeze_webhook_secret: '${secretsmanager:w}'}";
        assert!(Config::parse(text, |_| None).is_err(), "they are not there");
        let config = Config::parse_without_secrets(text, |_| None).expect("nothing else is wrong");
        assert_eq!(config.target.bootstrap_servers, ["t:9092"]);
        let odd = text.replace("secretsmanager:brokers", "secretsmanager:").replace("secretsmanager:u:name", "NAME");
        let problems = Config::parse_without_secrets(&odd, |_| None).expect_err("no name, no variable");
        let paths: Vec<_> = problems.iter().map(|problem| problem.path.as_str()).collect();
        assert_eq!(paths, ["source.auth.username", "source.bootstrap_servers"]);
        let elsewhere = text.replace("{s3_bucket: e}", "{s3_bucket: '${secretsmanager:e}'}");
        let problems = Config::parse_without_secrets(&elsewhere, |_| None).expect_err("it is another bucket");
        assert_eq!((problems.len(), problems[0].path.as_str()), (1, "evidence.s3_bucket"));
        let unread = text.replace("${secretsmanager:url}", "${NOT_SET}");
        let problems = Config::parse_without_secrets(&unread, |_| None).expect_err("no such variable");
        assert_eq!((problems.len(), problems[0].path.as_str()), (1, "cutover.producer_freeze_webhook"));
    }

    #[test]
    fn a_value_is_taken_out_of_an_object_and_nothing_else_is_told() {
        let said = |secret: &str, key: &str| value_of("s", key, secret).map_err(|no| no.what);
        assert_eq!(said(r#"{"password": "p:1", "port": 9096}"#, "password"), Ok("p:1".to_owned()));
        assert_eq!(said(r#"{"password": "p:1", "port": 9096}"#, "port"), Ok("9096".to_owned()));
        for secret in
            ["hunter2", r#"{"other": "hunter2"}"#, r#"["hunter2"]"#, r#"{"k": ["hunter2"]}"#, r#"{"k": hunter2}"#]
        {
            let said = said(secret, "k").expect_err("there is no such value");
            assert!(said.contains("secret s") && said.contains('k') && !said.contains("hunter2"), "{said}");
        }
    }
}
