//! The protocol's subtleties, one promise each. What holds in every order of events is in [`super::model`].

mod admission;
mod endings;
mod reading;

use std::time::Duration;

use super::super::testing::{Bench, asked, ended, text, to_caller, to_engine};
use super::*;

fn bench() -> Bench {
    Bench::v1(Encoding::Json, Settings::default())
}

impl Bench {
    /// A context that is running and `started`.
    fn speaking(&mut self, context: &str) -> Run {
        let run = asked(&self.caller(&start(context)));
        self.grant(run);
        self.engine(&format!(r#"{{"contextId":"{context}","started":{{"requestId":"r"}}}}"#));
        run
    }
}

fn start(context: &str) -> String {
    format!(
        r#"{{"contextId":"{context}","start":{{"audioParameters":{{"audioFormat":"audio/pcm","samplingRate":1000}}}}}}"#
    )
}

const TEXT_A: &str = r#"{"contextId":"a","text":"Hello."}"#;
const END_A: &str = r#"{"contextId":"a","end":{}}"#;
const CANCEL_A: &str = r#"{"contextId":"a","cancel":{}}"#;
const DONE_A: &str = r#"{"contextId":"a","done":{}}"#;
const CANCELLED_A: &str = r#"{"contextId":"a","cancelled":{}}"#;
/// 500 ms of silence at 1 kHz: 1000 bytes.
fn audio_a() -> String {
    format!(r#"{{"contextId":"a","audio":"{}"}}"#, "AAAA".repeat(333) + "AA==")
}
