//! Goal: both clients log in to a broker with IAM, go on when their sessions end and their credentials change, and say
//! what is wrong where they cannot.
//!
//! The broker makes the signature anew and compares it, as AWS does (`tests/lab/iam`), and ends sessions after 3 s.

use std::{
    collections::BTreeSet,
    fs,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Result, ensure};
use aws_config::{BehaviorVersion, SdkConfig};
use aws_credential_types::provider::{ProvideCredentials, future as credentials_future};
use aws_sdk_s3::config::{Credentials, SharedCredentialsProvider};
use krossing_aws::{Aws, IamTokens};
use krossing_core::{
    Side, TopicPartition,
    ports::{Clock as _, ClusterError, Inventory as _, LogEnd, LogReader as _, ReadRange, Witness as _},
};
use krossing_runtime::SystemClock;
use krossing_wire::{WireCluster, WireConfig};
use krossing_witness::{WitnessCluster, WitnessConfig};
use lab::{
    Cluster, ClusterSpec, Listener, Security,
    aws::REGION,
    compare::compare,
    in_lab,
    rehearsal::{Rehearsal, RehearsalSpec},
    workload::Scale,
};
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::{Value, json};

use crate::{
    front::Front,
    msk::{arn, described, nodes},
};

/// How long a set of credentials lives: less than a test takes, more than a token takes to arrive.
const CREDENTIALS_LIFE: Duration = Duration::from_secs(5);

/// How long three sessions and three sets of credentials may take on a busy machine; alone it is 20 s.
const RENEWED_WAIT_MAX: Duration = Duration::from_secs(120);

/// Credentials as a role has them: other ones every few seconds. The secret is what the broker knows, or not.
#[derive(Debug)]
struct Role {
    key: &'static str,
    secret: String,
}

impl ProvideCredentials for Role {
    fn provide_credentials<'a>(&'a self) -> credentials_future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let (session, expires) = (Some("of/the+lab==".to_owned()), Some(SystemTime::now() + CREDENTIALS_LIFE));
        credentials_future::ProvideCredentials::ready(Ok(Credentials::new(
            self.key,
            &self.secret,
            session,
            expires,
            "lab",
        )))
    }
}

struct Tokens {
    tokens: IamTokens,
    runtime: tokio::runtime::Handle,
}

impl Tokens {
    fn of(key: &'static str, secret: String) -> Arc<Self> {
        let role = SharedCredentialsProvider::new(Role { key, secret });
        let sdk = SdkConfig::builder().behavior_version(BehaviorVersion::latest()).credentials_provider(role).build();
        let tokens = IamTokens::new(&Aws::of(sdk), Some(REGION), "source.auth.mode");
        Arc::new(Self { tokens, runtime: tokio::runtime::Handle::current() })
    }

    fn known(key: &'static str) -> Arc<Self> {
        Self::of(key, format!("secret-of-{key}"))
    }
}

impl krossing_wire::TokenSource for Tokens {
    fn token(&self) -> Pin<Box<dyn Future<Output = Result<String, String>> + Send + '_>> {
        Box::pin(async { self.tokens.token(SystemClock.unix_ms()).await.map(|token| token.text) })
    }
}

impl krossing_witness::TokenSource for Tokens {
    fn token(&self) -> Result<krossing_witness::Token, String> {
        let token = self.runtime.block_on(self.tokens.token(SystemClock.unix_ms()))?;
        Ok(krossing_witness::Token { text: token.text, expires_unix_ms: token.expires_unix_ms })
    }
}

fn bootstrap(cluster: &Cluster) -> Vec<String> {
    cluster.bootstrap(Listener::Iam).split(',').map(str::to_owned).collect()
}

fn wire(cluster: &Cluster, tokens: Arc<Tokens>) -> Result<WireCluster> {
    let tls = krossing_wire::TlsConfig { ca_pem: Some(fs::read(cluster.ca_file())?), ..Default::default() };
    let security = krossing_wire::Security { tls: Some(tls), sasl: Some(krossing_wire::Sasl::OAuthBearer(tokens)) };
    let client_id = "krossing".to_owned();
    Ok(WireCluster::new(WireConfig { side: Side::Source, bootstrap: bootstrap(cluster), security, client_id })?)
}

fn witness(cluster: &Cluster, tokens: Arc<Tokens>) -> Result<WitnessCluster> {
    let tls = krossing_witness::Tls { ca_pem: Some(fs::read_to_string(cluster.ca_file())?), ..Default::default() };
    let security =
        krossing_witness::Security { tls: Some(tls), sasl: Some(krossing_witness::Sasl::OAuthBearer(tokens)) };
    Ok(WitnessCluster::connect(WitnessConfig { side: Side::Source, bootstrap: bootstrap(cluster), security })?)
}

