//! What somebody has to look at while clients switch, as sentences.

use krossing_core::{GroupId, codes::STRAGGLERS};

use crate::LeftBehind;

/// A group that works on both sides.
pub fn on_both(group: &GroupId) -> String {
    format!(
        "group {group} has switched to the target and has members on the source again: what they read is processed twice; \
         stop them"
    )
}

/// Records that were left behind, in one sentence; none where there are none. `stragglers` is the command that decides
/// about them.
pub fn left_behind(found: &[LeftBehind], stragglers: &str) -> Option<String> {
    let (LeftBehind { partition, record }, more) = found.split_first()?;
    let more = match more.len() {
        0 => String::new(),
        more => format!(", and others of {more} more partition(s)"),
    };
    Some(format!(
        "{STRAGGLERS}: a record reached the source's {partition} at offset {}, behind where it was closed{}{more}: a \
         producer was left behind, and what it writes there is not on the target; stop it or switch it to the target, look \
         at the records with {stragglers}, then decide: `--append` adds them at the target's end, once, `--leave` leaves \
         them out",
        record.offset,
        record.by(),
    ))
}

#[cfg(test)]
mod tests {
    use krossing_core::{TopicPartition, stragglers::StrayRecord};

    use super::*;

    #[test]
    fn records_left_behind_are_one_sentence_with_the_whole_command() {
        let left = |partition| LeftBehind {
            partition: TopicPartition::new("t", partition),
            record: StrayRecord { offset: 7, producer: None },
        };
        assert_eq!(left_behind(&[], "krossing"), None);
        let said = left_behind(&[left(0), left(1)], "krossing stragglers --config m.yaml").unwrap_or_default();
        for expected in
            ["B48: a record reached the source's t-0 at offset 7", "1 more", "krossing stragglers --config m.yaml"]
        {
            assert!(said.contains(expected), "{expected} is missing in {said}");
        }
    }
}
