//! Java key stores, JKS and PKCS#12, as the PEM that both Kafka clients read.

use std::collections::BTreeMap;

use krossing_core::config::Secret;
use p12_keystore::{KeyStoreEntry, Pkcs12ImportPolicy};
use pem_rfc7468::{LineEnding, encode_string};

/// What JKS begins with. PKCS#12 is DER and begins otherwise.
const JKS_BEGINS: [u8; 4] = [0xFE, 0xED, 0xFE, 0xED];

/// Why a key store is of no use.
#[derive(Debug, thiserror::Error)]
pub enum KeyStoreProblem {
    /// Its parts contradict its password or its format.
    #[error("{0}; check the password, and that it is a JKS or PKCS#12 file (`keytool -list` reads both)")]
    Unreadable(String),
    /// The key inside has another password.
    #[error("the password does not open the key {alias:?} ({cause}); give auth.key_password")]
    KeyPassword {
        /// The key.
        alias: String,
        /// What was wrong.
        cause: String,
    },
    /// It is not said which key.
    #[error("it has {} private keys ({}); give a store with one", .0.len(), .0.join(", "))]
    Keys(Vec<String>),
    /// Nobody would be trusted.
    #[error("it has no trusted certificate; add one with `keytool -importcert`")]
    NobodyTrusted,
}

/// A store whose password was right.
pub(crate) enum OpenKeyStore {
    /// Its keys are still closed.
    Jks(jks::KeyStore),
    /// Its keys were opened with it.
    Pkcs12(p12_keystore::KeyStore),
}

impl OpenKeyStore {
    pub(crate) fn open(content: &[u8], password: &Secret) -> Result<Self, KeyStoreProblem> {
        if content.starts_with(&JKS_BEGINS) {
            let mut store = jks::KeyStore::new();
            let loaded = store.load(content, password.expose().as_bytes());
            return loaded.map(|()| Self::Jks(store)).map_err(|error| KeyStoreProblem::Unreadable(error.to_string()));
        }
        p12_keystore::KeyStore::from_pkcs12(content, password.expose(), Pkcs12ImportPolicy::Strict)
            .map(Self::Pkcs12)
            .map_err(|error| KeyStoreProblem::Unreadable(error.to_string()))
    }

    /// Its trusted certificates, PEM.
    pub(crate) fn trusted(&self) -> Result<String, KeyStoreProblem> {
        let certificates: Vec<Vec<u8>> = match self {
            Self::Jks(store) => {
                let mut names = store.aliases();
                names.sort();
                let trusted = names.iter().filter_map(|name| store.get_trusted_certificate_entry(name).ok());
                trusted.map(|entry| entry.certificate.content).collect()
            }
            Self::Pkcs12(store) => store
                .entries()
                .filter_map(|(_, entry)| match entry {
                    KeyStoreEntry::Certificate(certificate) => Some(certificate.as_der().to_vec()),
                    _ => None,
                })
                .collect(),
        };
        let pem: String = certificates.iter().map(|certificate| pem("CERTIFICATE", certificate)).collect();
        if pem.is_empty() { Err(KeyStoreProblem::NobodyTrusted) } else { Ok(pem) }
    }

    /// Its one certificate with the chain, and the private key; both PEM.
    pub(crate) fn identity(&self, key_password: &Secret) -> Result<(String, String), KeyStoreProblem> {
        let (chain, key) = match self {
            Self::Jks(store) => {
                let mut names = store.aliases();
                names.retain(|name| store.is_private_key_entry(name));
                let alias = only(names)?;
                let entry = store.get_private_key_entry(&alias, key_password.expose().as_bytes());
                let entry = entry.map_err(|error| KeyStoreProblem::KeyPassword { alias, cause: error.to_string() })?;
                (entry.certificate_chain.into_iter().map(|it| it.content).collect(), entry.private_key)
            }
            Self::Pkcs12(store) => {
                let chains = store.entries().filter_map(|(alias, entry)| match entry {
                    KeyStoreEntry::PrivateKeyChain(chain) => Some((alias.clone(), chain)),
                    _ => None,
                });
                let chains: BTreeMap<String, _> = chains.collect();
                let chain = chains[&only(chains.keys().cloned().collect())?];
                let certificates = chain.certs().iter().map(|certificate| certificate.as_der().to_vec());
                (certificates.collect::<Vec<_>>(), chain.key().as_der().to_vec())
            }
        };
        Ok((chain.iter().map(|certificate| pem("CERTIFICATE", certificate)).collect(), pem("PRIVATE KEY", &key)))
    }
}

