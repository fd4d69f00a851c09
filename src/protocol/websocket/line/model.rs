//! What holds for a legacy JSON socket in every order of events, against a model of the engine that is true to what
//! Rime documents, and takes each way of answering `clear` that the documents leave open.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::Session as AnySession;
use super::*;

/// What the engine does at a `clear` while it speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OnClear {
    StopsAndTells,
    Stops,
    GoesOn,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Say(&'static str),
    Flush,
    Clear,
    Eos,
    Grant,
    Refuse,
    /// The engine ends the piece it speaks, and goes on to the next or says `done`.
    Finish,
    Take,
    Hear,
    Pass(u64),
    Stall,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let one = prop_oneof![
        8 => prop::sample::select(vec!["Hello. ", "and so", " it goes!", " ", "3.14 is"]).prop_map(Step::Say),
        3 => Just(Step::Flush),
        2 => Just(Step::Clear),
        4 => Just(Step::Grant),
        1 => Just(Step::Refuse),
        5 => Just(Step::Finish),
        5 => Just(Step::Take),
        5 => Just(Step::Hear),
        5 => prop_oneof![9 => 0..60_u64, 2 => 100..900_u64].prop_map(Step::Pass),
        1 => prop_oneof![6 => Just(Step::Take), 1 => Just(Step::Eos), 1 => Just(Step::Stall)],
    ];
    prop::collection::vec(one, 1..150)
}

struct World {
    session: AnySession,
    now: Instant,
    out: Vec<Action>,
    segment: Segment,
    on_clear: OnClear,
    /// It is not done while it holds text.
    patient: bool,
    /// How long it takes to the first sound. Not where it was `done` just before: that may be what it answers to a
    /// `clear`, and then it is believed.
    ttfb: Duration,
    done: Option<Instant>,
    inbound: VecDeque<String>,
    outbound: VecDeque<String>,
    /// The engine's unspoken text, and the pieces it speaks.
    buffer: String,
    pieces: u32,
    sounded: Instant,
    asking: Option<Run>,
    held: Option<Run>,
    asked: BTreeSet<Run>,
    ended: BTreeSet<Run>,
    given_up: bool,
    said: Vec<String>,
    last: usize,
    closed: bool,
}

impl World {
    fn new(segment: Segment, on_clear: OnClear, patient: bool, ttfb: Duration) -> Self {
        #[allow(clippy::disallowed_methods, reason = "an origin is needed; only differences are looked at")]
        let now = Instant::now();
        let dialect = Dialect { segment, ..Dialect::of("/ws3", Some("audioFormat=pcm")) };
        Self {
            session: AnySession::json(dialect, Settings::default()),
            now,
            out: Vec::new(),
            segment,
            on_clear,
            patient,
            ttfb,
            done: None,
            inbound: VecDeque::new(),
            outbound: VecDeque::new(),
            buffer: String::new(),
            pieces: 0,
            sounded: now,
            asking: None,
            held: None,
            asked: BTreeSet::new(),
            ended: BTreeSet::new(),
            given_up: false,
            said: Vec::new(),
            last: 0,
            closed: false,
        }
    }

    fn say(&mut self, mut message: Value) {
        message["n"] = (self.said.len() + 1).into();
        self.said.push(message.to_string());
        self.session.caller_said(self.now, Message::Text(message.to_string().into()), &mut self.out);
        self.settle();
    }

    fn settle(&mut self) {
        for action in std::mem::take(&mut self.out) {
            match action {
                Action::Ask(run) => {
                    assert!(self.asked.insert(run) && self.asking.is_none() && self.held.is_none());
                    self.asking = Some(run);
                }
                Action::Ended(end) => {
                    assert!(self.ended.insert(end.run), "a run ends once");
                    if end.phase == Phase::Running {
                        assert_eq!(self.held.take(), Some(end.run));
                        self.given_up = !end.engine_let_go;
                    }
                    self.asking = self.asking.filter(|run| *run != end.run);
                }
                Action::ToEngine(message) => self.reaches_engine(&message),
                Action::CloseCaller(close) => {
                    assert_eq!(close, CLOSE_NORMAL);
                    self.closed = true;
                }
                Action::ToCaller(_) | Action::Ttfb(_) | Action::ChunkGap(_) | Action::CloseEngine(_) => {}
            }
        }
    }

    fn reaches_engine(&mut self, message: &Message) {
        let text = String::from_utf8(message.bytes().to_vec()).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        if let Some(n) = value["n"].as_u64() {
            let n = usize::try_from(n).unwrap();
            assert_eq!(self.said[n - 1], text, "byte for byte");
            assert!(n > self.last, "in order");
            self.last = n;
        } else {
            assert_eq!(value["operation"], "clear", "the gate itself says only `clear`");
        }
        self.inbound.push_back(text);
    }

