//! The legacy sockets' subtleties, one promise each. What holds in every order of events is in [`super::model`].

mod bare;
mod clearing;
mod refusals;
mod turns;

use std::time::Duration;

use super::super::testing::{Bench, asked, ended, text, to_caller, to_engine};
use super::*;

fn ws3(segment: &str) -> Bench {
    Bench::json("/ws3", segment)
}

impl Bench {
    /// A run that sounds.
    fn sounding(&mut self) -> Run {
        let run = asked(&self.caller(HELLO));
        self.grant(run);
        self.engine(CHUNK);
        run
    }

    /// A run, and the whole text of another behind it.
    fn with_another_behind(&mut self) -> Run {
        self.caller(HELLO);
        let run = asked(&self.caller(FLUSH));
        self.grant(run);
        self.caller(HELLO);
        self.caller(FLUSH);
        run
    }
}

const HELLO: &str = r#"{"text":"Hello there. ","contextId":"a"}"#;
const PART: &str = r#"{"text":"and then","contextId":"a"}"#;
const FLUSH: &str = r#"{"operation":"flush"}"#;
const CLEAR: &str = r#"{"operation":"clear"}"#;
const EOS: &str = r#"{"operation":"eos"}"#;
const CHUNK: &str = r#"{"type":"chunk","contextId":"a","data":"AAAAAAAA"}"#;
const DONE: &str = r#"{"type":"done","contextId":"a"}"#;
const REFUSED: [&str; 2] = [
    r#"{"contextId":"a","message":"Currently at synthesis limit, queue full","type":"error"}"#,
    r#"{"contextId":"a","type":"done"}"#,
];
