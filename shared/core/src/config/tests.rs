#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::time::Duration;

use super::{
    table::YEAR,
    units::{parse_bytes, parse_duration, show_duration},
    *,
};
use crate::{cutover::MarkerKind, plan::Selection};

const SMALLEST: &str = "
migration:
  source: {bootstrap_servers: 'a:9092, b:9092'}
  target:
    bootstrap_servers: [c:9092]
  backup: {directory: /b}
  evidence: {directory: /e}
";

fn no_env(_: &str) -> Option<String> {
    None
}

fn check(text: &str, expected: &[&str]) {
    let problems = Config::parse(text, no_env).expect_err("it has problems");
    let shown: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(shown, expected, "in {text}");
}

#[test]
fn the_smallest_file_gets_the_defaults_of_the_table() {
    let config = Config::parse(SMALLEST, no_env).unwrap();
    assert_eq!(config.source.bootstrap_servers, ["a:9092", "b:9092"]);
    assert_eq!((config.source.auth, config.source.tls), (Auth::None, None));
    assert_eq!(config.topics, Selection::default());
    assert_eq!(config.seed.max_concurrent_partitions, 4);
    assert_eq!(config.seed.segment_max_bytes, 32 << 20);
    assert_eq!(config.seed.max_bytes_per_second_per_broker, None);
    assert_eq!(config.evidence.retention, 7 * YEAR);
    assert_eq!(config.cutover.drain_timeout, Duration::from_secs(1_800));
    assert_eq!(config.cutover.drain_max_partition_lag, 100);
    assert_eq!(config.cutover.freeze, FreezeConfig::Confirmation);
    assert_eq!(config.validation.count_tolerance, 1);
}

#[test]
fn every_field_can_be_given_and_secrets_come_from_the_environment_and_are_never_shown() {
    let text = r#"
enterprise:
  msk_kraft_migration:
    source:
      bootstrap_servers: ["${HOST}:9096"]
      cluster_arn: arn:aws:kafka:eu-west-1:123456789012:cluster/a/b
      auth: {mode: scram-sha-512, username: me, password: "${PASSWORD}"}
      tls: {ca_file: /ca.pem}
    target:
      bootstrap_servers: t:9094
      auth: {mode: mtls, cert_file: /c.pem, key_file: /k.pem}
    backup: {directory: /b}
    evidence: {directory: /e, retention: 30d}
    topics: {include: ["orders*", audit], exclude: ["*-dlq"]}
    seed: {max_concurrent_partitions: 8, segment_max_bytes: 8MB, max_bytes_per_second_per_broker: 1MiB, lanes: 2}
    cutover:
      drain_timeout: 1h
      drain_max_partition_lag: 0
      drain_stable_window: 500ms
      max_producer_freeze: 5s
      producer_freeze_webhook: https://f/
      producer_freeze_webhook_secret: "${PASSWORD}"
      marker: record
    validation: {count_tolerance: 0, spot_check_records_per_partition: 10}
    topology: {on_config_drift: refuse}
    acl: {on_drift: replace}
"#;
    let env = |name: &str| match name {
        "HOST" => Some("s".to_owned()),
        "PASSWORD" => Some("hunter2".to_owned()),
        _ => None,
    };
    let config = Config::parse(text, env).unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
    let Auth::ScramSha512 { username, password } = &config.source.auth else { panic!("{:?}", config.source.auth) };
    assert_eq!((username.as_str(), password.expose()), ("me", "hunter2"));
    assert_eq!(config.source.bootstrap_servers, ["s:9096"]);
    assert_eq!(config.source.tls, Some(Tls { trust: Trust::Pem("/ca.pem".into()) }));
    assert_eq!(config.target.tls, Some(Tls { trust: Trust::System }));
    assert_eq!(config.topics.include, ["orders*", "audit"]);
    assert_eq!(config.seed.segment_max_bytes, 8_000_000);
    assert_eq!(config.cutover.drain_stable_window, Duration::from_millis(500));
    assert!(matches!(config.cutover.freeze, FreezeConfig::Webhook { secret: Some(_), .. }));
    assert_eq!((config.cutover.marker, config.cutover.standstill_window), (MarkerKind::Record, Duration::from_secs(5)));
    assert_eq!(config.topology.on_config_drift, ConfigDrift::Refuse);
    assert_eq!(config.acl.on_drift, AclDrift::Replace);
}