async fn read_one(witness: &WitnessCluster, offset: i64) -> Result<usize, ClusterError> {
    let seen = Arc::new(Mutex::new(0));
    let count = seen.clone();
    let range =
        ReadRange { partition: TopicPartition::new("t", 0), from: offset, to: offset + 1, records_max: usize::MAX };
    let see = move |_| {
        *count.lock().expect("no panic while held") += 1;
        true
    };
    witness.read(range, see).await?;
    let seen = *seen.lock().expect("no panic while held");
    Ok(seen)
}

/// How often the broker has accepted a token of `key`, and how many different ones.
fn accepted(cluster: &Cluster, key: &str) -> Result<(usize, usize)> {
    let log = fs::read_to_string(cluster.broker_log(1))?;
    let start = format!("iam: accepted {key} ");
    let tokens: Vec<&str> = log.lines().filter_map(|line| line.trim().strip_prefix(&start)).collect();
    Ok((tokens.len(), tokens.iter().collect::<BTreeSet<_>>().len()))
}

#[test]
fn both_clients_log_in_with_iam_and_go_on_when_sessions_end_and_credentials_change() {
    in_lab("iam", async |lab| {
        let spec = ClusterSpec { security: Security::Tls, iam: true, ..ClusterSpec::default() };
        let cluster = lab.kraft_cluster(spec.with("auto.create.topics.enable", "true")).await?;
        let producer: FutureProducer = cluster.client().create()?;
        let send = async |value: &str| -> Result<()> {
            let record = FutureRecord::<str, str>::to("t").partition(0).payload(value);
            producer.send(record, Duration::from_secs(30)).await.map_err(|(error, _)| error)?;
            Ok(())
        };
        send("first").await?;
        let (wire, witness) = (wire(&cluster, Tokens::known("WIRE"))?, witness(&cluster, Tokens::known("WITNESS"))?);
        let partition = [TopicPartition::new("t", 0)];
        let (begun, mut next) = (Instant::now(), 0);
        loop {
            ensure!(read_one(&witness, next).await? == 1, "offset {next} was not seen");
            send("next").await?;
            next += 1;
            let ends = wire.log_ends(&partition, LogEnd::Latest).await?;
            ensure!(ends[&partition[0]].as_ref().is_ok_and(|end| *end > next), "{ends:?}");
            let logins = [accepted(&cluster, "WIRE")?, accepted(&cluster, "WITNESS")?];
            if logins.iter().all(|(times, tokens)| *times >= 4 && *tokens >= 3) {
                eprintln!("  logged in {logins:?} (times, tokens) in {:?}", begun.elapsed());
                break;
            }
            ensure!(begun.elapsed() < RENEWED_WAIT_MAX, "{logins:?} (times, tokens)");
            // Now and then nobody reads for longer than a token lives.
            let pause =
                if next % 10 == 0 { CREDENTIALS_LIFE + Duration::from_secs(2) } else { Duration::from_millis(100) };
            tokio::time::sleep(pause).await;
        }
        Ok(())
    });
}

#[test]
fn a_token_that_is_not_accepted_and_credentials_that_have_expired_are_told() {
    in_lab("iam-refused", async |lab| {
        let spec = ClusterSpec { security: Security::Tls, iam: true, ..ClusterSpec::default() };
        let cluster = lab.kraft_cluster(spec.with("auto.create.topics.enable", "true")).await?;
        let stranger = || Tokens::of("STRANGER", "a-wrong-secret".to_owned());
        let by_wire = wire(&cluster, stranger())?.describe_cluster().await.map(|_| ());
        let by_witness = read_one(&witness(&cluster, stranger())?, 0).await.map(|_| ());
        for refused in [by_wire, by_witness] {
            println!("{refused:?}");
            ensure!(matches!(refused, Err(ClusterError::NotAllowed { .. })), "{refused:?}");
            ensure!(!format!("{refused:?}").contains("a-wrong-secret"), "{refused:?}");
        }
        let sdk = SdkConfig::builder().behavior_version(BehaviorVersion::latest());
        let expired = Credentials::new("OLD", "secret-of-OLD", None, Some(SystemTime::UNIX_EPOCH), "lab");
        let sdk = sdk.credentials_provider(SharedCredentialsProvider::new(expired)).build();
        let tokens = IamTokens::new(&Aws::of(sdk), Some(REGION), "source.auth.mode");
        let expired = Arc::new(Tokens { tokens, runtime: tokio::runtime::Handle::current() });
        let by_wire = wire(&cluster, expired.clone())?.describe_cluster().await.map(|_| ());
        let by_witness = read_one(&witness(&cluster, expired)?, 0).await.map(|_| ());
        for refused in [by_wire, by_witness] {
            let said = refused.expect_err("there is no token").to_string();
            println!("{said}");
            ensure!(
                said.contains("source.auth.mode: there are no AWS credentials") && said.contains("renew"),
                "{said}"
            );
        }
        Ok(())
    });
}

