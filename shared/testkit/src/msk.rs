//! MSK's API without MSK: it tells what a test has it tell.

use std::sync::{Arc, Mutex, PoisonError};

use krossing_core::{
    Side,
    ports::{Msk, MskResult},
};

/// What it tells of the source and of the target; nothing where nothing was set. Clones share it.
#[derive(Debug, Clone)]
pub struct FakeMsk(Arc<Mutex<[MskResult; 2]>>);

impl Default for FakeMsk {
    fn default() -> Self {
        Self(Arc::new(Mutex::new([Ok(None), Ok(None)])))
    }
}

impl FakeMsk {
    /// From now on tells this of a cluster.
    pub fn set(&self, side: Side, told: MskResult) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[place(side)] = told;
    }
}

fn place(side: Side) -> usize {
    match side {
        Side::Source => 0,
        Side::Target => 1,
    }
}

impl Msk for FakeMsk {
    async fn describe(&self, side: Side) -> MskResult {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[place(side)].clone()
    }
}
