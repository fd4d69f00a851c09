//! What every request to the engine shares, on whichever protocol: the GPU, the counts, the dice and the key. Decides who
//! may ask.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use http::StatusCode;
use http::header::HeaderValue;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::choices::{OnClear, OnDuplicateStart};
use super::counts::{Protocol, Witness};
use super::faults::{Dice, Fate};
use super::request::{Style, Voice};
use super::speech::Speech;
use super::worker::Worker;

/// What every request shares.
#[derive(Debug)]
pub(super) struct Surface {
    pub(super) profile: String,
    pub(super) worker: Worker,
    pub(super) witness: Witness,
    pub(super) dice: Mutex<Dice>,
    pub(super) refuse: Option<StatusCode>,
    pub(super) style: Style,
    pub(super) early_head: bool,
    pub(super) api_key: Option<String>,
    pub(super) capacity: u32,
    pub(super) on_clear: OnClear,
    pub(super) on_duplicate_start: OnDuplicateStart,
    pub(super) done_after_error: bool,
    /// Requests that the engine has given a name.
    pub(super) requests: AtomicU64,
    /// Sockets live apart from the connection that they were asked for on.
    pub(super) tasks: TaskTracker,
    pub(super) graceful: CancellationToken,
    pub(super) kill: CancellationToken,
}

impl Surface {
    /// Takes in a synthesis whose text is still to come. It occupies the engine from now on.
    pub(super) fn open(&self, voice: Voice, protocol: Protocol) -> Speech {
        let fate = self.throw();
        Speech::open(voice, &self.worker, self.witness.synthesis(protocol), fate)
    }

    pub(super) fn throw(&self) -> Fate {
        self.dice.lock().unwrap_or_else(PoisonError::into_inner).throw()
    }

    /// Names a request.
    pub(super) fn next_request_id(&self) -> String {
        format!("sim-{:08x}", self.requests.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// `Authorization: Bearer KEY` or `Api-Key KEY`, when the engine was given a key.
    pub(super) fn authenticate(&self, header: Option<&HeaderValue>) -> Result<(), &'static str> {
        match header {
            Some(value) => self.check_key(value.to_str().unwrap_or("")),
            None if self.api_key.is_none() => Ok(()),
            None => Err("missing headers"),
        }
    }

    /// The same, of the value alone.
    pub(super) fn check_key(&self, given: &str) -> Result<(), &'static str> {
        let Some(key) = &self.api_key else { return Ok(()) };
        let given = given.strip_prefix("Bearer ").or_else(|| given.strip_prefix("Api-Key "));
        match given.map(str::trim) {
            Some("") => Err("empty apikey"),
            Some(given) if given == key => Ok(()),
            _ => Err("invalid api key"),
        }
    }
}
