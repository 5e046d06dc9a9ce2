//! Goal: MSK's answers become what precheck judges and brokers to begin with; what may not be asked is left out and told.
//!
//! MSK's API is answered for by a script in the shapes of its service model.

use anyhow::Result;
use krossing_aws::{Aws, MskApi};
use krossing_core::{
    Side,
    config::Auth,
    msk::{Logins, Make, MskCluster, Nodes, Provisioned},
    ports::{MetadataMode, Msk as _, MskError},
};
use lab::aws::{AccessKey, REGION};
use serde_json::{Value, json};

use crate::{front::Front, sdk};

const WHO: AccessKey = AccessKey { id: "krossing", secret: "krossing-secret" };

/// The ARN of a cluster of that name.
pub(crate) fn arn(name: &str) -> String {
    format!("arn:aws:kafka:{REGION}:123456789012:cluster/{name}/1a2b3c4d-0000-1111-2222-333344445555-1")
}

/// A cluster as DescribeClusterV2 tells of it.
pub(crate) fn described(name: &str, kafka_version: &str, zookeeper: bool) -> Value {
    let address = if zookeeper { json!("z-1.lab:2181") } else { Value::Null };
    json!({"clusterInfo": {
        "clusterType": "PROVISIONED", "clusterArn": arn(name), "clusterName": name, "state": "ACTIVE",
        "creationTime": "2026-01-02T03:04:05.000Z", "currentVersion": "K1",
        "provisioned": {
            "brokerNodeGroupInfo": {
                "brokerAZDistribution": "DEFAULT", "clientSubnets": ["subnet-1"], "instanceType": "kafka.m7g.large",
                "securityGroups": ["sg-1"], "storageInfo": {"ebsStorageInfo": {"volumeSize": 100}},
                "connectivityInfo": {"publicAccess": {"type": "DISABLED"}}
            },
            "currentBrokerSoftwareInfo": {"kafkaVersion": kafka_version},
            "clientAuthentication": {
                "sasl": {"scram": {"enabled": true}, "iam": {"enabled": true}},
                "tls": {"enabled": false}, "unauthenticated": {"enabled": false}
            },
            "numberOfBrokerNodes": 3, "zookeeperConnectString": address, "storageMode": "LOCAL"
        }
    }})
}

/// Its nodes, as ListNodes tells them on two pages.
pub(crate) fn nodes(zookeeper: bool, second_page: bool) -> Value {
    match (second_page, zookeeper) {
        (false, _) => {
            json!({"nodeInfoList": [{"nodeType": "BROKER", "brokerNodeInfo": {"brokerId": 1.0}}], "nextToken": "2"})
        }
        (true, true) => json!({"nodeInfoList": [{"zookeeperNodeInfo": {"zookeeperId": 1.0, "endpoints": ["z"]}}]}),
        (true, false) => json!({"nodeInfoList": [{"controllerNodeInfo": {"endpoints": ["c"]}}]}),
    }
}

/// As MSK answers: `zk`, `kraft`, `serverless`, `converting`, `shy` (which may be described and nothing else).
fn answer(asked: &str, _: &Value) -> (u16, Value) {
    let no = |status, kind: &str, message: &str| (status, json!({"__type": kind, "message": message}));
    let path = asked.split(' ').nth(1).unwrap_or_default().replace("%3A", ":").replace("%2F", "/");
    let name = path.split("cluster/").nth(1).and_then(|rest| rest.split('/').next()).unwrap_or_default().to_owned();
    let (zookeeper, second) = (name != "kraft", path.contains("nextToken="));
    match name.as_str() {
        "forbidden" => {
            return no(403, "ForbiddenException", "User: x is not authorized to perform: kafka:DescribeClusterV2");
        }
        "elsewhere" => return no(400, "BadRequestException", "The request does not include the correct cluster ARN."),
        "zk" | "kraft" | "serverless" | "converting" | "shy" => {}
        _ => return no(404, "NotFoundException", "The cluster does not exist."),
    }
    if path.starts_with("/api/v2/clusters/") {
        return match name.as_str() {
            "kraft" => (200, described("kraft", "3.9.x.kraft", false)),
            "serverless" => (
                200,
                json!({"clusterInfo": {"clusterType": "SERVERLESS", "clusterName": name, "state": "ACTIVE",
                "serverless": {"vpcConfigs": []}}}),
            ),
            "converting" => {
                let mut told = described("converting", "3.9.x", false);
                told["clusterInfo"]["state"] = json!("UPDATING");
                told["clusterInfo"]["activeOperationArn"] = json!("arn:aws:kafka:eu-west-1:1:cluster-operation/x");
                (200, told)
            }
            _ => (200, described(&name, "3.6.0", true)),
        };
    }
    if name == "shy" {
        return no(403, "ForbiddenException", "User: x is not authorized");
    }
    match path.split('?').next().and_then(|path| path.rsplit('/').next()) {
        Some("nodes") => (200, nodes(zookeeper, second)),
        Some("scram-secrets") if second => (200, json!({"secretArnList": ["arn:b"]})),
        Some("scram-secrets") => (200, json!({"secretArnList": ["arn:a"], "nextToken": "2"})),
        Some("bootstrap-brokers") => (
            200,
            json!({
                "bootstrapBrokerStringSaslIam": "b-1.lab:9098,b-2.lab:9098", "bootstrapBrokerStringTls": "b-1.lab:9094",
                "bootstrapBrokerStringPublicSaslScram": "p-1.lab:9196"
            }),
        ),
        _ => panic!("{asked} is not asked of MSK"),
    }
}