#[test]
fn all_problems_are_told_at_once_each_with_its_line() {
    check(
        "
migration:
  source:
    bootstrap_servers: [a, b:9092]
    auth: {mode: iam}
    tls: {enabled: false}
  target:
    cluster_arn: arn
    auth: {mode: scram-sha-512, username: me, cert_file: /c}
  backup: {s3_prefix: p}
  evidence: {directory: '${NOT_SET}'}
  cutover: {drain_timeout: soon, drain_max_partition_lag: -1, max_producer_freeze: 5s, marker: none, producer_freeze_webhok: x}
  seed:
    segment_max_bytes: 1GiB
",
        &[
            "backup.directory: it is missing; give a folder, or backup.s3_bucket",
            "cutover.standstill_window: it is not shorter than cutover.max_producer_freeze, so that no cutover can be in time; make it shorter, or max_producer_freeze longer",
            "target.auth.password: it is missing, and auth.mode scram-sha-512 needs it; give it",
            "line 4: source.bootstrap_servers: a is not a broker's address; write host:port",
            "line 6: source.tls.enabled: iam sends a token that anybody could use; leave it out",
            "line 8: target.cluster_arn: arn is not the ARN of an MSK cluster; write arn:aws:kafka:REGION:ACCOUNT:cluster/NAME/UUID, as `aws kafka list-clusters-v2` shows it",
            "line 9: target.auth.cert_file: auth.mode scram-sha-512 does not use it; leave it out, or change auth.mode",
            "line 10: backup.s3_prefix: there is no backup.s3_bucket; leave it out, or give the bucket",
            "line 11: evidence.directory: the environment variable NOT_SET is not set; set NOT_SET, or write the value here",
            "line 12: cutover.drain_max_partition_lag: \"-1\" is not a number; write a whole number",
            "line 12: cutover.drain_timeout: \"soon\" is not a duration; write a number and a unit: 30s, 30m, 12h, 7d, 7y",
            "line 12: cutover.producer_freeze_webhok: there is no such field; did you mean cutover.producer_freeze_webhook?",
            "line 14: seed.segment_max_bytes: 1GiB is out of bounds; write 1048576 to 268435456",
        ],
    );
}

#[test]
fn brokers_and_their_certificates_need_not_be_named_where_the_arn_is() {
    let arn = "arn:aws:kafka:eu-west-1:123456789012:cluster/orders/1a-2b";
    let iam = format!("cluster_arn: '{arn}'\n    auth: {{mode: iam}}");
    let config = Config::parse(&SMALLEST.replace("bootstrap_servers: [c:9092]", &iam), no_env).unwrap();
    assert_eq!((config.target.auth, config.target.tls), (Auth::Iam, Some(Tls { trust: Trust::System })));
    assert_eq!((config.target.bootstrap_servers, config.target.cluster_arn), (Vec::new(), Some(arn.to_owned())));
    let none = SMALLEST.replace("bootstrap_servers: [c:9092]", "auth: {mode: iam}");
    check(
        &none,
        &["target.bootstrap_servers: it is missing; give at least one broker as host:port, or target.cluster_arn"],
    );
}

#[test]
fn a_file_that_is_not_a_configuration_is_told_so() {
    check(
        "",
        &[
            "file: it is empty; write it as YAML, with names that contain `*` or begin with a special character in quotes",
        ],
    );
    check(
        "a: 1",
        &[
            "file: it has no `migration` section; put all fields below `migration:`",
            "line 1: a: there is no such section; the only section is `migration`",
        ],
    );
    for text in [
        "- a",
        "migration: {topics: {include: [*]}}",
        "migration: {a: 1, a: 2}",
        "x",
        "migration: &a 1",
        "migration: [",
        "\u{0}",
    ] {
        assert!(Config::parse(text, no_env).is_err(), "{text}");
    }
}

#[test]
fn contradictions_between_fields_are_problems() {
    let with = |more: &str| format!("{SMALLEST}  {more}\n");
    check(
        &with("cutover: {drain_timeout: 10s, drain_stable_window: 11s}"),
        &[
            "line 8: cutover.drain_stable_window: it is longer than cutover.drain_timeout, so that drain-ready can never be reached; make it shorter, or drain_timeout longer",
        ],
    );
    check(
        &with("cutover: {producer_freeze_webhook_secret: s}"),
        &[
            "line 8: cutover.producer_freeze_webhook_secret: there is no webhook to sign calls of; give cutover.producer_freeze_webhook, too, or leave it out",
        ],
    );
    check(
        &SMALLEST.replace("[c:9092]", "[c:9092]\n    tls: {enabled: false, ca_file: /x}"),
        &["line 6: target.tls.ca_file: TLS is not enabled; write target.tls.enabled: true"],
    );
}

