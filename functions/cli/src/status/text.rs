//! A status, told to people.

use std::{fmt, time::Duration};

use krossing_core::{Side, transition::State};

use super::{DeadCutover, GroupsStatus, LastCutover, Status, Unreachable};
use crate::show;

/// How many partitions, or causes, are listed; the rest is counted.
const LINES_SHOWN: usize = 20;

impl Status {
    /// The state, what it means here, and how it came to that.
    fn standing(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ago = Duration::from_millis(u64::try_from(self.at_unix_ms - self.since_unix_ms).unwrap_or(0));
        let since = show::time(self.since_unix_ms);
        writeln!(f, "state: {} since {since} ({} ago)", self.state, show::duration(ago))?;
        match &self.dead_cutover {
            None => writeln!(f, "  {}", self.meaning)?,
            Some(dead) => self.dead_cutover(f, dead)?,
        }
        match (&self.failed, &self.last_cutover) {
            (Some((state, reason)), _) => writeln!(f, "  {state} failed: {reason}")?,
            // Said below, with its time.
            (None, Some(last)) if last.reason == self.reason => {}
            (None, _) if self.reason.is_empty() => {}
            (None, _) => writeln!(f, "  {}", self.reason)?,
        }
        if let Some(LastCutover { at_unix_ms, reason }) = &self.last_cutover {
            writeln!(f, "  the last cutover ended without READY at {}: {reason}", show::time(*at_unix_ms))?;
        }
        Ok(())
    }

    fn dead_cutover(&self, f: &mut fmt::Formatter<'_>, dead: &DeadCutover) -> fmt::Result {
        match &dead.silent {
            None => writeln!(f, "  THE CUTOVER WAS BEGUN AND NOBODY DRIVES IT: its process is dead")?,
            Some(who) => {
                writeln!(f, "  THE CUTOVER WAS BEGUN AND ITS PROCESS IS SILENT OR DEAD ({who} holds the lock)")?;
            }
        }
        match (dead.standstill_since_unix_ms, &self.next_command) {
            (Some(since), Some(resume)) => writeln!(
                f,
                "  producers may stand still since {} UTC: run `{resume}` NOW, it lets producers go on",
                show::clock_time(since)
            ),
            (Some(since), None) => writeln!(
                f,
                "  producers may stand still since {} UTC: have them go on by hand NOW",
                show::clock_time(since)
            ),
            (None, Some(resume)) => {
                writeln!(f, "  producers were not asked to stand still, or go on: `{resume}` takes it back")
            }
            (None, None) => writeln!(f, "  producers were not asked to stand still, or go on"),
        }
    }

    fn owners(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.driven_by, &self.stack) {
            (Some(who), None) => writeln!(
                f,
                "at work: {who}; other commands than status and client-switch are refused until it has ended"
            )?,
            (Some(who), Some(_)) => writeln!(f, "at work: {who}: wait until it asks, or has ended")?,
            (None, _) => {}
        }
        if let Some(stack) = &self.stack {
            write!(f, "{stack}")?;
        }
        for lane in &self.lanes {
            let by = lane.owner.as_ref().map_or_else(String::new, |owner| format!(" ({owner})"));
            writeln!(f, "{}: {} partitions, {}{by}", lane.lane, lane.partitions, lane.status)?;
        }
        let copying = matches!(self.state, State::Seed | State::Tail | State::DrainReady);
        if copying && !self.tailing && self.driven_by.is_none() {
            writeln!(f, "nothing is copying: what producers write meanwhile is only on the source")?;
        }
        Ok(())
    }

    fn figures(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "partitions={} seeded={} records={} bytes={} of {}",
            self.partitions,
            self.partitions_seeded,
            self.records_copied,
            show::bytes(self.bytes_copied),
            show::bytes(self.bytes_planned)
        )?;
        for Unreachable { cluster, why } in &self.unreachable {
            let unknown = match (cluster, self.groups.carried_over) {
                (Side::Source, None) => ", so that the lag is not known",
                (Side::Source, Some(_)) => ", so that it is not known whether a producer was left behind",
                (Side::Target, _) => "",
            };
            writeln!(f, "the {cluster} could not be reached{unknown}: {why}")?;
        }
        if let (Some(total), Some(max)) = (self.lag_records_total, self.lag_records_max) {
            writeln!(f, "lag={total} max_partition_lag={max}")?;
        }
        let lag = self.lag.iter().flatten().map(|lag| format!("{}: {}", lag.partition, lag.records));
        let causes = self.stack.iter().flat_map(|stack| stack.causes().iter().cloned());
        let behind: Vec<_> = lag.chain(causes).collect();
        for line in behind.iter().take(LINES_SHOWN) {
            writeln!(f, "  {line}")?;
        }
        if behind.len() > LINES_SHOWN {
            writeln!(f, "  and {} more", behind.len() - LINES_SHOWN)?;
        }
        for line in self.lag_unknown.iter().chain(&self.gaps).chain(self.open_transactions.iter().flatten()) {
            writeln!(f, "  {line}")?;
        }
        for line in &self.not_looked_behind {
            writeln!(f, "  {line}: whether a producer was left behind is not known")?;
        }
        if self.stack.is_some() && self.groups.carried_over.is_some() && !self.has_ended() {
            writeln!(f, "whether a producer was left behind is not known: neither cluster is asked from here")?;
        }
        Ok(())
    }

    fn groups(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let GroupsStatus { planned, carried_over, switched, not_switched } = &self.groups;
        let Some(carried_over) = carried_over else { return writeln!(f, "groups={planned}") };
        let without = show::groups_without_positions(*planned, *carried_over);
        writeln!(f, "groups carried over={carried_over}{without} switched={}", switched.len())?;
        if !not_switched.is_empty() {
            writeln!(f, "not switched: {}", not_switched.join(", "))?;
        }
        Ok(())
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "migration_id: {}", self.migration_id)?;
        self.standing(f)?;
        self.owners(f)?;
        self.figures(f)?;
        self.groups(f)?;
        for step in &self.steps {
            writeln!(f, "{step}")?;
        }
        match (&self.next_command, &self.stuck) {
            (Some(command), _) => writeln!(f, "next_command: {command}"),
            (None, Some(why)) => writeln!(f, "next: {why}"),
            (None, None) => Ok(()),
        }
    }
}
