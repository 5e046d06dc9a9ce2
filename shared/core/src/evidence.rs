//! Evidence: what a migration did, in one signed document that can be checked offline, years later, with public tools.
//!
//! The document carries the bundle as text, so that what was signed is exactly what is read, and everything needed to
//! check it: the public key, its id, the signature. A signature only says that nothing was changed since; whom the key
//! belongs to is for the reader to know, which is why the key's id is shown first. Every attempt to end a migration
//! leaves a document under a name of its own, the last one also under `evidence.json`.
//!
//! Invariants: the bundle is canonical JSON; the journal in it is whole, up to the entry that ends the attempt; plan,
//! cutover report and validation report in it are those whose digests the journal carries; what is too large to be
//! carried is named with its digest.
//!
//! Does not: hold a key, or decide whom to trust.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use ed25519_dalek::{
    Signature, VerifyingKey,
    pkcs8::{DecodePublicKey, EncodePublicKey, spki::der::pem::LineEnding},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{
    canonical::{NotCanonical, canonical_digest, canonical_json},
    client_switch::ClientSwitchRecord,
    cutover::CutoverReport,
    journal::{Actor, EntryKind, Journal, JournalEntry, JournalError},
    offset_map::sha256_hex,
    plan::{Amendment, MigrationPlan},
    progress::{CopyCounts, Gap},
    transition::State,
    types::{MigrationId, SourceOffset, TargetOffset, TopicPartition},
    validation::ValidationReport,
};

/// The version of [`Bundle`] that this code writes.
pub const EVIDENCE_VERSION: u32 = 1;

/// How bundles are signed by a key at hand: as they are.
pub const ALGORITHM: &str = "Ed25519";

/// How they are signed by a key service, which takes no more than 4 KB: their [`statement`] is.
pub const ALGORITHM_BY_STATEMENT: &str = "Ed25519+SHA-256";

/// The line that stands for a bundle where its digest is signed: no bundle is like it, and it is like no bundle, so that
/// neither signature can be passed off as the other.
pub fn statement(bundle_json: &str) -> String {
    format!("krossing-evidence sha256:{}", sha256_hex(bundle_json.as_bytes()))
}

/// An object that was stored and read back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredObject {
    /// Its key in the evidence.
    pub key: String,
    /// SHA-256 of its bytes, in hex.
    pub sha256: String,
}

/// How far a partition was copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartitionEvidence<'a> {
    /// Which.
    pub partition: &'a TopicPartition,
    /// The source offset behind the last one that was copied.
    pub source_next: SourceOffset,
    /// The target offset behind the last one that was written.
    pub target_next: TargetOffset,
    /// What was copied.
    pub copied: CopyCounts,
    /// What was gone from the source before it was read.
    pub gaps: &'a [Gap],
}

/// What is signed. What an attempt did not come to is null.
#[derive(Debug, Serialize)]
pub struct Bundle<'a> {
    /// Of this format.
    pub version: u32,
    /// The migration.
    pub migration_id: &'a MigrationId,
    /// The Krossing that signed.
    pub tool_version: &'a str,
    /// When, in milliseconds since 1970.
    pub signed_unix_ms: i64,
    /// The state in which the attempt ended: `finalized`, `failed` or `rolled_back`.
    pub outcome: State,
    /// What the migration is tied to.
    pub fingerprint: &'a str,
    /// Every entry, the one that ends the attempt included.
    pub journal: &'a [JournalEntry],
    /// The plan: both clusters, topics with what they are created with and what they end with, groups, ACLs, quotas,
    /// and what was left out and why.
    pub plan: &'a MigrationPlan,
    /// What was added to it.
    pub amendments: &'a [Amendment],
    /// What was copied, over all partitions.
    pub copied: CopyCounts,
    /// What was copied, partition by partition.
    pub partitions: Vec<PartitionEvidence<'a>>,
    /// Markers, boundaries, every translated position, times.
    pub cutover: Option<&'a CutoverReport>,
    /// What was written for each group since, and who was seen to have switched.
    pub client_switch: Option<&'a ClientSwitchRecord>,
    /// Every check with what it found.
    pub validation: Option<&'a ValidationReport>,
    /// What is stored beside this document.
    pub objects: &'a [StoredObject],
}

