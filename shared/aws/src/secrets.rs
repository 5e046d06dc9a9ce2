//! Secrets out of Secrets Manager, for the configuration.
//!
//! Each is read whole and once; taking a key out of it is a rule of [`krossing_core::config`]. One that is named by its
//! ARN is asked for in the region that the ARN names.
//!
//! Invariant: what a secret holds is in no error and in no log.

use std::collections::BTreeSet;

use futures::{StreamExt as _, stream};
use krossing_core::{
    config::{Secret, Secrets, Unavailable},
    limits::AWS_SECRETS_IN_FLIGHT,
};

use crate::{
    config::Aws,
    failure::{Kind, Meaning, Place, explained},
};

/// Reads secrets, each named by its name or ARN; for one that cannot be read, why.
pub async fn read_secrets(aws: &Aws, names: &BTreeSet<String>) -> Secrets {
    // Owned: a stream of borrowed names is more than the compiler can follow from another crate.
    let reads = names.iter().cloned().map(|name| async move {
        let secret = read_secret(aws, &name).await;
        (name, secret)
    });
    stream::iter(reads).buffer_unordered(AWS_SECRETS_IN_FLIGHT).collect().await
}

async fn read_secret(aws: &Aws, name: &str) -> Result<Secret, Unavailable> {
    let aws = aws.where_is(name);
    let site = aws.site();
    let client = aws.secrets_manager(&site);
    let place = Place::Other { kind: Kind::Secret, name: name.into(), site };
    let answer = client.get_secret_value().secret_id(name).send().await.map_err(|error| {
        let (meaning, what, remedy) = explained(&place, &error);
        let remedy = remedy.unwrap_or("give the command again when it can be read").to_owned();
        Unavailable { what, remedy, passing: meaning == Meaning::Passing }
    })?;
    match answer.secret_string {
        Some(text) => Ok(Secret::new(text)),
        None => Err(Unavailable {
            what: format!("{place}: it is binary"),
            remedy: "store it as text, or as key/value pairs".to_owned(),
            passing: false,
        }),
    }
}
