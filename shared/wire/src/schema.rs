//! Walks an answer by its schema before anything is decoded.
//!
//! Why: `kafka-protocol` allocates by the counts it reads. Eight bytes that claim 2^31 topics make it ask for 100 GB, and
//! the process is gone. So every count and length is first held against the bytes that are really there.
//!
//! A schema is a short text, one for each answer and version in use (`api.rs` has the table):
//! `1 2 4 8 u` fixed sizes (`u` is a UUID), `s` string, `b` bytes or records, `[..]` array of structs, `*x` array of
//! plain values, `(..)` struct, `<0:.. 1:..>` the tagged fields that the decoder knows, at the end of a struct. In
//! flexible versions lengths are varints and each struct ends with tagged fields.
//!
//! Invariants: a frame that is accepted holds every element it counts, and ends where its schema ends; the decoder,
//! which reads the same fields in the same order, can then allocate no more than a fixed multiple of the frame. Tagged
//! fields the decoder knows are walked too and must fill their declared size, so that the two never lose step. Does not
//! judge values.

/// Why a frame cannot be what it claims to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    /// It ends inside a field.
    #[error("cut off at byte {at}")]
    CutOff { at: usize },
    /// A count or length larger than what follows.
    #[error("a count of {count} at byte {at}, with {left} bytes left")]
    Count { at: usize, count: i64, left: usize },
    /// A varint without an end, or a tagged field of another size than it says.
    #[error("a malformed field at byte {at}")]
    Malformed { at: usize },
    /// Bytes behind the end.
    #[error("{left} bytes too many")]
    Trailing { left: usize },
}

/// Holds every count and length in `frame` against the bytes that are there, by `schema`, to the last byte.
pub(crate) fn check(frame: &[u8], schema: &str, flexible: bool) -> Result<(), FrameError> {
    let mut walker = Walker { frame, at: 0, flexible };
    walker.fields(schema)?;
    match frame.len() - walker.at {
        0 => Ok(()),
        left => Err(FrameError::Trailing { left }),
    }
}

/// The length of the tagged fields at the start of `frame`: what a flexible response header ends with.
pub(crate) fn tagged_fields_len(frame: &[u8]) -> Result<usize, FrameError> {
    let mut walker = Walker { frame, at: 0, flexible: true };
    walker.tagged_fields("")?;
    Ok(walker.at)
}

struct Walker<'a> {
    frame: &'a [u8],
    at: usize,
    flexible: bool,
}