impl Bundle<'_> {
    /// The text that is signed.
    pub fn text(&self) -> Result<String, NotCanonical> {
        canonical_json(self)
    }
}

/// The document: a bundle and who signed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedEvidence {
    /// The bundle, byte for byte as it was signed.
    pub bundle_json: String,
    /// How it was signed: [`ALGORITHM`] or [`ALGORITHM_BY_STATEMENT`].
    pub algorithm: String,
    /// SHA-256 of the public key in DER form, in hex.
    pub key_id: String,
    /// The public key in PEM form.
    pub public_key: String,
    /// The signature in base64.
    pub signature: String,
}

impl SignedEvidence {
    /// Puts together a bundle that was signed as it is.
    pub fn new(bundle_json: String, key: &VerifyingKey, signature: &Signature) -> Self {
        Self::by(ALGORITHM, bundle_json, key, signature)
    }

    /// Puts together a bundle whose [`statement`] was signed.
    pub fn over_statement(bundle_json: String, key: &VerifyingKey, signature: &Signature) -> Self {
        Self::by(ALGORITHM_BY_STATEMENT, bundle_json, key, signature)
    }

    fn by(algorithm: &str, bundle_json: String, key: &VerifyingKey, signature: &Signature) -> Self {
        Self {
            bundle_json,
            algorithm: algorithm.to_owned(),
            key_id: key_id(key),
            public_key: key.to_public_key_pem(LineEnding::LF).expect("a key of 32 bytes has a PEM form"),
            signature: BASE64.encode(signature.to_bytes()),
        }
    }
}

/// By which a reader recognises a key: SHA-256 of its DER form, in hex.
pub fn key_id(key: &VerifyingKey) -> String {
    let der = key.to_public_key_der().expect("a key of 32 bytes has a DER form");
    hex::encode(Sha256::digest(der.as_bytes()))
}

/// Where the document of one attempt is stored; nothing else is ever stored there.
pub fn attempt_key(migration: &MigrationId, signed_unix_ms: i64, outcome: State, document: &[u8]) -> String {
    let at = Timestamp::from_millisecond(signed_unix_ms).unwrap_or(Timestamp::UNIX_EPOCH).strftime("%Y%m%dT%H%M%S%3fZ");
    format!("{}{at}-{outcome}-{}.json", attempts_prefix(migration), &sha256_hex(document)[..16])
}

/// Where the documents of all attempts are stored; their names are in the order of time.
pub fn attempts_prefix(migration: &MigrationId) -> String {
    format!("{migration}/evidence-attempts/")
}

/// Whether an object of the evidence is a signed document: what Object Lock is for.
pub fn is_signed(key: &str) -> bool {
    key.contains("/evidence-attempts/") || key.ends_with("/evidence.json")
}

/// Where the document of the last attempt is stored.
pub fn alias_key(migration: &MigrationId) -> String {
    format!("{migration}/evidence.json")
}

