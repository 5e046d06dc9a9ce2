//! One spelling for one value: JSON with sorted keys, no white space and only whole numbers, and its SHA-256.
//!
//! What is hashed must not depend on the order in which a field was written or on how a library prints a fraction. Keys
//! are sorted here by their UTF-8 bytes and not left to the map type, which a feature of another crate could change.
//!
//! Does not: accept fractions. What has them (quotas) is planned as text.

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Why a value has no canonical form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotCanonical {
    /// A number that is not whole, or beyond 64 bits.
    #[error("{number} at {path} is not a whole number")]
    Fraction {
        /// Where it is.
        path: String,
        /// The number.
        number: String,
    },
    /// A type that JSON cannot hold.
    #[error("the value cannot be written as JSON: {detail}")]
    NotJson {
        /// What the encoder said.
        detail: String,
    },
}

/// The canonical JSON text of a value.
pub fn canonical_json(value: &impl Serialize) -> Result<String, NotCanonical> {
    let value = serde_json::to_value(value).map_err(|e| NotCanonical::NotJson { detail: e.to_string() })?;
    let mut text = String::new();
    write(&value, &mut String::new(), &mut text)?;
    Ok(text)
}

/// SHA-256 of the canonical JSON, in hex.
pub fn canonical_digest(value: &impl Serialize) -> Result<String, NotCanonical> {
    Ok(hex::encode(Sha256::digest(canonical_json(value)?)))
}

fn write(value: &Value, path: &mut String, text: &mut String) -> Result<(), NotCanonical> {
    match value {
        Value::Null | Value::Bool(_) | Value::String(_) => text.push_str(&value.to_string()),
        Value::Number(number) => {
            if !number.is_i64() && !number.is_u64() {
                return Err(NotCanonical::Fraction { path: path.clone(), number: number.to_string() });
            }
            text.push_str(&number.to_string());
        }
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                within(path, &format!("[{index}]"), |path| write(item, path, text))?;
            }
            text.push(']');
        }
        Value::Object(fields) => {
            let mut sorted: Vec<_> = fields.iter().collect();
            sorted.sort_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
            text.push('{');
            for (index, (key, item)) in sorted.into_iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                text.push_str(&Value::from(key.as_str()).to_string());
                text.push(':');
                within(path, &format!(".{key}"), |path| write(item, path, text))?;
            }
            text.push('}');
        }
    }
    Ok(())
}

fn within<T>(path: &mut String, step: &str, visit: impl FnOnce(&mut String) -> T) -> T {
    let length = path.len();
    path.push_str(step);
    let answer = visit(path);
    path.truncate(length);
    answer
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use serde_json::json;

    use super::*;

    #[test]
    fn keys_are_sorted_and_nothing_is_padded() {
        let value = json!({"b": [1, -2, null], "a": {"é": "\n\"", "z": true}});
        assert_eq!(canonical_json(&value).unwrap(), r#"{"a":{"z":true,"é":"\n\""},"b":[1,-2,null]}"#);
    }

    #[test]
    fn a_fraction_is_refused_by_its_place() {
        let refused = canonical_json(&json!({"a": [0, {"rate": 1.5}]})).unwrap_err();
        assert_eq!(refused.to_string(), "1.5 at .a[1].rate is not a whole number");
    }
}