impl Walker<'_> {
    /// One struct: its fields, then (flexible) its tagged fields.
    fn fields(&mut self, schema: &str) -> Result<(), FrameError> {
        let mut rest = schema.trim_start();
        let mut known = "";
        while !rest.is_empty() {
            if let Some(tagged) = rest.strip_prefix('<') {
                known = tagged.trim_end().trim_end_matches('>');
                break;
            }
            rest = self.field(rest)?.trim_start();
        }
        if self.flexible { self.tagged_fields(known) } else { Ok(()) }
    }

    /// One field; answers what of the schema follows it.
    fn field<'s>(&mut self, schema: &'s str) -> Result<&'s str, FrameError> {
        let (kind, rest) = schema.split_at(1);
        match kind {
            "1" => self.skip(1)?,
            "2" => self.skip(2)?,
            "4" => self.skip(4)?,
            "8" => self.skip(8)?,
            "u" => self.skip(16)?,
            "s" => self.bytes(2)?,
            "b" => self.bytes(4)?,
            "*" => {
                let (_, after) = rest.split_at(1);
                for _ in 0..self.count(min_size(&rest[..1], self.flexible))? {
                    self.field(rest)?;
                }
                return Ok(after);
            }
            "[" => {
                let (inner, after) = split_group(rest, '[', ']');
                for _ in 0..self.count(min_size(inner, self.flexible) + usize::from(self.flexible))? {
                    self.fields(inner)?;
                }
                return Ok(after);
            }
            "(" => {
                let (inner, after) = split_group(rest, '(', ')');
                self.fields(inner)?;
                return Ok(after);
            }
            _ => unreachable!("the schemas are written in this crate, and a test walks each of them"),
        }
        Ok(rest)
    }

    fn tagged_fields(&mut self, known: &str) -> Result<(), FrameError> {
        for _ in 0..self.varint()? {
            let tag = self.varint()?;
            let at = self.at;
            let size = self.varint()? as usize;
            let end = self.at.saturating_add(size);
            if end > self.frame.len() {
                return Err(FrameError::Count { at, count: size as i64, left: self.frame.len() - self.at });
            }
            match known_tag(known, tag) {
                Some(schema) => {
                    self.field(schema)?;
                    if self.at != end {
                        return Err(FrameError::Malformed { at });
                    }
                }
                None => self.at = end,
            }
        }
        Ok(())
    }

    /// The number of elements of an array, none for null.
    fn count(&mut self, element_bytes_min: usize) -> Result<usize, FrameError> {
        let at = self.at;
        let count = if self.flexible { i64::from(self.varint()?) - 1 } else { i64::from(self.int32()?) };
        let left = self.frame.len() - self.at;
        match usize::try_from(count) {
            Ok(count) if count <= left / element_bytes_min.max(1) => Ok(count),
            Err(_) if count == -1 => Ok(0),
            _ => Err(FrameError::Count { at, count, left }),
        }
    }

    /// A string (length of 2 bytes) or bytes (of 4), or null.
    fn bytes(&mut self, length_bytes: usize) -> Result<(), FrameError> {
        let at = self.at;
        let length = match (self.flexible, length_bytes) {
            (true, _) => i64::from(self.varint()?) - 1,
            (false, 2) => i64::from(self.int16()?),
            (false, _) => i64::from(self.int32()?),
        };
        let left = self.frame.len() - self.at;
        match usize::try_from(length) {
            Ok(length) if length <= left => self.skip(length),
            Err(_) if length == -1 => Ok(()),
            _ => Err(FrameError::Count { at, count: length, left }),
        }
    }

    fn varint(&mut self) -> Result<u32, FrameError> {
        let at = self.at;
        let mut value = 0u64;
        for shift in (0..35).step_by(7) {
            let byte = self.take::<1>()?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return u32::try_from(value).map_err(|_| FrameError::Malformed { at });
            }
        }
        Err(FrameError::Malformed { at })
    }

    fn int16(&mut self) -> Result<i16, FrameError> {
        self.take().map(i16::from_be_bytes)
    }

    fn int32(&mut self) -> Result<i32, FrameError> {
        self.take().map(i32::from_be_bytes)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        let bytes = self.frame[self.at..].first_chunk().ok_or(FrameError::CutOff { at: self.at })?;
        self.at += N;
        Ok(*bytes)
    }

    fn skip(&mut self, bytes: usize) -> Result<(), FrameError> {
        if self.frame.len() - self.at < bytes {
            return Err(FrameError::CutOff { at: self.at });
        }
        self.at += bytes;
        Ok(())
    }
}

/// What is inside a bracket that has just been opened, and what follows it.
fn split_group(schema: &str, open: char, close: char) -> (&str, &str) {
    let mut depth = 1;
    for (at, c) in schema.char_indices() {
        depth += i32::from(c == open) - i32::from(c == close);
        if depth == 0 {
            return (&schema[..at], &schema[at + 1..]);
        }
    }
    unreachable!("the schemas are written in this crate, and a test walks each of them")
}

/// The least bytes that the fields of `schema` take.
fn min_size(schema: &str, flexible: bool) -> usize {
    let mut bytes = 0;
    let mut depth = 0;
    let mut previous = ' ';
    for c in schema.chars() {
        match c {
            '<' => break,
            // An array may be empty, and a struct inside counts for nothing: a lower bound is enough.
            '[' | '(' => {
                bytes += if depth == 0 && c == '[' { if flexible { 1 } else { 4 } } else { 0 };
                depth += 1;
            }
            ']' | ')' => depth -= 1,
            _ if depth > 0 || previous == '*' => {}
            '*' => bytes += if flexible { 1 } else { 4 },
            '1' => bytes += 1,
            '2' => bytes += 2,
            '4' => bytes += 4,
            '8' => bytes += 8,
            'u' => bytes += 16,
            's' => bytes += if flexible { 1 } else { 2 },
            'b' => bytes += if flexible { 1 } else { 4 },
            _ => {}
        }
        previous = c;
    }
    bytes
}

