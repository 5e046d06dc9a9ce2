//! Goal: a configuration's secrets come out of Secrets Manager, and one that cannot be had is named with its field and
//! never shown.

use std::collections::BTreeSet;

use anyhow::Result;
use krossing_aws::{Aws, read_secrets};
use krossing_core::config::{Auth, Config, Secrets};
use lab::aws::AccessKey;
use serde_json::{Value, json};

use crate::{front::Front, sdk};

const WHO: AccessKey = AccessKey { id: "krossing", secret: "krossing-secret" };

/// As Secrets Manager answers: a secret by name or ARN, or why not.
fn answer(asked: &str, body: &Value) -> (u16, Value) {
    assert_eq!(asked, "GetSecretValue");
    let no = |status, kind: &str, message: &str| (status, json!({"__type": kind, "message": message}));
    match body["SecretId"].as_str().unwrap_or_default() {
        "kafka" => (200, json!({"Name": "kafka", "SecretString": r#"{"username": "alice", "password": "hunter2"}"#})),
        "token" => (200, json!({"Name": "token", "SecretString": "hunter2"})),
        "binary" => (200, json!({"Name": "binary", "SecretBinary": "aHVudGVyMg=="})),
        "forbidden" => {
            no(400, "AccessDeniedException", "User: x is not authorized to perform: secretsmanager:GetSecretValue")
        }
        "expired" => no(400, "ExpiredTokenException", "The security token included in the request is expired"),
        _ => no(400, "ResourceNotFoundException", "Secrets Manager can't find the specified secret."),
    }
}

async fn read(names: &[&str]) -> Result<Secrets> {
    let server = Front::script(answer).await?;
    let names: BTreeSet<String> = names.iter().map(|&name| name.to_owned()).collect();
    Ok(read_secrets(&Aws::of(sdk(server.port(), WHO).await), &names).await)
}

fn config(password: &str) -> String {
    format!(
        "migration:\n  source: {{bootstrap_servers: 'a:1'}}\n  target:\n    bootstrap_servers: 'b:1'\n    auth: {{mode: \
         scram-sha-512, username: '${{secretsmanager:kafka:username}}', password: '{password}'}}\n  backup: {{directory: \
         /b}}\n  evidence: {{directory: /e}}\n"
    )
}

#[tokio::test]
async fn a_user_and_its_password_come_out_of_one_secret() -> Result<()> {
    let text = config("${secretsmanager:kafka:password}");
    let wanted = Config::wanted(&text, |_| None);
    let names: Vec<&str> = wanted.secrets.iter().map(String::as_str).collect();
    let config = Config::parse_with(&text, |_| None, &read(&names).await?).expect("every secret is there");
    let Auth::ScramSha512 { username, password } = &config.target.auth else { panic!("{:?}", config.target.auth) };
    assert_eq!((username.as_str(), password.expose()), ("alice", "hunter2"));
    Ok(())
}

#[tokio::test]
async fn a_secret_that_cannot_be_had_is_named_with_its_field_and_what_to_do() -> Result<()> {
    for (reference, expected) in [
        ("missing", "secret missing in eu-west-1: ResourceNotFoundException (400)"),
        ("forbidden", "give the role of this process secretsmanager:GetSecretValue on it"),
        ("expired", "renew them"),
        ("binary", "it is binary; store it as text"),
        ("kafka:pass", "the secret kafka has no key pass"),
        ("token:password", "the secret token is not a JSON object"),
    ] {
        let text = config(&format!("${{secretsmanager:{reference}}}"));
        let secrets = read(&["kafka", reference.split(':').next().unwrap_or_default()]).await?;
        let problems = Config::parse_with(&text, |_| None, &secrets).expect_err("it cannot be had");
        let said: Vec<String> = problems.iter().map(ToString::to_string).collect();
        println!("{}", said.join("\n"));
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].starts_with("line 5: target.auth.password: ") && said[0].contains(expected), "{said:?}");
        assert!(!said[0].contains("hunter2"), "{said:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_secret_of_another_region_is_asked_for_there() -> Result<()> {
    const ARN: &str = "arn:aws:secretsmanager:us-east-2:123456789012:secret:kafka-a1B2c3";
    let secrets = read(&[ARN]).await?;
    let said = secrets[ARN].as_ref().expect_err("the script does not know it");
    assert!(said.what.contains("in us-east-2"), "{said:?}");
    Ok(())
}