#[test]
fn segments_and_evidence_are_in_a_folder_or_in_a_bucket() {
    let with = |backup: &str, evidence: &str| {
        let text = SMALLEST.replace("{directory: /b}", backup).replace("{directory: /e}", evidence);
        assert_ne!(text, SMALLEST);
        text
    };
    let text = with("{s3_bucket: segments, s3_prefix: /zk-to-kraft/, s3_kms_key_id: k}", "{s3_bucket: evidence}");
    let config = Config::parse(&text, no_env).unwrap();
    assert_eq!(config.backup.place.to_string(), "s3://segments/zk-to-kraft/");
    let bucket = |kms_key_id| Bucket { name: "segments".to_owned(), prefix: "zk-to-kraft/".to_owned(), kms_key_id };
    assert_eq!(config.backup.place, Place::Bucket(bucket(Some("k".to_owned()))));
    assert_eq!(config.evidence.place.of("m/evidence.json"), "s3://evidence/m/evidence.json");
    assert_eq!((config.ledger.dynamodb_table, config.aws.s3_path_style), (None, false));
    assert_eq!(config.evidence.signing_key, SigningKey::DefaultFile);
    let text = with("{directory: /b}", "{directory: /e, kms_key_id: alias/evidence}");
    let config = Config::parse(&text, no_env).unwrap();
    assert_eq!(config.evidence.signing_key, SigningKey::Kms("alias/evidence".to_owned()));
    check(
        &with("{directory: /b}", "{directory: /e, kms_key_id: k, signing_key_file: /k.pem}"),
        &["line 7: evidence.kms_key_id: evidence.signing_key_file is given as well; give one of the two"],
    );
    check(
        &with("{directory: /b, s3_bucket: segments}", "{directory: /e}"),
        &["line 6: backup.s3_bucket: backup.directory is given as well; give one of the two"],
    );
}

#[test]
fn every_default_of_the_table_can_be_read() {
    for (path, field) in table() {
        let Some(default) = field.default else { continue };
        let fits = match field.kind {
            Kind::Duration(least, most) => parse_duration(default).is_some_and(|d| d >= least && d <= most),
            Kind::Bytes(least, most) => parse_bytes(default).is_some_and(|n| n >= least && n <= most),
            Kind::Count(least, most) => default.parse::<u64>().is_ok_and(|n| n >= least && n <= most),
            Kind::Choice(choices) => choices.contains(&default),
            Kind::Bool => ["true", "false"].contains(&default),
            Kind::Text | Kind::Secret | Kind::Path | Kind::List | Kind::Servers => true,
        };
        assert!(fits, "{path}: {default}");
    }
}

#[test]
fn durations_and_sizes_need_units_that_exist() {
    for (text, seconds) in [("30s", 30), ("30m", 1_800), ("7d", 604_800), ("7y", 220_752_000), ("0s", 0)] {
        assert_eq!(parse_duration(text), Some(Duration::from_secs(seconds)), "{text}");
    }
    for text in ["30", "s", "-1s", "1.5h", "9999999999999999999y", "7 years"] {
        assert_eq!(parse_duration(text), None, "{text}");
    }
    for (text, bytes) in [("32MiB", 33_554_432), ("8MB", 8_000_000), ("1048576", 1_048_576), ("1 KiB", 1_024)] {
        assert_eq!(parse_bytes(text), Some(bytes), "{text}");
    }
    for text in ["", "MiB", "8M", "-1", "99999999999TiB"] {
        assert_eq!(parse_bytes(text), None, "{text}");
    }
    assert_eq!(show_duration(Duration::from_secs(90)), "90s");
    assert_eq!(show_duration(YEAR), "1y");
}