fn only(mut keys: Vec<String>) -> Result<String, KeyStoreProblem> {
    keys.sort();
    match <[String; 1]>::try_from(keys) {
        Ok([key]) => Ok(key),
        Err(keys) => Err(KeyStoreProblem::Keys(keys)),
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    encode_string(label, LineEnding::LF, der).expect("a label of capitals and any bytes can be written as PEM")
}

#[cfg(test)]
mod tests {
    use std::{path::Path, process::Command};

    use super::*;

    const STORE: &str = "of-the-store";

    /// Runs the JDK's own tool.
    fn keytool(folder: &Path, arguments: &[&str]) {
        let ran = Command::new("keytool").args(arguments).current_dir(folder).output();
        let ran = ran.expect("keytool is part of the JDK that the tests need");
        let said = [ran.stdout, ran.stderr].concat();
        assert!(ran.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&said));
    }

    fn make(folder: &Path, kind: &str, key_password: &str) -> Vec<u8> {
        let pair = ["-genkeypair", "-alias", "me", "-keyalg", "EC", "-dname", "CN=me", "-keystore", "store"];
        let secrets = ["-storetype", kind, "-storepass", STORE, "-keypass", key_password];
        keytool(folder, &[pair.as_slice(), &secrets].concat());
        std::fs::read(folder.join("store")).expect("it was made")
    }

    #[test]
    fn stores_of_both_formats_give_their_key_with_its_certificate() {
        for (kind, key_password) in [("JKS", "of-the-key"), ("PKCS12", STORE)] {
            let folder = tempfile::tempdir().expect("a folder");
            let content = make(folder.path(), kind, key_password);
            let store = OpenKeyStore::open(&content, &Secret::new(STORE)).expect(kind);
            let (cert, key) = store.identity(&Secret::new(key_password)).expect(kind);
            // Another reader takes them for a pair.
            std::fs::write(folder.path().join("pair.pem"), format!("{key}{cert}")).expect("a file can be written");
            let with_openssl = |arguments: &[&str]| {
                let ran = Command::new("openssl").args(arguments).current_dir(folder.path()).output().expect("openssl");
                assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
                ran.stdout
            };
            let of_the_key = with_openssl(&["pkey", "-in", "pair.pem", "-pubout"]);
            assert_eq!(of_the_key, with_openssl(&["x509", "-in", "pair.pem", "-noout", "-pubkey"]), "{kind}");
            assert!(matches!(store.trusted(), Err(KeyStoreProblem::NobodyTrusted)), "its own certificate is none");
        }
    }

    #[test]
    fn trusted_certificates_of_both_formats_are_found() {
        for kind in ["JKS", "PKCS12"] {
            let folder = tempfile::tempdir().expect("a folder");
            make(folder.path(), kind, STORE);
            let from = ["-keystore", "store", "-storepass", STORE, "-alias", "me", "-file", "me.der"];
            keytool(folder.path(), &[&["-exportcert"], from.as_slice()].concat());
            for alias in ["one", "two"] {
                let to = ["-keystore", "trust", "-storetype", kind, "-storepass", STORE, "-alias", alias];
                keytool(folder.path(), &[&["-importcert", "-noprompt", "-file", "me.der"], to.as_slice()].concat());
            }
            let content = std::fs::read(folder.path().join("trust")).expect("it was made");
            let store = OpenKeyStore::open(&content, &Secret::new(STORE)).expect(kind);
            assert_eq!(store.trusted().expect(kind).matches("BEGIN CERTIFICATE").count(), 2, "{kind}");
            let no_key = store.identity(&Secret::new(STORE)).expect_err("it has none").to_string();
            assert_eq!(no_key, "it has 0 private keys (); give a store with one");
        }
    }

    #[test]
    fn a_wrong_password_or_file_is_told_with_what_to_check() {
        for kind in ["JKS", "PKCS12"] {
            let folder = tempfile::tempdir().expect("a folder");
            let content = make(folder.path(), kind, STORE);
            for (content, password) in
                [(content.as_slice(), "another"), (&content[..40], STORE), (b"PEM", STORE), (b"", "")]
            {
                let error = OpenKeyStore::open(content, &Secret::new(password)).err().expect("it is not usable");
                assert!(error.to_string().contains("check the password"), "{error}");
            }
        }
        let folder = tempfile::tempdir().expect("a folder");
        let store = OpenKeyStore::open(&make(folder.path(), "JKS", "of-the-key"), &Secret::new(STORE)).expect("opens");
        let error = store.identity(&Secret::new(STORE)).expect_err("the key has another").to_string();
        assert!(error.contains("give auth.key_password"), "{error}");
    }
}
