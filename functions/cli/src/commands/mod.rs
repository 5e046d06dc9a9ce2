//! The commands, one a file.

pub(crate) mod client_switch;
pub(crate) mod cutover;
pub(crate) mod cutover_ack;
pub(crate) mod evidence;
pub(crate) mod execute;
pub(crate) mod finalize;
pub(crate) mod plan;
pub(crate) mod precheck;
pub(crate) mod resume;
pub(crate) mod rollback;
pub(crate) mod status;
pub(crate) mod stragglers;
