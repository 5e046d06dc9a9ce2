//! The key that signs evidence, in KMS: an Ed25519 key that never leaves it.
//!
//! KMS signs at most 4,096 bytes as they are, and evidence is larger: what it signs is the evidence's
//! [statement](krossing_core::evidence::statement), one line with the SHA-256 of the bundle. The pre-hashed variant of
//! Ed25519, which KMS has for large messages, is none that OpenSSL 3.0 checks.
//!
//! Invariant: a signature is held against the public key before it is handed on, so that no alias that is moved
//! meanwhile, and no answer that is not one, becomes evidence.
//!
//! Does not: make, rotate or delete keys.

use std::sync::Arc;

use aws_sdk_kms::{
    primitives::Blob,
    types::{KeySpec, KeyUsageType, MessageType, SigningAlgorithmSpec},
};
use ed25519_dalek::{Signature, VerifyingKey, pkcs8::DecodePublicKey as _};
use krossing_core::{
    evidence::{SignedEvidence, key_id, statement},
    ports::{SignError, Signer},
};

use crate::{
    config::Aws,
    failure::{Kind, Place, explained},
};

/// How a key that can sign evidence is made.
const HOW_TO_MAKE: &str =
    "`aws kms create-key --key-spec ECC_NIST_EDWARDS25519 --key-usage SIGN_VERIFY` makes one that can";

/// A signing key in KMS.
#[derive(Debug, Clone)]
pub struct KmsSigner {
    client: aws_sdk_kms::Client,
    key: Arc<str>,
    place: Place,
}

impl KmsSigner {
    /// The key of that id, ARN or alias (`alias/…`). Asks nothing yet.
    pub fn new(aws: &Aws, key: &str) -> Self {
        let aws = aws.where_is(key);
        let site = aws.site();
        Self {
            client: aws.kms(&site),
            key: key.into(),
            place: Place::Other { kind: Kind::Key, name: key.into(), site },
        }
    }

    fn error(&self, detail: String) -> SignError {
        SignError { attempt: "use the signing key of evidence.kms_key_id".to_owned(), detail }
    }

    fn failed<E>(&self, error: &aws_sdk_kms::error::SdkError<E>) -> SignError
    where
        E: aws_sdk_kms::error::ProvideErrorMetadata + std::error::Error + 'static,
    {
        let (_, detail, remedy) = explained(&self.place, error);
        self.error(remedy.map_or_else(|| detail.clone(), |remedy| format!("{detail}; {remedy}")))
    }

    fn unusable(&self, what: &str) -> SignError {
        self.error(format!("{}: {what}; {HOW_TO_MAKE}", self.place))
    }

    async fn public_key(&self) -> Result<VerifyingKey, SignError> {
        let answer = self.client.get_public_key().key_id(&*self.key).send().await;
        let answer = answer.map_err(|error| self.failed(&error))?;
        match (&answer.key_spec, &answer.key_usage) {
            (Some(KeySpec::EccNistEdwards25519), Some(KeyUsageType::SignVerify)) => {}
            (spec, usage) => {
                let shown = |text: Option<&str>| text.unwrap_or("something unknown").to_owned();
                let (spec, usage) =
                    (shown(spec.as_ref().map(KeySpec::as_str)), shown(usage.as_ref().map(|it| it.as_str())));
                return Err(self.unusable(&format!("it is a key of {spec} for {usage}, which cannot sign evidence")));
            }
        }
        let der = answer.public_key.unwrap_or_else(|| Blob::new(Vec::new()));
        VerifyingKey::from_public_key_der(der.as_ref())
            .map_err(|error| self.unusable(&format!("its public key is no Ed25519 key in DER form ({error})")))
    }
}

impl Signer for KmsSigner {
    async fn key_id(&self) -> Result<String, SignError> {
        Ok(key_id(&self.public_key().await?))
    }

    async fn sign(&self, bundle_json: String) -> Result<SignedEvidence, SignError> {
        let key = self.public_key().await?;
        let statement = statement(&bundle_json);
        let request = self
            .client
            .sign()
            .key_id(&*self.key)
            .message(Blob::new(statement.as_bytes()))
            .message_type(MessageType::Raw)
            .signing_algorithm(SigningAlgorithmSpec::Ed25519Sha512);
        let answer = request.send().await.map_err(|error| self.failed(&error))?;
        let signature = answer.signature.as_ref().and_then(|bytes| Signature::from_slice(bytes.as_ref()).ok());
        signature
            .filter(|signature| key.verify_strict(statement.as_bytes(), signature).is_ok())
            .map(|signature| SignedEvidence::over_statement(bundle_json, &key, &signature))
            .ok_or_else(|| {
                self.error(format!(
                    "{}: what it answered is not its signature; sign again, and see whether the alias was moved meanwhile",
                    self.place
                ))
            })
    }
}
