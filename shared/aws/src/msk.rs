//! MSK's own API: what a cluster is made of, and the brokers to begin with.
//!
//! Asked in the region that the ARN names. A call that is not allowed leaves out what it would have told, and says so;
//! only that the cluster itself cannot be described leaves nothing.
//!
//! Does not: change a cluster, or look into the secrets of its users: that they are associated is all that is asked.

use std::{collections::BTreeSet, sync::Arc};

use aws_sdk_kafka::{
    error::{ProvideErrorMetadata, SdkError},
    operation::get_bootstrap_brokers::GetBootstrapBrokersOutput,
    types::{Cluster, ClusterType, NodeInfo, Provisioned as SdkProvisioned, StorageMode},
};
use krossing_core::{
    Side,
    limits::MSK_PAGES_MAX,
    msk::{Addresses, BrokerAddresses, Logins, Make, MskCluster, Nodes, Provisioned},
    ports::{Msk, MskError, MskResult},
};
use tokio::sync::OnceCell;

use crate::{
    config::Aws,
    failure::{Kind, Meaning, Place, explained},
};

/// What MSK knows of both clusters of a migration, where their ARNs are given.
#[derive(Debug, Clone)]
pub struct MskApi {
    source_arn: Option<Arc<str>>,
    target_arn: Option<Arc<str>>,
    region: Option<Arc<str>>,
    /// Looked for when MSK is first asked: few commands ask it.
    aws: Arc<OnceCell<Aws>>,
}

impl MskApi {
    /// Asks nothing yet, and looks for no credentials. `region` is for those alone: clusters lie where their ARNs say.
    pub fn new(region: Option<&str>, source_arn: Option<&str>, target_arn: Option<&str>) -> Self {
        let owned = |text: Option<&str>| text.map(Arc::from);
        let (source_arn, target_arn, region) = (owned(source_arn), owned(target_arn), owned(region));
        Self { source_arn, target_arn, region, aws: Arc::default() }
    }

    /// With a configuration made elsewhere.
    pub fn of(aws: Aws, source_arn: Option<&str>, target_arn: Option<&str>) -> Self {
        Self { aws: Arc::new(OnceCell::from(aws)), ..Self::new(None, source_arn, target_arn) }
    }

    /// The cluster, if it is one of MSK's.
    async fn cluster(&self, side: Side) -> Option<OneCluster> {
        let arn = match side {
            Side::Source => self.source_arn.clone()?,
            Side::Target => self.target_arn.clone()?,
        };
        let aws = self.aws.get_or_init(|| Aws::load(self.region.as_deref())).await.where_is(&arn);
        let site = aws.site();
        let client = aws.kafka(&site);
        let place = Place::Other { kind: Kind::Cluster, name: arn.clone(), site };
        Some(OneCluster { client, arn, place })
    }

    /// Addresses to begin with; none where no ARN is given.
    pub async fn brokers(&self, side: Side) -> Result<Option<BrokerAddresses>, MskError> {
        let Some(cluster) = self.cluster(side).await else { return Ok(None) };
        let asked = cluster.client.get_bootstrap_brokers().cluster_arn(&*cluster.arn).send().await;
        Ok(Some(addresses(asked.map_err(|error| cluster.error(&error))?)))
    }
}

fn addresses(answer: GetBootstrapBrokersOutput) -> BrokerAddresses {
    let of = |private, connected_vpcs, public| Addresses { private, connected_vpcs, public };
    BrokerAddresses {
        plaintext: of(answer.bootstrap_broker_string, None, None),
        tls: of(
            answer.bootstrap_broker_string_tls,
            answer.bootstrap_broker_string_vpc_connectivity_tls,
            answer.bootstrap_broker_string_public_tls,
        ),
        scram: of(
            answer.bootstrap_broker_string_sasl_scram,
            answer.bootstrap_broker_string_vpc_connectivity_sasl_scram,
            answer.bootstrap_broker_string_public_sasl_scram,
        ),
        iam: of(
            answer.bootstrap_broker_string_sasl_iam,
            answer.bootstrap_broker_string_vpc_connectivity_sasl_iam,
            answer.bootstrap_broker_string_public_sasl_iam,
        ),
    }
}

struct OneCluster {
    client: aws_sdk_kafka::Client,
    arn: Arc<str>,
    place: Place,
}