/// Why a document proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvidenceError {
    /// It has another form.
    #[error("this is no signed evidence: {detail}")]
    NotEvidence {
        /// What does not fit.
        detail: String,
    },
    /// It is of a later format.
    #[error("this evidence is of format {version}: check it with the Krossing that wrote it, or a later one")]
    LaterVersion {
        /// Its format.
        version: u64,
    },
    /// The key id belongs to another key.
    #[error("the key id {claimed} is not that of the public key beside it, which is {actual}")]
    OtherKeyId {
        /// What the document says.
        claimed: String,
        /// What it is.
        actual: String,
    },
    /// It was signed with another key than the reader trusts.
    #[error("it was signed with key {actual}, not with the trusted key {trusted}")]
    NotTrusted {
        /// The key it was signed with.
        actual: String,
        /// The key the reader trusts.
        trusted: String,
    },
    /// It was changed after it was signed.
    #[error("the signature does not fit: the bundle was changed after it was signed, or signed by somebody else")]
    BadSignature,
    /// The journal in it is not one.
    #[error("the journal in it does not hold")]
    Journal(#[from] JournalError),
    /// A part is another than the journal says.
    #[error("{part} is not the one that the journal names: its SHA-256 is {actual} instead of {journaled}")]
    OtherPart {
        /// Which part.
        part: String,
        /// What the journal says.
        journaled: String,
        /// What it is.
        actual: String,
    },
    /// A part is missing.
    #[error("{part} is missing, which a migration that ended as {outcome} must have")]
    Missing {
        /// Which part.
        part: String,
        /// How the migration ended.
        outcome: String,
    },
}

/// What a document proves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// The migration.
    pub migration_id: String,
    /// How the attempt ended.
    pub outcome: State,
    /// When it was signed, in milliseconds since 1970.
    pub signed_unix_ms: i64,
    /// With which key.
    pub key_id: String,
    /// How many entries the journal has.
    pub journal_entries: u64,
    /// The hash of the last of them.
    pub journal_hash: String,
    /// What was decided, by whom and when.
    pub decisions: Vec<Decided>,
    /// How validation ended, where it ran.
    pub validation: Option<String>,
    /// What is stored beside the document, with the digests it must have.
    pub objects: Vec<StoredObject>,
}

/// Something that a person decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Decided {
    /// What, in the words of the journal.
    pub what: String,
    /// By whom.
    pub by: Actor,
    /// When, in milliseconds since 1970.
    pub at_unix_ms: i64,
}

impl Decided {
    /// The entries by which people moved a migration on. What follows by itself is none.
    fn of(journal: &Journal) -> Vec<Self> {
        let decided = |entry: &&JournalEntry| match entry.kind {
            EntryKind::Decision | EntryKind::GateAnswered => true,
            EntryKind::Transition => {
                let forward = entry.from != Some(State::Failed);
                let asked_for =
                    [State::Planned, State::Cutover, State::Validating, State::Finalized, State::RolledBack];
                // What failed is gone on with by itself, and given up by somebody.
                (forward && asked_for.contains(&entry.to)) || entry.to == State::RolledBack
            }
            _ => false,
        };
        let decisions = journal.entries().iter().filter(decided);
        decisions
            .map(|entry| Self {
                what: format!("{}: {}", entry.to, entry.reason),
                by: entry.by.clone(),
                at_unix_ms: entry.at_unix_ms,
            })
            .collect()
    }
}

/// Checks a document: its form, signature, journal, the digests of its parts, and that nothing is missing. With
/// `trusted_key_id` also that it was signed with that key.
pub fn verify(document: &[u8], trusted_key_id: Option<&str>) -> Result<Verified, EvidenceError> {
    let not_evidence = |detail: String| EvidenceError::NotEvidence { detail };
    let document: SignedEvidence = serde_json::from_slice(document).map_err(|error| not_evidence(error.to_string()))?;
    let signed = match document.algorithm.as_str() {
        ALGORITHM => document.bundle_json.clone(),
        ALGORITHM_BY_STATEMENT => statement(&document.bundle_json),
        other => {
            let known = format!("{ALGORITHM} or {ALGORITHM_BY_STATEMENT}");
            return Err(not_evidence(format!("it is signed with {other:?}, not with {known}")));
        }
    };
    let key = VerifyingKey::from_public_key_pem(&document.public_key)
        .map_err(|error| not_evidence(format!("its public key cannot be read ({error})")))?;
    let actual = key_id(&key);
    if document.key_id != actual {
        return Err(EvidenceError::OtherKeyId { claimed: document.key_id, actual });
    }
    if let Some(trusted) = trusted_key_id.filter(|trusted| *trusted != actual) {
        return Err(EvidenceError::NotTrusted { actual, trusted: trusted.to_owned() });
    }
    let signature = BASE64
        .decode(&document.signature)
        .ok()
        .and_then(|bytes| Signature::from_slice(&bytes).ok())
        .ok_or_else(|| not_evidence("its signature is not 64 bytes in base64".to_owned()))?;
    key.verify_strict(signed.as_bytes(), &signature).map_err(|_| EvidenceError::BadSignature)?;

    let bundle: Value = serde_json::from_str(&document.bundle_json).map_err(|error| not_evidence(error.to_string()))?;
    match bundle["version"].as_u64() {
        Some(version) if version <= u64::from(EVIDENCE_VERSION) => {}
        Some(version) => return Err(EvidenceError::LaterVersion { version }),
        None => return Err(not_evidence("its bundle has no version".to_owned())),
    }
    check_parts(&bundle, actual)
}

