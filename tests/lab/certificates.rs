//! Certificates for a cluster's TLS listeners, made with the openssl command.
//!
//! PEM throughout: brokers read it since 2.7, and a PKCS12 trust store for Java cannot be made with OpenSSL 3.0 (the
//! attribute by which Java knows a trusted certificate came in 3.2). Elliptic keys, because they are made in no time.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, ensure};

/// A certificate with its key, both PEM files.
#[derive(Debug, Clone)]
pub struct KeyPair {
    /// The certificate.
    pub cert_file: PathBuf,
    /// Its key, PKCS8, without a password.
    pub key_file: PathBuf,
}

/// The same for Java clients: a JKS key store and a PKCS#12 trust store, both with [`STORE_PASSWORD`].
#[derive(Debug, Clone)]
pub struct JavaStores {
    /// Certificate and key.
    pub keystore: PathBuf,
    /// The authority.
    pub truststore: PathBuf,
}

/// The password of [`JavaStores`].
pub const STORE_PASSWORD: &str = "of-the-lab";

/// An authority, and what it has signed.
#[derive(Debug, Clone)]
pub struct Certificates {
    folder: PathBuf,
    /// The authority's certificate: what clients and brokers trust.
    pub ca_file: PathBuf,
    /// Key and certificate of the brokers in one file, as `ssl.keystore.location` wants them.
    pub(crate) broker_file: PathBuf,
}

impl Certificates {
    /// Makes an authority, the brokers' certificate for 127.0.0.1 and localhost, and one for each client.
    pub(crate) fn make(folder: &Path, clients: &[&str]) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let it = Self {
            folder: folder.to_owned(),
            ca_file: folder.join("ca.pem"),
            broker_file: folder.join("broker-keystore.pem"),
        };
        it.openssl("req -x509 -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -days 30 -subj /CN=lab-authority")?;
        it.sign("broker", "subjectAltName=IP:127.0.0.1,DNS:localhost")?;
        let broker = it.pair("broker");
        let both = std::fs::read_to_string(broker.key_file)? + &std::fs::read_to_string(broker.cert_file)?;
        std::fs::write(&it.broker_file, both)?;
        for client in clients {
            it.sign(client, "extendedKeyUsage=clientAuth")?;
        }
        Ok(it)
    }

    /// The files of a client.
    pub fn pair(&self, name: &str) -> KeyPair {
        KeyPair {
            cert_file: self.folder.join(format!("{name}.pem")),
            key_file: self.folder.join(format!("{name}.key")),
        }
    }

    /// The key pair of a client, and the authority, as a Java shop has them.
    pub fn java_stores(&self, name: &str) -> Result<JavaStores> {
        let stores = JavaStores {
            keystore: self.folder.join(format!("{name}.jks")),
            truststore: self.folder.join(format!("{name}-trust.p12")),
        };
        self.openssl(&format!(
            "pkcs12 -export -inkey {name}.key -in {name}.pem -name {name} -passout pass:{STORE_PASSWORD} -out {name}.p12"
        ))?;
        self.run(
            "keytool",
            &format!(
                "-importkeystore -noprompt -srckeystore {name}.p12 -srcstoretype PKCS12 -srcstorepass {STORE_PASSWORD} \
             -destkeystore {name}.jks -deststoretype JKS -deststorepass {STORE_PASSWORD}"
            ),
        )?;
        self.run("keytool", &format!(
            "-importcert -noprompt -alias authority -file ca.pem -keystore {name}-trust.p12 -storetype PKCS12 -storepass \
             {STORE_PASSWORD}"
        ))?;
        Ok(stores)
    }

    /// A client whose certificate was good until yesterday.
    pub(crate) fn expired(&self) -> Result<KeyPair> {
        self.sign_for("expired", "extendedKeyUsage=clientAuth", -1)?;
        Ok(self.pair("expired"))
    }

    fn sign(&self, name: &str, extension: &str) -> Result<()> {
        self.sign_for(name, extension, 30)
    }

    fn sign_for(&self, name: &str, extension: &str, days: i32) -> Result<()> {
        std::fs::write(self.folder.join("extension"), extension)?;
        self.openssl(&format!("req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"))?;
        self.openssl(&format!("x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days {days} -extfile extension -out {name}.pem"))
    }

    fn openssl(&self, arguments: &str) -> Result<()> {
        self.run("openssl", arguments)
    }

    fn run(&self, program: &str, arguments: &str) -> Result<()> {
        let output = Command::new(program).args(arguments.split(' ')).current_dir(&self.folder).output()?;
        let said = [output.stdout, output.stderr].concat();
        ensure!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&said));
        Ok(())
    }
}