async fn api(source: &str, target: &str) -> Result<(Front, MskApi)> {
    let server = Front::script(answer).await?;
    let aws = Aws::of(sdk(server.port(), WHO).await);
    let api = MskApi::of(aws, Some(&arn(source)), Some(&arn(target)));
    Ok((server, api))
}

fn made(cluster: &MskCluster) -> &Provisioned {
    match &cluster.make {
        Make::Provisioned(made) => made,
        Make::Serverless => panic!("{cluster:?}"),
    }
}

#[tokio::test]
async fn a_cluster_is_told_with_all_that_precheck_judges() -> Result<()> {
    let (_server, api) = api("zk", "kraft").await?;
    let (source, target) = (api.describe(Side::Source).await?, api.describe(Side::Target).await?);
    let (source, target) = (source.expect("its ARN is given"), target.expect("its ARN is given"));
    let expected = Provisioned {
        kafka_version: Some("3.6.0".to_owned()),
        instance_type: Some("kafka.m7g.large".to_owned()),
        brokers: 3,
        volume_gib: Some(100),
        tiered: false,
        zookeeper_address: true,
        nodes: Some(Nodes { zookeeper: true, controllers: false }),
        logins: Logins { scram: true, iam: true, ..Logins::default() },
        scram_secrets: Some(["arn:a".to_owned(), "arn:b".to_owned()].into()),
    };
    assert_eq!(made(&source), &expected);
    assert_eq!((source.name.as_str(), source.state.as_str(), source.active_operation), ("zk", "ACTIVE", None));
    assert_eq!(made(&target).metadata_mode().0, MetadataMode::Kraft);
    assert_eq!(source.not_told, Vec::<String>::new());
    let addresses = api.brokers(Side::Source).await?.expect("its ARN is given");
    assert_eq!(addresses.of(&Auth::Iam, true), Some(vec!["b-1.lab:9098".to_owned(), "b-2.lab:9098".to_owned()]));
    assert_eq!(addresses.scram.public.as_deref(), Some("p-1.lab:9196"));
    assert_eq!(addresses.of(&Auth::None, false), None);
    Ok(())
}

#[tokio::test]
async fn a_serverless_cluster_and_one_that_is_being_converted_are_told_as_such() -> Result<()> {
    let (_server, api) = api("converting", "serverless").await?;
    let source = api.describe(Side::Source).await?.expect("its ARN is given");
    assert_eq!((source.state.as_str(), source.active_operation.is_some()), ("UPDATING", true));
    let target = api.describe(Side::Target).await?.expect("its ARN is given");
    assert_eq!(target.make, Make::Serverless);
    Ok(())
}

#[tokio::test]
async fn an_arn_that_names_nothing_is_told_from_one_that_may_not_be_asked_about() -> Result<()> {
    let (_server, missing) = api("nothing", "elsewhere").await?;
    for side in [Side::Source, Side::Target] {
        let said = missing.describe(side).await;
        assert!(matches!(said, Err(MskError::NoSuchCluster { .. })), "{said:?}");
    }
    let (_server, hidden) = api("forbidden", "shy").await?;
    let Err(MskError::NotAsked { detail }) = hidden.describe(Side::Source).await else { panic!("it may not be asked") };
    println!("{detail}");
    assert!(detail.contains(&arn("forbidden")) && detail.contains("kafka:DescribeClusterV2"), "{detail}");
    let shy = hidden.describe(Side::Target).await?.expect("it may be described");
    assert_eq!((made(&shy).nodes, &made(&shy).scram_secrets), (None, &None));
    assert_eq!(shy.not_told.len(), 2, "{:?}", shy.not_told);
    let none = MskApi::new(None, None, None);
    assert_eq!(none.describe(Side::Source).await, Ok(None));
    Ok(())
}
