//! Goal: evidence is signed by a key in KMS as by one in a file, and is checked with the same public tools.

use std::{fs, process::Command};

use anyhow::Result;
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use ed25519_dalek::{Signer as _, SigningKey, pkcs8::EncodePublicKey as _};
use krossing_aws::{Aws, KmsSigner};
use krossing_core::{
    evidence::{ALGORITHM_BY_STATEMENT, EvidenceError, SignedEvidence, key_id, verify},
    ports::Signer as _,
};
use lab::aws::AccessKey;
use serde_json::{Value, json};

use crate::{front::Front, sdk};

const WHO: AccessKey = AccessKey { id: "krossing", secret: "krossing-secret" };

/// As KMS answers, with the limits that it has. Under `moved` it signs with another key than it shows.
fn answer(asked: &str, body: &Value) -> (u16, Value) {
    let (key, other) = (SigningKey::from_bytes(&[7; 32]), SigningKey::from_bytes(&[8; 32]));
    let no = |kind: &str, message: &str| (400, json!({"__type": kind, "message": message}));
    let id = body["KeyId"].as_str().unwrap_or_default();
    match (asked, id) {
        (_, "missing") => no("NotFoundException", "Key 'missing' does not exist"),
        (_, "forbidden") => no("AccessDeniedException", "User: x is not authorized to perform: kms:GetPublicKey"),
        ("Sign", "disabled") => no("DisabledException", "disabled is disabled."),
        ("GetPublicKey", _) => {
            let der = key.verifying_key().to_public_key_der().expect("it has a DER form");
            let spec = if id == "rsa" { "RSA_2048" } else { "ECC_NIST_EDWARDS25519" };
            (
                200,
                json!({"KeyId": id, "KeySpec": spec, "KeyUsage": "SIGN_VERIFY", "PublicKey": BASE64.encode(der.as_bytes())}),
            )
        }
        ("Sign", _) => {
            let message = BASE64.decode(body["Message"].as_str().unwrap_or_default()).expect("it is base64");
            assert_eq!((&body["MessageType"], &body["SigningAlgorithm"]), (&json!("RAW"), &json!("ED25519_SHA_512")));
            if message.len() > 4096 {
                return no(
                    "ValidationException",
                    "1 validation error detected: Value at 'message' failed to satisfy constraint",
                );
            }
            let key = if id == "moved" { other } else { key };
            (200, json!({"KeyId": id, "Signature": BASE64.encode(key.sign(&message).to_bytes())}))
        }
        (asked, _) => panic!("{asked} is not asked of KMS"),
    }
}

async fn signer(key: &str) -> Result<(Front, KmsSigner)> {
    let server = Front::script(answer).await?;
    let signer = KmsSigner::new(&Aws::of(sdk(server.port(), WHO).await), key);
    Ok((server, signer))
}

#[tokio::test]
async fn a_bundle_of_any_size_is_signed_and_the_key_has_the_id_that_it_would_have_in_a_file() -> Result<()> {
    let (_server, signer) = signer("alias/evidence").await?;
    let expected = key_id(&SigningKey::from_bytes(&[7; 32]).verifying_key());
    assert_eq!(signer.key_id().await?, expected);
    let bundle = json!({"version": 1, "padding": "x".repeat(100_000)}).to_string();
    let signed = signer.sign(bundle).await?;
    assert_eq!((signed.key_id.as_str(), signed.algorithm.as_str()), (expected.as_str(), ALGORITHM_BY_STATEMENT));
    // The signature holds; what was signed is no bundle.
    let said = verify(&serde_json::to_vec(&signed)?, Some(&expected)).expect_err("it is no bundle");
    assert!(matches!(said, EvidenceError::NotEvidence { .. }), "{said}");
    by_openssl(&signed)
}

/// As the README says it is done without Krossing.
fn by_openssl(signed: &SignedEvidence) -> Result<()> {
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("evidence.json"), serde_json::to_vec(signed)?)?;
    let recipe = "set -e
        jq -j .bundle_json evidence.json > bundle.json
        jq -r .public_key evidence.json > key.pem
        jq -r .signature evidence.json | base64 -d > bundle.sig
        printf 'krossing-evidence sha256:%s' \"$(sha256sum < bundle.json | cut -d' ' -f1)\" > statement
        openssl pkeyutl -verify -pubin -inkey key.pem -rawin -in statement -sigfile bundle.sig
        openssl pkey -pubin -in key.pem -outform DER | sha256sum | grep -q \"$(jq -r .key_id evidence.json)\"";
    let output = Command::new("bash").args(["-c", recipe]).current_dir(folder.path()).output()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[tokio::test]
async fn a_key_that_cannot_sign_evidence_is_named_with_what_to_do() -> Result<()> {
    for (key, expected) in [
        ("missing", "KMS key missing in eu-west-1: NotFoundException (400)"),
        ("forbidden", "give the role of this process kms:GetPublicKey and kms:Sign on it"),
        (
            "rsa",
            "it is a key of RSA_2048 for SIGN_VERIFY, which cannot sign evidence; `aws kms create-key --key-spec ECC_NIST",
        ),
        ("disabled", "DisabledException (400): disabled is disabled."),
        ("moved", "what it answered is not its signature"),
    ] {
        let (_server, signer) = signer(key).await?;
        let said = signer.sign("{}".to_owned()).await.expect_err("it cannot sign").to_string();
        println!("{said}");
        assert!(said.contains("evidence.kms_key_id") && said.contains(expected), "{said}");
    }
    Ok(())
}
