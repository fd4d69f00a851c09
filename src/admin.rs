//! What an operator sees and may change: metrics and probes for machines, status and the limit for people. Knows
//! the gate's state, none of its traffic.

mod control;
mod http;

pub use control::{Control, EngineStatus, InFlightStatus, StandingStatus, Status, WindowStatus};
pub use http::{Access, service};
