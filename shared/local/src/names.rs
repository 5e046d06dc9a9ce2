//! How keys and document names become paths, and back.
//!
//! A key is split at `/`, and each part becomes one file name of `a-z 0-9 . _ -` as they are, a capital as `=` and its
//! small letter, and every other byte as `%` and two hex digits. An empty part is `%`. A dot in front is encoded too,
//! so that no part can be `.` or `..`, and names with a dot in front remain for ourselves. Capitals are encoded because
//! `Orders` and `orders` are two topics and, on a Mac, one file.
//!
//! File names end at 255 bytes and topic names at 249 characters, which may double: a longer name goes on one folder
//! further down, its pieces but the last ending in `%+`. So every key has exactly one path and every path of ours exactly one key,
//! and no table of long names is needed. Ordinary names, Kafka's segment names among them, stay as they are.

use std::path::{Component, Path, PathBuf};

/// Bytes of one file name, so that with [`CONTINUED`] it stays below the 255 that file systems allow.
const PIECE_BYTES: usize = 250;

/// Ends a piece that goes on in the next.
const CONTINUED: &str = "%+";

/// The path of a key, relative to the folder.
pub fn path_of(key: &str) -> PathBuf {
    key.split('/').flat_map(pieces).collect()
}

/// The key of a path; none where the path is not one of ours.
pub(crate) fn key_of(path: &Path) -> Option<String> {
    let mut parts = Vec::new();
    let mut open = String::new();
    for component in path.components() {
        let Component::Normal(piece) = component else { return None };
        let piece = piece.to_str()?;
        match piece.strip_suffix(CONTINUED) {
            Some(begun) => open.push_str(begun),
            None => parts.push(decode(&(std::mem::take(&mut open) + piece))?),
        }
    }
    let key = parts.join("/");
    (path_of(&key) == path).then_some(key)
}

/// The file names of one part of a key: nearly always one.
fn pieces(part: &str) -> Vec<String> {
    if part.is_empty() {
        return vec!["%".to_owned()];
    }
    let mut pieces = Vec::new();
    let mut piece = String::new();
    for byte in part.bytes() {
        if piece.len() + encode(byte, piece.is_empty()).len() > PIECE_BYTES {
            pieces.push(std::mem::take(&mut piece) + CONTINUED);
        }
        let encoded = encode(byte, piece.is_empty());
        piece.push_str(&encoded);
    }
    pieces.push(piece);
    pieces
}

fn encode(byte: u8, first: bool) -> String {
    match byte {
        b'.' if first => "%2e".to_owned(),
        b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' => char::from(byte).to_string(),
        b'A'..=b'Z' => format!("={}", char::from(byte.to_ascii_lowercase())),
        other => format!("%{other:02x}"),
    }
}

fn decode(encoded: &str) -> Option<String> {
    if encoded == "%" {
        return Some(String::new());
    }
    let mut decoded = Vec::with_capacity(encoded.len());
    let mut bytes = encoded.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'=' => bytes.next()?.to_ascii_uppercase(),
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_keys_stay_as_they_are() {
        let key = "m-1/segments/orders.created_v2/3/00000000000000000042.log";
        assert_eq!(path_of(key), Path::new(key));
        assert_eq!(key_of(Path::new(key)).as_deref(), Some(key));
    }

    #[test]
    fn every_key_has_one_path_within_the_folder_and_comes_back() {
        let long = "L".repeat(249);
        let dots = format!("{}{}", "a".repeat(249), ".".repeat(300));
        let keys = [
            "",
            "/",
            "a//b",
            "a/",
            "/a",
            ".",
            "..",
            "../../etc/passwd",
            "a/../b",
            ".tmp/x",
            "%",
            "%+",
            "=",
            "Orders",
            "orders",
            "a b",
            "nul\0byte",
            "grün",
            "a\\b",
            &long,
            &dots,
            &"x".repeat(251),
        ];
        let mut paths = std::collections::BTreeSet::new();
        for key in keys {
            let path = path_of(key);
            for component in path.components() {
                let Component::Normal(name) = component else { panic!("{key:?} leaves the folder: {path:?}") };
                let name = name.to_str().expect("encoded names are text");
                assert!(name.len() <= 255 && !name.starts_with('.'), "{key:?} becomes {name:?}");
                assert!(!name.bytes().any(|byte| byte.is_ascii_uppercase()), "{key:?} becomes {name:?}");
            }
            assert_eq!(key_of(&path).as_deref(), Some(key), "{path:?}");
            assert!(paths.insert(path), "{key:?} shares its path");
        }
    }

    #[test]
    fn a_path_that_is_not_ours_has_no_key() {
        for path in [".tmp/x", "README", "%zz", "a%+", "=", "%61"] {
            assert_eq!(key_of(Path::new(path)), None, "{path}");
        }
    }
}