impl OneCluster {
    fn detail<E: ProvideErrorMetadata + std::error::Error + 'static>(&self, error: &SdkError<E>) -> (Meaning, String) {
        let (meaning, detail, remedy) = explained(&self.place, error);
        (meaning, remedy.map_or_else(|| detail.clone(), |remedy| format!("{detail}; {remedy}")))
    }

    fn error<E: ProvideErrorMetadata + std::error::Error + 'static>(&self, error: &SdkError<E>) -> MskError {
        let (meaning, detail) = self.detail(error);
        // An ARN of another account, or one that was never given out, is a bad request to MSK.
        let unknown = meaning == Meaning::NotThere || error.code() == Some("BadRequestException");
        if unknown { MskError::NoSuchCluster { detail } } else { MskError::NotAsked { detail } }
    }

    async fn describe(&self) -> Result<MskCluster, MskError> {
        let asked = self.client.describe_cluster_v2().cluster_arn(&*self.arn).send().await;
        let answer = asked.map_err(|error| self.error(&error))?;
        let empty = || MskError::NotAsked { detail: format!("{}: the answer describes no cluster", self.place) };
        let cluster = answer.cluster_info.ok_or_else(empty)?;
        let mut not_told = Vec::new();
        let make = match (&cluster.cluster_type, &cluster.provisioned) {
            (Some(ClusterType::Serverless), _) => Make::Serverless,
            (_, Some(provisioned)) => Make::Provisioned(self.provisioned(provisioned, &mut not_told).await),
            (_, None) => return Err(empty()),
        };
        Ok(told(cluster, make, not_told))
    }

    async fn provisioned(&self, told: &SdkProvisioned, not_told: &mut Vec<String>) -> Provisioned {
        let group = told.broker_node_group_info();
        let volume = group.and_then(|group| group.storage_info()?.ebs_storage_info()?.volume_size());
        let logins = logins(told);
        Provisioned {
            kafka_version: told.current_broker_software_info().and_then(|info| info.kafka_version.clone()),
            instance_type: group.and_then(|group| group.instance_type.clone()),
            brokers: told.number_of_broker_nodes().and_then(|number| u64::try_from(number).ok()).unwrap_or_default(),
            volume_gib: volume.and_then(|gib| u64::try_from(gib).ok()),
            tiered: told.storage_mode() == Some(&StorageMode::Tiered),
            zookeeper_address: told.zookeeper_connect_string().is_some_and(|address| !address.is_empty())
                || told.zookeeper_connect_string_tls().is_some_and(|address| !address.is_empty()),
            nodes: self
                .nodes()
                .await
                .map_err(|why| not_told.push(format!("its nodes could not be listed: {why}")))
                .ok(),
            scram_secrets: match logins.scram {
                true => self
                    .scram_secrets()
                    .await
                    .map_err(|why| not_told.push(format!("secrets of its SCRAM users could not be listed: {why}")))
                    .ok(),
                false => Some(BTreeSet::new()),
            },
            logins,
        }
    }

    async fn nodes(&self) -> Result<Nodes, String> {
        let mut pages = self.client.list_nodes().cluster_arn(&*self.arn).into_paginator().send();
        let mut nodes = Nodes::default();
        for _ in 0..MSK_PAGES_MAX {
            let Some(page) = pages.next().await else { return Ok(nodes) };
            let page = page.map_err(|error| self.detail(&error).1)?;
            let any = |is: fn(&NodeInfo) -> bool| page.node_info_list().iter().any(is);
            nodes.zookeeper |= any(|node| node.zookeeper_node_info().is_some());
            nodes.controllers |= any(|node| node.controller_node_info().is_some());
        }
        Err(self.too_many())
    }

    async fn scram_secrets(&self) -> Result<BTreeSet<String>, String> {
        let mut pages = self.client.list_scram_secrets().cluster_arn(&*self.arn).into_paginator().send();
        let mut secrets = BTreeSet::new();
        for _ in 0..MSK_PAGES_MAX {
            let Some(page) = pages.next().await else { return Ok(secrets) };
            let page = page.map_err(|error| self.detail(&error).1)?;
            secrets.extend(page.secret_arn_list().iter().cloned());
        }
        Err(self.too_many())
    }

    fn too_many(&self) -> String {
        format!("{}: more than {MSK_PAGES_MAX} pages", self.place)
    }
}

fn told(cluster: Cluster, make: Make, not_told: Vec<String>) -> MskCluster {
    MskCluster {
        name: cluster.cluster_name.unwrap_or_default(),
        state: cluster.state.map(|state| state.as_str().to_owned()).unwrap_or_default(),
        active_operation: cluster.active_operation_arn.filter(|arn| !arn.is_empty()),
        make,
        not_told,
    }
}

fn logins(told: &SdkProvisioned) -> Logins {
    // A cluster without any such setting lets everybody in: MSK's beginnings.
    let Some(logins) = told.client_authentication() else {
        return Logins { unauthenticated: true, ..Logins::default() };
    };
    let sasl = logins.sasl();
    Logins {
        unauthenticated: logins.unauthenticated().and_then(|it| it.enabled()).unwrap_or(false),
        scram: sasl.and_then(|sasl| sasl.scram()?.enabled()).unwrap_or(false),
        mtls: logins.tls().and_then(|it| it.enabled()).unwrap_or(false),
        iam: sasl.and_then(|sasl| sasl.iam()?.enabled()).unwrap_or(false),
    }
}

impl Msk for MskApi {
    async fn describe(&self, side: Side) -> MskResult {
        match self.cluster(side).await {
            Some(cluster) => cluster.describe().await.map(Some),
            None => Ok(None),
        }
    }
}
