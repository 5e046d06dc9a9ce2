//! Why a turn failed, as the definition catches it: the name of a class, and a sentence.

use std::error::Error;

use krossing_client_switch::SwitchError;
use krossing_core::{
    ErrorClass,
    ports::{ClusterError, StoreError},
};
use krossing_cutover::CutoverError;
use krossing_drive::chain;
use krossing_finalize::FinalizeError;
use krossing_replication::LaneError;
use krossing_runtime::MigrationError;
use krossing_worker::WorkerError;
use lambda_runtime::Diagnostic;

/// Why, for the workflow and for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What may be done about it.
    pub class: ErrorClass,
    /// The whole chain of causes.
    pub sentence: String,
}

impl Failure {
    /// Somebody has to put something right first.
    pub fn refused_with(sentence: String) -> Self {
        Self { class: ErrorClass::Refused, sentence }
    }

    /// As `refused_with`, of an error and its causes.
    pub fn refused(error: &(dyn Error + 'static)) -> Self {
        Self::refused_with(chain(error))
    }

    /// Another execution or command has the migration.
    pub fn fenced(sentence: String) -> Self {
        Self { class: ErrorClass::Fenced, sentence }
    }

    /// The next try may succeed.
    pub fn retryable(sentence: String) -> Self {
        Self { class: ErrorClass::Retryable, sentence }
    }
}

/// A sentence may name every partition; what carries it (a Lambda's error, an event, a message) is limited.
const SENTENCE_BYTES_MAX: usize = 8 * 1024;

/// A text, or its beginning.
pub(crate) fn cut(mut text: String, bytes_max: usize) -> String {
    if text.len() > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max));
        text.push('…');
    }
    text
}

/// The class of the outermost error that has one. A rule that said no has none: there is something to put right.
fn class_of(error: &(dyn Error + 'static)) -> ErrorClass {
    let mut next = Some(error);
    while let Some(error) = next {
        let class = (error.downcast_ref::<MigrationError>().map(MigrationError::class))
            .or_else(|| error.downcast_ref::<CutoverError>().map(CutoverError::class))
            .or_else(|| error.downcast_ref::<WorkerError>().map(WorkerError::class))
            .or_else(|| error.downcast_ref::<LaneError>().map(LaneError::class))
            .or_else(|| error.downcast_ref::<SwitchError>().map(SwitchError::class))
            .or_else(|| error.downcast_ref::<FinalizeError>().map(FinalizeError::class))
            .or_else(|| error.downcast_ref::<ClusterError>().map(ClusterError::class))
            .or_else(|| error.downcast_ref::<StoreError>().map(StoreError::class));
        if let Some(class) = class {
            return class;
        }
        next = error.source();
    }
    ErrorClass::Refused
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        let error: &(dyn Error + 'static) = error.as_ref();
        Self { class: class_of(error), sentence: cut(chain(error), SENTENCE_BYTES_MAX) }
    }
}

impl From<MigrationError> for Failure {
    fn from(error: MigrationError) -> Self {
        anyhow::Error::new(error).into()
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        anyhow::Error::new(error).into()
    }
}

impl From<Failure> for Diagnostic {
    fn from(failure: Failure) -> Self {
        Self { error_type: failure.class.name().to_owned(), error_message: failure.sentence }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_class_is_found_below_what_was_said_around_it() {
        let conflict = StoreError::Conflict { attempt: "write".to_owned() };
        let error = anyhow::Error::new(MigrationError::Store { attempt: "write the journal", source: conflict });
        let failure = Failure::from(error.context("the cutover has not ended"));
        assert_eq!(failure.class, ErrorClass::Fenced);
        assert!(failure.sentence.starts_with("the cutover has not ended: could not write the journal"), "{failure:?}");
        let diagnostic = Diagnostic::from(failure);
        assert_eq!(diagnostic.error_type, "Krossing.Fenced");
    }

    #[test]
    fn a_rule_that_says_no_is_for_somebody_to_put_right() {
        assert_eq!(Failure::from(anyhow::anyhow!("precheck found 2 blockers")).class, ErrorClass::Refused);
    }
}
