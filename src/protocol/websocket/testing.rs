//! The bench on which a session is tried: says what the caller and the engine say, and hands back what the session
//! wants. Judges nothing.

use std::time::{Duration, Instant};

use super::{Action, Dialect, Encoding, Ended, Message, Run, Session, Settings};
use crate::refusal::Reason;

/// One socket under test, and what it wanted since it was last asked.
pub(super) struct Bench {
    pub(super) session: Session,
    pub(super) now: Instant,
    pub(super) out: Vec<Action>,
}

impl Bench {
    /// A v1 socket.
    pub(super) fn v1(encoding: Encoding, settings: Settings) -> Self {
        Self::with(Session::v1(encoding, settings))
    }

    /// A legacy JSON socket that asked for PCM at 1 kHz.
    pub(super) fn json(path: &str, segment: &str) -> Self {
        let query = format!("audioFormat=pcm&samplingRate=1000&segment={segment}");
        Self::with(Session::json(Dialect::of(path, Some(&query)), Settings::default()))
    }

    /// A legacy binary socket that asked for PCM at 1 kHz.
    pub(super) fn binary(settings: Settings) -> Self {
        let dialect = Dialect::of("/ws", Some("audioFormat=pcm&samplingRate=1000"));
        Self::with(Session::binary(dialect, settings))
    }

    fn with(session: Session) -> Self {
        #[allow(clippy::disallowed_methods, reason = "an origin is needed; only differences are looked at")]
        let now = Instant::now();
        Self { session, now, out: Vec::new() }
    }

    pub(super) fn after(&mut self, millis: u64) -> &mut Self {
        self.now += Duration::from_millis(millis);
        self.session.tick(self.now, &mut self.out);
        self
    }

    pub(super) fn caller(&mut self, message: &str) -> Vec<Action> {
        self.session.caller_said(self.now, text(message), &mut self.out);
        self.wants()
    }

    pub(super) fn engine(&mut self, message: &str) -> Vec<Action> {
        self.session.engine_said(self.now, text(message), &mut self.out);
        self.wants()
    }

    /// The engine sends so many bytes, bare.
    pub(super) fn sound(&mut self, bytes: usize) -> Vec<Action> {
        self.session.engine_said(self.now, Message::Binary(vec![0; bytes].into()), &mut self.out);
        self.wants()
    }

    pub(super) fn grant(&mut self, run: Run) -> Vec<Action> {
        self.session.granted(self.now, run, &mut self.out);
        self.wants()
    }

    pub(super) fn refuse(&mut self, run: Run, reason: Reason) -> Vec<Action> {
        self.session.refused(self.now, run, reason, &mut self.out);
        self.wants()
    }

    pub(super) fn wants(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.out)
    }
}

pub(super) fn text(text: &str) -> Message {
    Message::Text(text.to_owned().into())
}

/// The run that asks, where that is all that is wanted.
pub(super) fn asked(actions: &[Action]) -> Run {
    match actions {
        [Action::Ask(run)] => *run,
        other => panic!("{other:?}"),
    }
}

pub(super) fn ended(actions: &[Action]) -> Vec<&Ended> {
    let ends = actions.iter().filter_map(|action| match action {
        Action::Ended(ended) => Some(&**ended),
        _ => None,
    });
    ends.collect()
}

pub(super) fn to_caller(actions: &[Action]) -> Vec<String> {
    messages(actions, |action| match action {
        Action::ToCaller(message) => Some(message),
        _ => None,
    })
}

pub(super) fn to_engine(actions: &[Action]) -> Vec<String> {
    messages(actions, |action| match action {
        Action::ToEngine(message) => Some(message),
        _ => None,
    })
}

fn messages(actions: &[Action], of: impl Fn(&Action) -> Option<&Message>) -> Vec<String> {
    let messages = actions.iter().filter_map(of);
    messages.map(|message| String::from_utf8_lossy(message.bytes()).into_owned()).collect()
}
