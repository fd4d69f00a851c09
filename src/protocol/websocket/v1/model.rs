//! What holds for a v1 socket in every order of events, against a model of the engine that is hostile where the
//! protocol leaves room: it runs a second `start` of an open context beside the first, complains about stray text
//! without ending anything, and says `done` twice.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::testing::{Bench, text};
use super::*;

#[derive(Clone, Copy, Debug)]
enum Step {
    /// The caller sends `start`, `text`, `end` or `cancel` for a context.
    Say(usize, &'static str),
    /// A one-shot start.
    OneShot(usize),
    /// The oldest run that asks gets a slot, if one is free, or not.
    Grant(usize),
    Refuse(usize),
    /// The engine takes its next message.
    Take,
    /// It speaks, ends or fails the n-th synthesis.
    Sound(usize),
    Done(usize, bool),
    Fail(usize),
    /// Its next message reaches the gate.
    Hear,
    Pass(u64),
    Stall,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let one = prop_oneof![
        6 => (0..3_usize, prop::sample::select(vec!["start", "text", "end", "cancel"]))
            .prop_map(|(context, kind)| Step::Say(context, kind)),
        2 => (0..3_usize).prop_map(Step::OneShot),
        4 => (0..4_usize).prop_map(Step::Grant),
        1 => (0..4_usize).prop_map(Step::Refuse),
        8 => Just(Step::Take),
        3 => (0..4_usize).prop_map(Step::Sound),
        2 => (0..4_usize, any::<bool>()).prop_map(|(at, twice)| Step::Done(at, twice)),
        1 => (0..4_usize).prop_map(Step::Fail),
        8 => Just(Step::Hear),
        2 => prop_oneof![9 => 0..2_u64, 9 => 0..200_u64, 1 => 0..70_000_u64].prop_map(Step::Pass),
        1 => prop_oneof![5 => Just(Step::Take), 1 => Just(Step::Stall)],
    ];
    prop::collection::vec(one, 1..120)
}

/// A synthesis at the engine.
#[derive(Debug)]
struct Speaking {
    context: String,
    run: Run,
    open: bool,
}

struct World {
    bench: Bench,
    inbound: VecDeque<(Value, Option<Run>)>,
    outbound: VecDeque<Value>,
    speaking: Vec<Speaking>,
    asking: Vec<Run>,
    held: BTreeSet<Run>,
    asked: BTreeSet<Run>,
    ended: BTreeMap<Run, bool>,
    said: Vec<String>,
    last_of: BTreeMap<String, usize>,
    limit: usize,
}

impl World {
    fn new(limit: usize) -> Self {
        Self {
            bench: Bench::v1(Encoding::Json, Settings::default()),
            inbound: VecDeque::new(),
            outbound: VecDeque::new(),
            speaking: Vec::new(),
            asking: Vec::new(),
            held: BTreeSet::new(),
            asked: BTreeSet::new(),
            ended: BTreeMap::new(),
            said: Vec::new(),
            last_of: BTreeMap::new(),
            limit,
        }
    }

    fn say(&mut self, context: usize, kind: &str, value: Value) {
        let mut message = json!({"contextId": format!("c{context}"), "n": self.said.len()});
        message[kind] = value;
        self.said.push(message.to_string());
        let message = text(&message.to_string());
        self.bench.session.caller_said(self.bench.now, message, &mut self.bench.out);
        self.settle(None);
    }

    /// Takes what the session wants. `granted` is the run whose slot has just come.
    fn settle(&mut self, granted: Option<Run>) {
        for action in std::mem::take(&mut self.bench.out) {
            match action {
                Action::Ask(run) => {
                    assert!(self.asked.insert(run), "a run asks once");
                    self.asking.push(run);
                }
                Action::Ended(end) => {
                    assert!(self.ended.insert(end.run, end.engine_let_go).is_none(), "a run ends once");
                    let refused_itself = matches!(end.phase, Phase::Refused(_));
                    assert!(self.asked.contains(&end.run) || refused_itself || end.phase == Phase::Queued);
                    assert_eq!(end.phase == Phase::Running, self.held.remove(&end.run));
                    self.asking.retain(|run| *run != end.run);
                }
                Action::ToEngine(message) => self.reaches_engine(&message, granted),
                Action::ToCaller(_) | Action::Ttfb(_) | Action::ChunkGap(_) => {}
                close @ (Action::CloseCaller(_) | Action::CloseEngine(_)) => panic!("{close:?}"),
            }
        }
    }

    fn reaches_engine(&mut self, message: &Message, granted: Option<Run>) {
        let value: Value = serde_json::from_slice(message.bytes()).unwrap();
        if let Some(n) = value["n"].as_u64() {
            let n = usize::try_from(n).unwrap();
            assert_eq!(self.said[n].as_bytes(), &message.bytes()[..], "byte for byte");
            let context = value["contextId"].as_str().unwrap().to_owned();
            let before = self.last_of.insert(context, n);
            assert!(before.is_none_or(|before| before < n), "in order");
        } else {
            assert!(!value["cancel"].is_null(), "the gate itself says only `cancel`");
        }
        let run = (!value["start"].is_null()).then(|| granted.expect("a start leaves with its slot"));
        self.inbound.push_back((value, run));
    }