fn as_msk(asked: &str, brokers: &[String; 2]) -> (u16, Value) {
    let (zookeeper, version, brokers) =
        if asked.contains("zk") { (true, "3.9.1", &brokers[0]) } else { (false, "3.9.x.kraft", &brokers[1]) };
    let name = if zookeeper { "zk" } else { "kraft" };
    (
        200,
        match asked {
            asked if asked.contains("/bootstrap-brokers") => json!({"bootstrapBrokerStringSaslIam": brokers}),
            asked if asked.contains("/nodes") => nodes(zookeeper, asked.contains("nextToken=")),
            asked if asked.contains("/scram-secrets") => json!({"secretArnList": []}),
            _ => described(name, version, zookeeper),
        },
    )
}

/// A small migration by the command, whose credentials come from a profile and change every 20 s. It knows the clusters
/// by their ARNs: their brokers are told by MSK's API.
#[test]
fn a_migration_logs_in_to_both_clusters_with_iam() {
    in_lab("iam-migration", async |lab| {
        let spec = RehearsalSpec { scale: Scale::Tiny, listener: Listener::Iam, seed: 9, ..RehearsalSpec::default() };
        let mut rehearsal = Rehearsal::prepare(lab, &spec).await?;
        let profile = rehearsal.folder.join("aws-profile");
        let script = rehearsal.folder.join("credentials.sh");
        fs::write(
            &script,
            "#!/bin/sh\nexec date -u -d '20 seconds' +'{\"Version\": 1, \"AccessKeyId\": \"KROSSING\", \"SecretAccessKey\": \
             \"secret-of-KROSSING\", \"SessionToken\": \"t\", \"Expiration\": \"%Y-%m-%dT%H:%M:%SZ\"}'\n",
        )?;
        fs::write(&profile, format!("[default]\nregion = {REGION}\ncredential_process = sh {}\n", script.display()))?;
        let brokers = [&rehearsal.source, &rehearsal.target].map(|cluster| cluster.bootstrap(Listener::Iam));
        for (name, servers) in ["zk", "kraft"].iter().zip(&brokers) {
            rehearsal.reconfigure(
                &format!("bootstrap_servers: \"{servers}\""),
                &format!("cluster_arn: \"{}\"", arn(name)),
            )?;
        }
        let msk = Front::script(move |asked, _| as_msk(asked, &brokers)).await?;
        rehearsal.migration.env = vec![
            ("AWS_ENDPOINT_URL_KAFKA", format!("http://127.0.0.1:{}", msk.port())),
            ("AWS_CONFIG_FILE", profile.display().to_string()),
            ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null".to_owned()),
        ];
        let checked = rehearsal.start("precheck", &[])?.finish().await?.expect_code(0)?;
        eprintln!("{}", checked.stdout);
        ensure!(!checked.stdout.contains("cluster_arn"), "nothing is wrong with them: {}", checked.stdout);
        let files = rehearsal.folder.join("files");
        let all = ["--format", "all", "--out-dir", &files.to_string_lossy()];
        rehearsal.start("plan", &all)?.finish().await?.expect_code(0)?;
        let map: Value = serde_json::from_slice(&fs::read(files.join("access-map.json"))?)?;
        ensure!(map == json!({"version": 1, "principals": []}), "the source has no authorizer: {map}");
        rehearsal.run("execute").await?.expect_done()?;
        rehearsal.run("cutover").await?.expect_done()?;
        rehearsal.groups.stop_live().await?;
        rehearsal.run("cutover-ack").await?.expect_code(0)?;
        rehearsal.run("finalize").await?.expect_code(0)?;
        let (source, target) = (rehearsal.source.client(), rehearsal.target.client());
        let compared = compare(&source, &target, &rehearsal.topics()).await?;
        ensure!(compared.differences.is_empty(), "{:#?}", compared.differences);
        for cluster in [&rehearsal.source, &rehearsal.target] {
            let (times, tokens) = accepted(cluster, "KROSSING")?;
            eprintln!("  {} records; logged in {times} times with {tokens} tokens", compared.records);
            ensure!(times > 10 && tokens > 2, "{times} times with {tokens} tokens");
        }
        Ok(())
    });
}
