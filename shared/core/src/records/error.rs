//! What is wrong with a batch, and where.

use crate::{error::ErrorClass, types::Offset};

/// A batch or a record of it that cannot be copied exactly.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("record batch at offset {offset}: {problem}")]
pub struct RecordError {
    /// The first offset of the batch, as it claims it.
    pub offset: Offset,
    /// What is wrong with it.
    pub problem: RecordProblem,
}

/// What is wrong with a batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordProblem {
    /// A message format that Kafka 4 no longer takes.
    #[error("message format {magic}, where only 2 can be copied exactly (a topic from before Kafka 0.11)")]
    Format {
        /// The format it names.
        magic: i8,
    },
    /// The bytes are not those that were written.
    #[error("its checksum is {computed:08x} where its header says {written:08x}: the bytes have been damaged")]
    Checksum {
        /// What the header says.
        written: u32,
        /// What the bytes give.
        computed: u32,
    },
    /// A header that contradicts itself.
    #[error("its header is not valid ({detail})")]
    Header {
        /// In what.
        detail: String,
    },
    /// Compressed bytes that cannot be decompressed.
    #[error("its {codec} data cannot be decompressed ({detail})")]
    Decompress {
        /// The codec.
        codec: super::Codec,
        /// What the decompressor said.
        detail: String,
    },
    /// Records that could not be compressed again.
    #[error("its records cannot be compressed with {codec} ({detail})")]
    Compress {
        /// The codec.
        codec: super::Codec,
        /// What the compressor said.
        detail: String,
    },
    /// More than one batch may decompress to.
    #[error("it decompresses to more than {bytes_max} bytes")]
    TooLarge {
        /// The limit.
        bytes_max: usize,
    },
    /// Records that do not fit their batch.
    #[error("its record number {index} is not valid ({detail})")]
    Record {
        /// Which record of the batch, from 0.
        index: u32,
        /// In what.
        detail: String,
    },
    /// A transaction's marker where only data may be: it would become a record that nobody wrote.
    #[error("it is a control batch, which must never be copied as data")]
    ControlAsData,
}

impl RecordError {
    /// What an orchestrator may do about it.
    pub fn class(&self) -> ErrorClass {
        ErrorClass::DataAtRisk
    }
}