    /// The engine takes its next message.
    fn take(&mut self) {
        let Some(text) = self.inbound.pop_front() else { return };
        let message: Value = serde_json::from_str(&text).unwrap();
        let before = self.pieces;
        if let Some(text) = message["text"].as_str() {
            self.buffer += text;
            let starts = match self.segment {
                Segment::Never => false,
                Segment::BySentence => self.buffer.contains(['.', '!']),
                Segment::Immediate => !self.buffer.trim().is_empty(),
            };
            if starts {
                let end = match self.segment {
                    Segment::Immediate => self.buffer.len(),
                    _ => self.buffer.rfind(['.', '!']).unwrap() + 1,
                };
                self.buffer.drain(..end);
                self.pieces += 1;
            }
        }
        match message["operation"].as_str() {
            Some("flush" | "eos") if !self.buffer.trim().is_empty() => {
                self.buffer.clear();
                self.pieces += 1;
            }
            Some("clear") => {
                self.buffer.clear();
                if self.pieces > 0 && self.on_clear != OnClear::GoesOn {
                    self.pieces = 0;
                    if self.on_clear == OnClear::StopsAndTells {
                        self.outbound.push_back(json!({"type": "done"}).to_string());
                    }
                }
            }
            _ => {}
        }
        if self.pieces > before {
            match before {
                0 if self.done.is_none_or(|done| self.now - done >= CROSSING_MAX) && !self.ttfb.is_zero() => {
                    self.sounded = self.now + self.ttfb;
                }
                _ => self.sound(),
            }
        }
    }

    fn sound(&mut self) {
        self.sounded = self.now;
        self.outbound.push_back(json!({"type": "chunk", "data": "AAAA"}).to_string());
    }

    fn finish(&mut self) {
        // Nothing ends before it has sounded.
        if self.pieces == 0 || self.now < self.sounded {
            return;
        }
        self.pieces -= 1;
        self.sound();
        let waits = self.patient && !self.buffer.trim().is_empty();
        let over = self.segment == Segment::Never || (self.pieces == 0 && !waits);
        if over {
            self.done = Some(self.now);
            self.outbound.push_back(json!({"type": "done"}).to_string());
        }
    }

    fn hear(&mut self) {
        let Some(message) = self.outbound.pop_front() else { return };
        self.session.engine_said(self.now, Message::Text(message.into()), &mut self.out);
        self.settle();
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Say(text) => self.say(json!({"text": text})),
            Step::Flush => self.say(json!({"operation": "flush"})),
            Step::Clear => self.say(json!({"operation": "clear"})),
            Step::Eos => self.say(json!({"operation": "eos"})),
            Step::Grant => {
                let Some(run) = self.asking.take() else { return };
                self.held = Some(run);
                self.session.granted(self.now, run, &mut self.out);
                self.settle();
            }
            Step::Refuse => {
                let Some(run) = self.asking else { return };
                self.session.refused(self.now, run, Reason::QueueFull, &mut self.out);
                self.settle();
            }
            Step::Finish => self.finish(),
            Step::Take => self.take(),
            Step::Hear => self.hear(),
            Step::Pass(millis @ 60..) => {
                for _ in 0..millis / 50 {
                    self.step(Step::Pass(50));
                }
            }
            Step::Pass(millis) => {
                self.now += Duration::from_millis(millis);
                // No message is on its way for long, and an engine that speaks is not silent for long.
                while !self.inbound.is_empty() {
                    self.take();
                }
                if self.pieces > 0
                    && self.now.saturating_duration_since(self.sounded) > Duration::from_millis(300)
                {
                    self.sound();
                }
                while !self.outbound.is_empty() {
                    self.hear();
                }
                self.session.tick(self.now, &mut self.out);
                self.settle();
            }
            Step::Stall => {
                self.session.caller_stalled(self.now, &mut self.out);
                self.settle();
            }
        }
        assert!(self.pieces == 0 || self.held.is_some(), "the engine speaks without a slot");
    }
}

proptest! {
    #[test]
    fn the_engine_never_speaks_without_a_slot_and_every_run_that_asks_ends_once(
        steps in steps(),
        segment in prop::sample::select(vec![Segment::Never, Segment::BySentence, Segment::Immediate]),
        patient in any::<bool>(),
        on_clear in prop::sample::select(vec![OnClear::StopsAndTells, OnClear::Stops, OnClear::GoesOn]),
        ttfb in prop::sample::select(vec![0, 1_200]).prop_map(Duration::from_millis),
    ) {
        let mut world = World::new(segment, on_clear, patient, ttfb);
        for step in steps {
            world.step(step);
            if world.closed {
                break;
            }
        }
        // Left alone, what runs ends by itself.
        for _ in 0..700 {
            if world.session.running() + world.session.queued() == 0 {
                break;
            }
            world.step(Step::Grant);
            world.step(Step::Finish);
            world.step(Step::Pass(100));
        }
        prop_assert_eq!(world.held, None, "a slot leaked");
        world.session.caller_closed(world.now, &mut world.out);
        world.settle();
        prop_assert!(world.asked.is_subset(&world.ended));
        let session = &world.session;
        prop_assert_eq!((session.held_bytes(), session.running(), session.queued()), (0, 0, 0));
    }
}
