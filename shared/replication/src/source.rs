//! Reading a source partition, and what it means when the source says that something is not as it was.

use std::time::Duration;

use krossing_core::{
    KafkaCode, LeaderEpoch, SourceOffset, TopicPartition,
    ports::{Clock, Fetched, Inventory, LogEnd, LogReader},
    progress::Gap,
};

use crate::{
    append::{PartitionCopy, SharedCopy},
    context::{LaneContext, LanePartition, LanePlan, LanePorts, Notice},
    error::{LaneError, SessionEnd, cluster_failed},
};

/// Pause after an answer that passes with time: a leader is being elected, a broker starts.
pub(crate) const SOURCE_PAUSE: Duration = Duration::from_millis(200);

/// What to do after a Fetch of one partition.
#[derive(Debug)]
pub(crate) enum Next {
    /// It was read.
    Take(Fetched),
    /// Pause, ask for the leader again, and read again.
    Again,
    /// Read on at this offset: what lies before it was gone before it was read, or the epoch is not to be compared.
    ReadFrom(SourceOffset),
}

/// Judges the answer for one partition that was asked for from `asked` on, compared with `epoch`.
pub(crate) async fn judge<P: LanePorts>(
    ctx: &LaneContext<P>,
    lane: &LanePlan,
    planned: &LanePartition,
    asked: SourceOffset,
    answer: Result<Fetched, KafkaCode>,
) -> Result<Next, SessionEnd> {
    let partition = &planned.partition;
    match answer {
        Ok(Fetched { diverging: Some(diverging), .. }) => Err(LaneError::RecordsReplaced {
            partition: partition.clone(),
            // At least the last one copied, also where the log that took our records' place is longer.
            from: SourceOffset(diverging.end.min(asked.0 - 1)),
            to: asked,
        }
        .into()),
        Ok(fetched) => Ok(Next::Take(fetched)),
        Err(KafkaCode::OFFSET_OUT_OF_RANGE) => out_of_range(ctx, lane, partition, asked).await,
        Err(KafkaCode::UNKNOWN_TOPIC_OR_PARTITION | KafkaCode::UNKNOWN_TOPIC_ID | KafkaCode::INCONSISTENT_TOPIC_ID) => {
            confirm_identity(ctx, lane, planned).await?;
            Ok(Next::Again)
        }
        Err(code @ (KafkaCode::TOPIC_AUTHORIZATION_FAILED | KafkaCode::CORRUPT_MESSAGE)) => {
            Err(LaneError::SourceRefused { partition: partition.clone(), offset: asked, code }.into())
        }
        Err(code) => {
            tracing::debug!(%partition, %code, "the source cannot be read now");
            Ok(Next::Again)
        }
    }
}

/// The offset is not in the log: trimmed before we came, or cut off behind us.
async fn out_of_range<P: LanePorts>(
    ctx: &LaneContext<P>,
    lane: &LanePlan,
    partition: &TopicPartition,
    asked: SourceOffset,
) -> Result<Next, SessionEnd> {
    let ends = |answer: Result<krossing_core::ports::PerPartition<i64>, _>| {
        answer
            .map_err(|error| cluster_failed(lane.id, error))
            .map(|ends: krossing_core::ports::PerPartition<i64>| ends.get(partition).cloned().and_then(Result::ok))
    };
    let partitions = [partition.clone()];
    let earliest = ends(ctx.source.log_ends(&partitions, LogEnd::Earliest).await)?;
    let latest = ends(ctx.source.log_ends(&partitions, LogEnd::Latest).await)?;
    match (earliest, latest) {
        (Some(earliest), _) if asked.0 < earliest => Ok(Next::ReadFrom(SourceOffset(earliest))),
        (_, Some(latest)) if asked.0 > latest => {
            Err(LaneError::RecordsReplaced { partition: partition.clone(), from: SourceOffset(latest), to: asked }
                .into())
        }
        // In range: the log has forgotten the epoch that we compared with.
        (Some(_), Some(_)) => Ok(Next::ReadFrom(asked)),
        (None, _) | (_, None) => Ok(Next::Again),
    }
}

/// A topic that is gone, or is another one under the same name, ends the copy.
async fn confirm_identity<P: LanePorts>(
    ctx: &LaneContext<P>,
    lane: &LanePlan,
    planned: &LanePartition,
) -> Result<(), SessionEnd> {
    let partition = &planned.partition;
    let topics = ctx
        .source
        .describe_topics(Some(std::slice::from_ref(&partition.topic)))
        .await
        .map_err(|error| cluster_failed(lane.id, error))?;
    let gone = |recreated| LaneError::TopicGone { partition: partition.clone(), recreated };
    let topic = topics.first().ok_or_else(|| gone(false))?;
    if planned.topic_id.is_some() && topic.id != planned.topic_id {
        return Err(gone(true).into());
    }
    if topic.partitions.iter().all(|described| described.id != partition.partition) {
        return Err(gone(true).into());
    }
    Ok(())
}

/// Records a range that was gone before it was read, and what to compare the next Fetch with.
pub(crate) fn skip_gap<P: LanePorts>(
    ctx: &LaneContext<P>,
    copy: &SharedCopy,
    from: SourceOffset,
    to: SourceOffset,
) -> Option<LeaderEpoch> {
    if to > from {
        let noticed_unix_ms = ctx.clock.unix_ms();
        let partition = PartitionCopy::with(copy, |copy| {
            // Noticed before, by a session that did not get to write down that it had passed it.
            copy.progress.gaps.retain(|gap| gap.to <= from);
            copy.progress.gaps.push(Gap { from, to, noticed_unix_ms });
            copy.progress.partition.clone()
        });
        ctx.shared.notice(Notice::Gap { partition, from, to });
    }
    None
}
