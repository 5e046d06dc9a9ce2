//! A key that is always the same one.

use ed25519_dalek::{Signer as _, SigningKey};
use krossing_core::{
    evidence::{SignedEvidence, key_id},
    ports::{SignError, Signer},
};

/// Signs with a key that everybody knows.
#[derive(Debug, Clone)]
pub struct FakeSigner {
    key: SigningKey,
}

impl Default for FakeSigner {
    fn default() -> Self {
        Self { key: SigningKey::from_bytes(&[7; 32]) }
    }
}

impl Signer for FakeSigner {
    async fn key_id(&self) -> Result<String, SignError> {
        Ok(key_id(&self.key.verifying_key()))
    }

    async fn sign(&self, bundle_json: String) -> Result<SignedEvidence, SignError> {
        let signature = self.key.sign(bundle_json.as_bytes());
        Ok(SignedEvidence::new(bundle_json, &self.key.verifying_key(), &signature))
    }
}