/// What the signature does not say: that the parts belong together and none is missing.
fn check_parts(bundle: &Value, key_id: String) -> Result<Verified, EvidenceError> {
    let not_evidence = |detail: &str| EvidenceError::NotEvidence { detail: detail.to_owned() };
    let lines = bundle["journal"].as_array().ok_or_else(|| not_evidence("its bundle has no journal"))?;
    let lines: Vec<String> =
        lines.iter().map(|entry| canonical_json(entry).map_err(JournalError::Detail)).collect::<Result<_, _>>()?;
    let journal = Journal::parse(&lines)?;
    let outcome = journal.tip().ok_or_else(|| not_evidence("its journal is empty"))?;
    if bundle["outcome"] != outcome.name() {
        return Err(not_evidence("its outcome is not the state in which its journal ends"));
    }
    if bundle["fingerprint"].as_str() != journal.fingerprint() {
        return Err(not_evidence("its fingerprint is not that of its journal"));
    }

    let part = |name: &str, part: &Value, journaled: Option<&Value>| {
        let Some(journaled) = journaled.and_then(Value::as_str) else {
            return Err(EvidenceError::Missing {
                part: format!("the journal's digest of {name}"),
                outcome: outcome.name().to_owned(),
            });
        };
        let actual = canonical_digest(part).map_err(JournalError::Detail)?;
        if part.is_null() {
            return Err(EvidenceError::Missing { part: name.to_owned(), outcome: outcome.name().to_owned() });
        }
        if actual != journaled {
            let journaled = journaled.to_owned();
            return Err(EvidenceError::OtherPart { part: name.to_owned(), journaled, actual });
        }
        Ok(())
    };
    let detail = |entry: Option<&JournalEntry>, pointer: &str| entry.and_then(|it| it.detail.pointer(pointer).cloned());
    part("the plan", &bundle["plan"], detail(journal.entries().first(), "/plan_sha256").as_ref())?;
    let amendments = journal.entries().iter().filter(|entry| entry.kind == EntryKind::Amendment);
    for (index, entry) in amendments.enumerate() {
        let name = format!("amendment {}", index + 1);
        part(&name, &bundle["amendments"][index], detail(Some(entry), "/amendment_sha256").as_ref())?;
    }
    let ready = journal.ready();
    let validated = journal.last(EntryKind::Validated);
    let finalized = outcome == State::Finalized;
    if finalized || ready.is_some() {
        part("the cutover's report", &bundle["cutover"], detail(ready, "/report_sha256").as_ref())?;
    }
    if finalized || validated.is_some() {
        part("the validation's report", &bundle["validation"], detail(validated, "/report/sha256").as_ref())?;
    }

    let objects = Vec::<StoredObject>::deserialize(&bundle["objects"])
        .map_err(|_| not_evidence("its list of stored objects cannot be read"))?;
    Ok(Verified {
        migration_id: bundle["migration_id"].as_str().unwrap_or_default().to_owned(),
        outcome,
        signed_unix_ms: bundle["signed_unix_ms"].as_i64().unwrap_or_default(),
        key_id,
        journal_entries: journal.position() as u64,
        journal_hash: journal.tip_hash().to_owned(),
        decisions: Decided::of(&journal),
        validation: bundle["validation"]["overall"].as_str().map(str::to_owned),
        objects,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use ed25519_dalek::{Signer as _, SigningKey};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::journal::{KnownBy, Stamp};

    fn signing_key(number: u8) -> SigningKey {
        SigningKey::from_bytes(&[number; 32])
    }

    fn sign(bundle: &Value, key: &SigningKey) -> Vec<u8> {
        let text = canonical_json(bundle).unwrap();
        let signature = key.sign(text.as_bytes());
        serde_json::to_vec(&SignedEvidence::new(text, &key.verifying_key(), &signature)).unwrap()
    }

    fn at(at_unix_ms: i64) -> Stamp {
        Stamp { at_unix_ms, by: Actor { who: "alice@here".to_owned(), known_by: KnownBy::OperatingSystem } }
    }

    /// A bundle as a finalized migration leaves it, small.
    fn bundle() -> Value {
        let (plan, cutover) = (json!({"topics": ["orders"]}), json!({"groups": [{"target_offset": 7}]}));
        let (validation, amendment) = (json!({"overall": "PASSED"}), json!({"topics": ["late"]}));
        let digest = |part: &Value| canonical_digest(part).unwrap();
        let mut journal = Journal::default();
        let made = journal.begin("f1".into(), at(1), "planned", json!({"plan_sha256": digest(&plan)})).unwrap();
        journal.push(made.0).unwrap();
        let enter = |journal: &mut Journal, to: State, detail: Value| {
            let made = journal.transition(to, at(2), "on", detail).unwrap();
            journal.push(made.0).unwrap();
        };
        for state in [State::Precheck, State::TopologyCopy, State::Seed, State::Tail] {
            enter(&mut journal, state, json!({}));
        }
        let made = journal.note(EntryKind::Amendment, at(3), "grew", json!({"amendment_sha256": digest(&amendment)}));
        journal.push(made.unwrap().0).unwrap();
        enter(&mut journal, State::DrainReady, json!({}));
        enter(&mut journal, State::Cutover, json!({}));
        enter(&mut journal, State::AwaitingClientSwitch, json!({"report_sha256": digest(&cutover)}));
        enter(&mut journal, State::Validating, json!({}));
        let made =
            journal.note(EntryKind::Validated, at(4), "passed", json!({"report": {"sha256": digest(&validation)}}));
        journal.push(made.unwrap().0).unwrap();
        enter(&mut journal, State::Finalized, json!({}));
        json!({
            "version": EVIDENCE_VERSION,
            "migration_id": "orders",
            "tool_version": "0",
            "signed_unix_ms": 5,
            "outcome": "finalized",
            "fingerprint": "f1",
            "journal": journal.entries(),
            "plan": plan,
            "amendments": [amendment],
            "cutover": cutover,
            "validation": validation,
            "objects": [{"key": "orders/offset-map.json", "sha256": "00"}],
        })
    }

    #[test]
    fn what_was_signed_is_verified_and_says_who_signed_it() {
        let key = signing_key(1);
        let verified = verify(&sign(&bundle(), &key), Some(&key_id(&key.verifying_key()))).unwrap();
        assert_eq!((verified.outcome, verified.journal_entries), (State::Finalized, 12));
        assert_eq!(verified.validation.as_deref(), Some("PASSED"));
        assert_eq!(verified.objects[0].key, "orders/offset-map.json");
    }

    #[test]
    fn a_signature_of_the_statement_proves_the_bundle_and_is_not_passed_off_as_one_of_it() {
        let key = signing_key(1);
        let text = canonical_json(&bundle()).unwrap();
        let signature = key.sign(statement(&text).as_bytes());
        let document = SignedEvidence::over_statement(text.clone(), &key.verifying_key(), &signature);
        let verified = verify(&serde_json::to_vec(&document).unwrap(), None).unwrap();
        assert_eq!((verified.outcome, verified.key_id), (State::Finalized, key_id(&key.verifying_key())));
        let refused = |document: SignedEvidence| verify(&serde_json::to_vec(&document).unwrap(), None).unwrap_err();
        let changed = SignedEvidence { bundle_json: text.replacen("orders", "others", 1), ..document.clone() };
        assert_eq!(refused(changed), EvidenceError::BadSignature);
        let of_the_bundle = SignedEvidence { algorithm: ALGORITHM.to_owned(), ..document.clone() };
        assert_eq!(refused(of_the_bundle), EvidenceError::BadSignature);
        let of_the_line = SignedEvidence::new(statement(&text), &key.verifying_key(), &signature);
        assert!(matches!(refused(of_the_line), EvidenceError::NotEvidence { .. }));
    }

    #[test]
    fn evidence_signed_with_another_key_is_not_trusted() {
        let document = sign(&bundle(), &signing_key(2));
        let trusted = key_id(&signing_key(1).verifying_key());
        assert!(matches!(verify(&document, Some(&trusted)), Err(EvidenceError::NotTrusted { .. })));
        let mut pretending: SignedEvidence = serde_json::from_slice(&document).unwrap();
        pretending.key_id = trusted.clone();
        let document = serde_json::to_vec(&pretending).unwrap();
        assert!(matches!(verify(&document, Some(&trusted)), Err(EvidenceError::OtherKeyId { .. })));
    }

    #[test]
    fn each_part_must_be_the_one_that_the_journal_names() {
        let changes: [(&str, Value, &str); 5] = [
            ("/plan/topics/0", json!("payments"), "the plan"),
            ("/amendments/0/topics/0", json!("later"), "amendment 1"),
            ("/cutover/groups/0/target_offset", json!(8), "the cutover's report"),
            ("/validation/overall", json!("FAILED"), "the validation's report"),
            ("/cutover", Value::Null, "the cutover's report"),
        ];
        for (pointer, value, part) in changes {
            let mut changed = bundle();
            *changed.pointer_mut(pointer).unwrap() = value;
            let said = verify(&sign(&changed, &signing_key(1)), None).unwrap_err().to_string();
            assert!(said.starts_with(part), "{pointer}: {said}");
        }
    }

    #[test]
    fn a_journal_with_an_entry_dropped_or_moved_is_refused_even_when_signed() {
        for change in
            [|entries: &mut Vec<Value>| drop(entries.remove(3)), |entries: &mut Vec<Value>| entries.swap(3, 4)]
        {
            let mut changed = bundle();
            change(changed["journal"].as_array_mut().unwrap());
            let refused = verify(&sign(&changed, &signing_key(1)), None);
            assert!(matches!(refused, Err(EvidenceError::Journal(_))), "{refused:?}");
        }
        let mut cut_off = bundle();
        cut_off["journal"].as_array_mut().unwrap().pop();
        let refused = verify(&sign(&cut_off, &signing_key(1)), None);
        assert!(matches!(refused, Err(EvidenceError::NotEvidence { .. })), "{refused:?}");
    }

    #[test]
    fn attempts_have_names_of_their_own() {
        let migration: MigrationId = "orders".parse().unwrap();
        assert_eq!(
            attempt_key(&migration, 1_764_000_000_123, State::RolledBack, b"x"),
            "orders/evidence-attempts/20251124T160000123Z-rolled_back-2d711642b726b044.json"
        );
        assert_eq!(alias_key(&migration), "orders/evidence.json");
        assert!(is_signed(&alias_key(&migration)) && is_signed(&format!("{}x.json", attempts_prefix(&migration))));
        assert!(!is_signed("orders/report.json") && !is_signed("precheck-probe"));
    }

    proptest! {
        #[test]
        fn no_flipped_bit_goes_unnoticed(position in any::<prop::sample::Index>(), bit in 0..8u8) {
            let mut document = sign(&bundle(), &signing_key(1));
            let at = position.index(document.len());
            document[at] ^= 1 << bit;
            prop_assert!(verify(&document, None).is_err());
        }
    }
}
