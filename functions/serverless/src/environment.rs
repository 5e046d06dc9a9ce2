//! What a process is given by the stack: its configuration in `KROSSING_CONFIG`, the bus in `KROSSING_EVENT_BUS`.

use krossing_core::{MigrationId, config::Config, config::FreezeConfig, journal::Actor};
use krossing_drive::chain;
use krossing_runtime::{
    FreezeBy, GateFreeze, Migration,
    aws::{Aws, EventBus, Workflow},
    connect::{
        ConfigError, ConnectError, LedgerPlace, NamedSecrets, Real, config_from_environment, connect,
        connect_to_ledger, variable,
    },
};

use crate::Failure;

/// The bus where none is named.
const DEFAULT_BUS: &str = "default";

/// Everything a process of the stack works with, beside a migration.
#[derive(Debug)]
pub struct Environment {
    /// What the operator has set.
    pub config: Config,
    /// Who we are on AWS.
    pub aws: Aws,
    /// Executions and task tokens.
    pub workflow: Workflow,
    /// Where events go.
    pub bus: EventBus,
}

impl Environment {
    /// Reads it. Whatever is wrong is for whoever deployed the stack to put right.
    pub async fn read(secrets: NamedSecrets) -> Result<Self, Failure> {
        let config = config_from_environment(secrets).await.map_err(|error| match &error {
            // Secrets that nobody gave out for now: the configuration may be right as it is.
            ConfigError::Problems { problems, .. } if problems.iter().all(|problem| problem.passing) => {
                Failure::retryable(chain(&error))
            }
            _ => Failure::refused(&error),
        })?;
        if config.ledger.dynamodb_table.is_none() {
            return Err(Failure::refused_with(
                "KROSSING_CONFIG: ledger.dynamodb_table is missing: a process that does not stay keeps no journal"
                    .into(),
            ));
        }
        let aws = Aws::load(config.aws.region.as_deref()).await;
        let bus = variable("KROSSING_EVENT_BUS").unwrap_or_else(|| DEFAULT_BUS.to_owned());
        Ok(Self { workflow: Workflow::new(&aws), bus: EventBus::new(&aws, &bus), aws, config })
    }

    /// Where the migration's journal is.
    pub fn place(&self, id: &MigrationId) -> Result<LedgerPlace, Failure> {
        LedgerPlace::of(&self.config, None, id).map_err(|error| Failure::refused(&error))
    }

    /// A migration that neither cluster is asked about.
    pub(crate) async fn ledger(&self, id: MigrationId, by: Actor) -> Result<Migration<Real>, Failure> {
        let place = self.place(&id)?;
        let connected = connect_to_ledger(self.config.clone(), id, &place).await;
        let migration = connected.map_err(|error| Failure::refused(&error))?;
        Ok(Migration { by, ..migration })
    }

    /// A migration, on whose journal is written that it was done for `by`.
    pub async fn migration(&self, id: MigrationId, by: Actor) -> Result<Migration<Real>, Failure> {
        let place = self.place(&id)?;
        let connected = connect(self.config.clone(), id, &place).await;
        let mut migration = connected.map_err(|error| match error {
            // MSK may only be busy; where we lack a right, a few tries do no harm.
            ConnectError::Brokers { may_pass: true, .. } => Failure::retryable(chain(&error)),
            error => Failure::refused(&error),
        })?;
        migration.by = by;
        migration.role_per_phase = true;
        if self.config.cutover.freeze == FreezeConfig::Confirmation {
            migration.ports.freeze = FreezeBy::Gate(GateFreeze::default()).into();
        }
        Ok(migration)
    }
}