    fn take(&mut self) {
        let Some((message, run)) = self.inbound.pop_front() else { return };
        let context = message["contextId"].as_str().unwrap().to_owned();
        if let Some(run) = run {
            let open = message["start"]["text"].is_null();
            self.outbound.push_back(json!({"contextId": context, "started": {"requestId": "r"}}));
            self.speaking.push(Speaking { context, run, open });
        } else if !message["cancel"].is_null() {
            self.speaking.retain(|of| of.context != context);
            self.outbound.push_back(json!({"contextId": context, "cancelled": {}}));
        } else {
            let of = self.speaking.iter_mut().rfind(|of| of.context == context && of.open);
            match of {
                Some(of) => of.open = message["end"].is_null(),
                None if message["text"].is_null() => {}
                None => {
                    self.outbound
                        .push_back(json!({"contextId": context, "error": {"kind": "invalid_input"}}));
                }
            }
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Say(context, "start") => self.say(context, "start", json!({})),
            Step::Say(context, "text") => self.say(context, "text", json!("Hello.")),
            Step::Say(context, kind) => self.say(context, kind, json!({})),
            Step::OneShot(context) => self.say(context, "start", json!({"text": "Hello."})),
            Step::Grant(at) if self.held.len() < self.limit && at < self.asking.len() => {
                let run = self.asking.remove(at);
                self.held.insert(run);
                self.bench.session.granted(self.bench.now, run, &mut self.bench.out);
                self.settle(Some(run));
            }
            Step::Refuse(at) if at < self.asking.len() => {
                let (run, now) = (self.asking[at], self.bench.now);
                self.bench.session.refused(now, run, Reason::QueueFull, &mut self.bench.out);
                self.settle(None);
            }
            Step::Take => self.take(),
            Step::Sound(at) if at < self.speaking.len() => {
                self.outbound.push_back(json!({"contextId": self.speaking[at].context, "audio": "AAAA"}));
            }
            Step::Done(at, twice) if self.speaking.get(at).is_some_and(|of| !of.open) => {
                let of = self.speaking.remove(at);
                for _ in 0..=usize::from(twice) {
                    self.outbound.push_back(json!({"contextId": of.context, "done": {}}));
                }
            }
            Step::Fail(at) if at < self.speaking.len() => {
                let of = self.speaking.remove(at);
                self.outbound.push_back(json!({"contextId": of.context, "error": {"kind": "internal"}}));
            }
            Step::Hear => {
                let Some(message) = self.outbound.pop_front() else { return };
                let message = text(&message.to_string());
                self.bench.session.engine_said(self.bench.now, message, &mut self.bench.out);
                self.settle(None);
            }
            Step::Pass(millis) => {
                // No message is on its way for long.
                while millis > 2 && !self.inbound.is_empty() {
                    self.take();
                }
                while millis > 2 && !self.outbound.is_empty() {
                    self.step(Step::Hear);
                }
                self.bench.now += Duration::from_millis(millis);
                self.bench.session.tick(self.bench.now, &mut self.bench.out);
                self.settle(None);
                let deadline = self.bench.session.deadline();
                assert!(deadline.is_none_or(|deadline| deadline > self.bench.now), "what is due was done");
            }
            Step::Stall => {
                self.bench.session.caller_stalled(self.bench.now, &mut self.bench.out);
                self.settle(None);
            }
            _ => {}
        }
        for of in &self.speaking {
            let given_up = self.ended.get(&of.run) == Some(&false);
            assert!(self.held.contains(&of.run) || given_up, "{of:?} speaks without a slot");
        }
        assert!(self.held.len() <= self.limit);
        assert_eq!(self.bench.session.running(), self.held.len());
    }
}

proptest! {
    #[test]
    fn the_engine_never_speaks_without_a_slot_and_every_run_that_asks_ends_once(
        steps in steps(),
        limit in 1..4_usize,
        engine_closes in any::<bool>(),
    ) {
        let mut world = World::new(limit);
        for step in steps {
            world.step(step);
        }
        let (now, out) = (world.bench.now, &mut world.bench.out);
        if engine_closes {
            world.bench.session.engine_closed(now, true, out);
        } else {
            world.bench.session.caller_closed(now, out);
        }
        world.settle(None);
        prop_assert!(world.asked.iter().all(|run| world.ended.contains_key(run)));
        prop_assert!(world.held.is_empty());
        let session = &world.bench.session;
        prop_assert_eq!((session.held_bytes(), session.running(), session.queued()), (0, 0, 0));
        prop_assert_eq!(session.deadline(), None);
    }

    #[test]
    fn nothing_that_is_said_makes_a_session_panic(
        messages in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..40)), 0..20),
        encoding in prop_oneof![Just(Encoding::Json), Just(Encoding::Binary)],
    ) {
        let mut bench = Bench::v1(encoding, Settings::default());
        for (engine, bytes) in messages {
            let message = match encoding {
                Encoding::Json => text(&String::from_utf8_lossy(&bytes)),
                Encoding::Binary => Message::Binary(bytes.into()),
            };
            if engine {
                bench.session.engine_said(bench.now, message.clone(), &mut bench.out);
                prop_assert_eq!(std::mem::take(&mut bench.out), [Action::ToCaller(message)]);
            } else {
                bench.session.caller_said(bench.now, message, &mut bench.out);
                bench.out.clear();
            }
        }
    }
}
