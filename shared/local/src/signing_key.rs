//! The key that signs evidence, as a file: an Ed25519 private key in PEM (PKCS #8), as `openssl genpkey` writes it.
//!
//! Made on first use, readable for its owner only; one that others may read is refused. The file is read anew at each
//! call, so that no key stays in memory for the days a migration takes.
//!
//! Does not: rotate or revoke keys.

use std::{
    fs::{self, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use ed25519_dalek::{
    Signer as _, SigningKey,
    pkcs8::{DecodePrivateKey, EncodePrivateKey, spki::der::pem::LineEnding},
};
use krossing_core::{
    evidence::{SignedEvidence, key_id},
    ports::{SignError, Signer},
};

/// A key in a file.
#[derive(Debug, Clone)]
pub struct SigningKeyFile {
    path: PathBuf,
}

impl SigningKeyFile {
    /// The key at `path`, which is made when it is first needed and not there.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    async fn with_key<T: Send + 'static>(
        &self,
        work: impl FnOnce(SigningKey) -> T + Send + 'static,
    ) -> Result<T, SignError> {
        let path = self.path.clone();
        let attempt = format!("use the signing key {}", path.display());
        let done = tokio::task::spawn_blocking(move || load_or_make(&path).map(work)).await;
        done.map_err(|error| error.to_string()).and_then(|done| done).map_err(|detail| SignError { attempt, detail })
    }
}

impl Signer for SigningKeyFile {
    async fn key_id(&self) -> Result<String, SignError> {
        self.with_key(|key| key_id(&key.verifying_key())).await
    }

    async fn sign(&self, bundle_json: String) -> Result<SignedEvidence, SignError> {
        self.with_key(move |key| {
            let signature = key.sign(bundle_json.as_bytes());
            SignedEvidence::new(bundle_json, &key.verifying_key(), &signature)
        })
        .await
    }
}

fn load_or_make(path: &Path) -> Result<SigningKey, String> {
    match fs::read_to_string(path) {
        Ok(pem) => {
            let mode = fs::metadata(path).map_err(|error| error.to_string())?.permissions().mode();
            if mode & 0o077 != 0 {
                return Err(format!("others may read it (mode {:o}): chmod 600 {}", mode & 0o777, path.display()));
            }
            SigningKey::from_pkcs8_pem(&pem).map_err(|error| {
                format!("it is no Ed25519 key in PEM ({error}): `openssl genpkey -algorithm ed25519` makes one")
            })
        }
        Err(error) if error.kind() == ErrorKind::NotFound => make(path),
        Err(error) => Err(error.to_string()),
    }
}

fn make(path: &Path) -> Result<SigningKey, String> {
    let key = SigningKey::from_bytes(&rand::random());
    let pem = key.to_pkcs8_pem(LineEnding::LF).map_err(|error| error.to_string())?;
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|error| format!("making its folder: {error}"))?;
    }
    // Written beside and linked, so that of two commands that make the first key at once both use the same.
    let beside = path.with_extension(format!("{}.tmp", uuid::Uuid::new_v4()));
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)
        .and_then(|mut file| file.write_all(pem.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| fs::hard_link(&beside, path));
    let removed = fs::remove_file(&beside);
    match written {
        Ok(()) => removed.map(|()| key).map_err(|error| format!("removing {}: {error}", beside.display())),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => load_or_make(path),
        Err(error) => Err(format!("writing it: {error}")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use krossing_core::evidence::{ALGORITHM, EvidenceError, verify};

    use super::*;

    #[tokio::test]
    async fn the_first_use_makes_a_key_for_its_owner_only_and_the_next_finds_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/signing-key.pem");
        let first = SigningKeyFile::new(&path).key_id().await.unwrap();
        assert_eq!(SigningKeyFile::new(&path).key_id().await.unwrap(), first);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
        let signed = SigningKeyFile::new(&path).sign("{}".to_owned()).await.unwrap();
        assert_eq!((signed.algorithm.as_str(), signed.key_id.as_str()), (ALGORITHM, first.as_str()));
        // The signature fits; what was signed is no bundle.
        let said = verify(&serde_json::to_vec(&signed).unwrap(), Some(&first)).unwrap_err();
        assert!(matches!(said, EvidenceError::NotEvidence { .. }), "{said}");
    }

    #[tokio::test]
    async fn a_key_that_others_may_read_is_refused_with_the_command_that_mends_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        let key = SigningKeyFile::new(&path);
        key.key_id().await.unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let said = key.key_id().await.unwrap_err().to_string();
        assert!(said.contains("chmod 600") && said.contains("644"), "{said}");
    }

    #[tokio::test]
    async fn a_file_that_is_no_key_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        fs::write(&path, "not a key").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let said = SigningKeyFile::new(&path).key_id().await.unwrap_err().to_string();
        assert!(said.contains("openssl genpkey"), "{said}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "not a key");
    }
}