/// The schema of a tagged field that the decoder knows.
fn known_tag(known: &str, tag: u32) -> Option<&str> {
    let mut rest = known;
    loop {
        let (number, after) = rest.split_once(':')?;
        if number.trim().parse() == Ok(tag) {
            return Some(after);
        }
        // Skips this tag's one field.
        rest = match after.chars().next()? {
            '[' => split_group(&after[1..], '[', ']').1,
            '(' => split_group(&after[1..], '(', ')').1,
            _ => &after[1..],
        };
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use bytes::{Bytes, BytesMut};
    use kafka_protocol::protocol::{Encodable, HeaderVersion, Request};
    use proptest::prelude::*;

    use super::*;
    use crate::{
        api::{Api, all_answers},
        connection::{CallError, decode},
    };

    /// One answer in one version, with its type left out.
    pub(crate) struct AnswerKind {
        name: &'static str,
        version: i16,
        schema: &'static str,
        flexible: bool,
        header_tags: bool,
        /// Decodes as a connection does, and encodes what came out.
        round_trip: fn(Bytes, i16) -> Result<Bytes, CallError>,
    }

    impl AnswerKind {
        pub(crate) fn of<R: Api>(version: i16, schema: &'static str) -> Self {
            Self {
                name: R::NAME,
                version,
                schema,
                flexible: <R as HeaderVersion>::header_version(version) >= 2,
                header_tags: <R::Response as HeaderVersion>::header_version(version) >= 1,
                round_trip: round_trip::<R>,
            }
        }

        fn read(&self, body: &[u8]) -> Result<Bytes, CallError> {
            let header: &[u8] = if self.header_tags { &[0] } else { &[] };
            (self.round_trip)(Bytes::from([header, body].concat()), self.version)
        }
    }

    fn round_trip<R: Api>(answer: Bytes, version: i16) -> Result<Bytes, CallError> {
        let decoded: <R as Request>::Response = decode::<R>(answer, version)?;
        let mut encoded = BytesMut::new();
        decoded.encode(&mut encoded, version).expect("what was decoded can be encoded");
        Ok(encoded.freeze())
    }

    /// Writes an answer by its schema: with everything populated, or with one length that is a lie.
    struct Writer {
        frame: Vec<u8>,
        flexible: bool,
        seed: u64,
        /// How many lengths are still honest; the one after them says 2^30.
        honest: Option<usize>,
        lied: bool,
    }

    impl Writer {
        fn populated(kind: &AnswerKind, seed: u64) -> Vec<u8> {
            let mut writer = Self { frame: Vec::new(), flexible: kind.flexible, seed, honest: None, lied: false };
            writer.fields(kind.schema);
            writer.frame
        }

        /// Ends where the lie is told, as a broken broker's answer of a few bytes would; none where there are fewer
        /// lengths.
        fn lying(kind: &AnswerKind, honest: usize) -> Option<Vec<u8>> {
            let mut writer =
                Self { frame: Vec::new(), flexible: kind.flexible, seed: 0, honest: Some(honest), lied: false };
            writer.fields(kind.schema);
            writer.lied.then_some(writer.frame)
        }

        fn random(&mut self, below: u64) -> u64 {
            self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.seed >> 33) % below
        }

        fn fields(&mut self, schema: &str) {
            let mut rest = schema.trim_start();
            let mut known = "";
            while !rest.is_empty() && !self.lied {
                if let Some(tagged) = rest.strip_prefix('<') {
                    known = tagged.trim_end_matches('>');
                    break;
                }
                rest = self.field(rest).trim_start();
            }
            if self.flexible && !self.lied {
                self.tagged(known);
            }
        }

        fn field<'s>(&mut self, schema: &'s str) -> &'s str {
            if self.lied {
                return "";
            }
            let (kind, rest) = schema.split_at(1);
            match kind {
                "1" => self.frame.push(1),
                "2" | "4" | "8" | "u" => {
                    let size = kind.parse().unwrap_or(16);
                    for _ in 0..size {
                        let byte = self.random(255) as u8 + 1;
                        self.frame.push(byte);
                    }
                }
                "s" | "b" => {
                    let length = self.random(200) as usize;
                    if self.length(length, if kind == "s" { 2 } else { 4 }) {
                        self.frame.extend(std::iter::repeat_n(b'x', length));
                    }
                }
                "*" => {
                    let count = self.random(3) as usize + 1;
                    for _ in 0..if self.length(count, 4) { count } else { 0 } {
                        self.field(rest);
                    }
                    return &rest[1..];
                }
                "[" | "(" => {
                    let (open, close) = if kind == "[" { ('[', ']') } else { ('(', ')') };
                    let (inner, after) = split_group(rest, open, close);
                    let count = if kind == "[" { self.random(3) as usize + 1 } else { 1 };
                    if kind == "(" || self.length(count, 4) {
                        (0..count).for_each(|_| self.fields(inner));
                    }
                    return after;
                }
                other => panic!("{other:?} in a schema"),
            }
            rest
        }

        /// Writes a length; false where it was the lie.
        fn length(&mut self, honest: usize, bytes: usize) -> bool {
            let lie = self.honest == Some(0) && (self.flexible || bytes == 4);
            if lie {
                self.lied = true;
            } else if let Some(left) = &mut self.honest {
                *left = left.saturating_sub(1);
            }
            let length = if lie { 1 << 30 } else { honest };
            match (self.flexible, bytes) {
                (true, _) => self.varint(length as u32 + 1),
                (false, 2) => self.frame.extend(i16::try_from(length).expect("short").to_be_bytes()),
                (false, _) => self.frame.extend((length as i32).to_be_bytes()),
            }
            !lie
        }

        /// All tagged fields that are known, and one that is not.
        fn tagged(&mut self, known: &str) {
            let mut fields = Vec::new();
            for tag in 0..4 {
                // A later version's field, of which this one has no part, is never sent.
                let Some(schema) = known_tag(known, tag).filter(|schema| !schema.starts_with("[]")) else { continue };
                let seed = self.random(u64::MAX);
                let mut inner = Self { frame: Vec::new(), flexible: true, seed, honest: None, lied: false };
                inner.field(schema);
                fields.push((tag, inner.frame));
            }
            fields.push((77, b"unknown".to_vec()));
            self.varint(fields.len() as u32);
            for (tag, bytes) in fields {
                self.varint(tag);
                self.varint(bytes.len() as u32);
                self.frame.extend(bytes);
            }
        }

        fn varint(&mut self, mut value: u32) {
            while value >= 0x80 {
                self.frame.push(value as u8 | 0x80);
                value >>= 7;
            }
            self.frame.push(value as u8);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// A schema that names other fields than the decoder reads would not bring the same bytes back.
        #[test]
        fn every_schema_names_exactly_what_the_decoder_reads(seed: u64) {
            for kind in all_answers() {
                let frame = Writer::populated(&kind, seed);
                prop_assert_eq!(check(&frame, kind.schema, kind.flexible), Ok(()), "{} {}", kind.name, kind.version);
                let back = kind.read(&frame).unwrap_or_else(|e| panic!("{} {}: {e:?}", kind.name, kind.version));
                prop_assert_eq!(&back[..], &frame[..], "{} {}", kind.name, kind.version);
            }
        }

        #[test]
        fn an_answer_that_is_cut_off_or_has_more_to_it_is_refused(seed: u64, cut: prop::sample::Index) {
            for kind in all_answers() {
                let mut frame = Writer::populated(&kind, seed);
                prop_assert!(check(&frame[..cut.index(frame.len())], kind.schema, kind.flexible).is_err());
                frame.push(0);
                prop_assert!(check(&frame, kind.schema, kind.flexible).is_err());
            }
        }

        /// Whatever it says, it ends in an answer or an error: no panic, and no allocation beyond the frame's measure.
        #[test]
        fn an_answer_with_any_bytes_changed_harms_nobody(seed: u64, changes: Vec<(prop::sample::Index, u8)>) {
            for kind in all_answers() {
                let mut frame = Writer::populated(&kind, seed);
                for (at, byte) in &changes {
                    let at = at.index(frame.len());
                    frame[at] = *byte;
                }
                let _ = kind.read(&frame);
            }
        }
    }

    #[test]
    fn a_count_of_a_billion_is_refused_wherever_it_stands() {
        let mut refused = 0;
        for kind in all_answers() {
            for honest in 0.. {
                let Some(mut frame) = Writer::lying(&kind, honest) else { break };
                // A few bytes more, as in a frame of 16: far from what is counted.
                frame.resize(frame.len().max(16), 0);
                let answer = kind.read(&frame);
                assert!(
                    matches!(answer, Err(CallError::NotUnderstood(_))),
                    "{} {}: {answer:?}",
                    kind.name,
                    kind.version
                );
                refused += 1;
            }
        }
        assert!(refused > 70, "only {refused} places");
    }

    #[test]
    fn a_tagged_field_of_another_size_than_it_says_is_refused() {
        // The decoder would read a known field by its own measure and be out of step with what was checked.
        let schema = "2 <0:(4 8)>";
        let frame = |size: u8| [&[0, 0, 1, 0, size][..], &[0; 14]].concat();
        assert!(matches!(check(&frame(14), schema, true), Err(FrameError::Malformed { .. })));
        assert_eq!(check(&[&[0, 0, 1, 0, 13][..], &[0; 13]].concat(), schema, true), Ok(()));
    }
}