#[test]
fn key_stores_stand_for_pem_files_and_not_beside_them() {
    let with = |auth: &str| SMALLEST.replace("[c:9092]", &format!("[c:9092]\n    auth: {auth}"));
    let text = with("{mode: mtls, keystore: /k.jks, keystore_password: k, truststore: /t.p12, truststore_password: t}");
    let config = Config::parse(&text, no_env).unwrap();
    let store = |file: &str, password: &str| KeyStore { file: file.into(), password: Secret::new(password) };
    let identity = Identity::KeyStore { store: store("/k.jks", "k"), key_password: None };
    assert_eq!(config.target.auth, Auth::Mtls(identity));
    assert_eq!(config.target.tls, Some(Tls { trust: Trust::KeyStore(store("/t.p12", "t")) }));
    check(
        &with("{mode: mtls, keystore: /k.jks, cert_file: /c.pem, truststore: /t.jks}\n    tls: {ca_file: /ca.pem}"),
        &[
            "target.auth.keystore_password: it is missing, and auth.mode mtls needs it; give it",
            "line 6: target.auth.cert_file: auth.mode mtls does not use it beside auth.keystore; leave it out, or change auth.mode",
            "line 6: target.auth.truststore: target.tls.ca_file is given as well; give one of the two",
        ],
    );
    check(
        &with("{mode: mtls, cert_file: /c.pem, key_file: /k.pem, truststore: /t.jks}"),
        &["target.auth.truststore_password: it is missing, and the key store needs it; give it"],
    );
}

#[test]
fn secrets_are_asked_for_first_and_then_stand_where_they_are_named() {
    let text = SMALLEST.replace(
        "[c:9092]",
        "[c:9092]\n    auth: {mode: scram-sha-512, username: '${secretsmanager:kafka:user}', password: '${secretsmanager:kafka:pass}'}",
    ) + "  cutover: {producer_freeze_webhook: 'https://f/', producer_freeze_webhook_secret: '${secretsmanager:freeze}'}\n\
         # ${secretsmanager:in-a-comment}\n  aws: {region: '${REGION}'}\n";
    let env = |name: &str| (name == "REGION").then(|| "eu-west-1".to_owned());
    let wanted = Config::wanted(&text, env);
    assert_eq!(wanted.secrets, ["freeze", "kafka"].map(str::to_owned).into());
    assert_eq!(wanted.region.as_deref(), Some("eu-west-1"));
    let kafka = Secret::new(r#"{"user": "alice", "pass": "hunter2"}"#);
    let secrets = Secrets::from([("kafka".to_owned(), Ok(kafka)), ("freeze".to_owned(), Ok(Secret::new("whole")))]);
    let config = Config::parse_with(&text, env, &secrets).unwrap();
    let password = Secret::new("hunter2");
    assert_eq!(config.target.auth, Auth::ScramSha512 { username: "alice".to_owned(), password });
    assert!(
        matches!(config.cutover.freeze, FreezeConfig::Webhook { secret: Some(secret), .. } if secret.expose() == "whole")
    );
}

#[test]
fn a_secret_that_cannot_be_had_or_does_not_fit_is_named_and_never_shown() {
    let text = "
migration:
  source: {bootstrap_servers: '${secretsmanager:brokers}', auth: {mode: '${secretsmanager:mode}'}}
  target: {bootstrap_servers: 'b:1', auth: {mode: scram-sha-512, username: me, password: '${secretsmanager:kafka:pass}'}}
  backup: {directory: /b}
  evidence: {directory: '${secretsmanager:gone}'}
";
    let gone =
        Unavailable { what: "the secret gone cannot be read".to_owned(), remedy: "make it".to_owned(), passing: false };
    let secrets = Secrets::from([
        ("brokers".to_owned(), Ok(Secret::new("hunter2, b:9092"))),
        ("mode".to_owned(), Ok(Secret::new("hun\"ter2"))),
        ("kafka".to_owned(), Ok(Secret::new(r#"{"password": "hunter2"}"#))),
        ("gone".to_owned(), Err(gone)),
    ]);
    let problems = Config::parse_with(text, no_env, &secrets).expect_err("it has problems");
    let shown: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        [
            "line 3: source.auth.mode: what its secret holds does not fit here; write none or scram-sha-512 or mtls or iam",
            "line 3: source.bootstrap_servers: what its secret holds does not fit here; write host:port",
            "line 4: target.auth.password: the secret kafka has no key pass; correct the key, or add it to the secret",
            "line 6: evidence.directory: the secret gone cannot be read; make it",
        ]
    );
}
