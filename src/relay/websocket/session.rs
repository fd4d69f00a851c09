//! One WebSocket's life: reads messages at both ends, asks the protocol what they mean, and does what it says. Decides
//! when an end is given up; what a message means is the protocol's business, who gets a slot the door's.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::end::{End, Read};
use super::patience::{Fault, Patience};
use super::slots::{Answer, Slots};
use super::{Sockets, Spoken};
use crate::engine::EngineBody;
use crate::protocol::websocket::{self as protocol, Action, Close, Run};
use crate::stream::Books;

/// Bytes of one message from the engine.
const ENGINE_MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Messages handled in one turn, so that a busy socket leaves its neighbours theirs.
const MESSAGES_A_TURN: usize = 64;

/// A future that is done when the socket is closed at both ends.
pub(super) struct Session {
    caller: End<TokioIo<Upgraded>>,
    engine: End<TcpStream>,
    protocol: protocol::Session,
    slots: Slots,
    patience: Patience,
    alarm: Alarm,
    /// Done when the gate drains.
    draining: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    caller_left: bool,
    engine_left: bool,
    /// Runs that have not asked for a slot yet, since what they said could not be heard: the caller has not taken what came
    /// before.
    unheard: Vec<Run>,
    /// The caller broke the protocol, and is not read any more.
    fault: Option<Fault>,
    /// When either end last said something that was passed on.
    said: Instant,
    /// Everything that the engine has sent was read, since it last had to wait for the caller. Otherwise its silence is
    /// the gate's own, and says nothing.
    engine_heard_out: bool,
    /// Since when the engine has had to wait for the caller, until all that it sent meanwhile is read.
    held_since: Option<Instant>,
    /// What the protocol wants done. Kept, so that a message costs no allocation.
    actions: Vec<Action>,
}

impl Session {
    pub(super) async fn new(
        caller: Upgraded,
        (engine, first): (TcpStream, Bytes),
        spoken: Spoken,
        sockets: &Sockets,
        books: Arc<Books<EngineBody>>,
    ) -> Self {
        let settings = &sockets.settings;
        let now = Instant::now();
        Self {
            caller: End::new(
                TokioIo::new(caller),
                Bytes::new(),
                Role::Server,
                settings.websocket.message_bytes_max,
            )
            .await,
            engine: End::new(engine, first, Role::Client, ENGINE_MESSAGE_BYTES_MAX).await,
            slots: Slots::new(books, spoken.protocol, spoken.model.as_deref()),
            protocol: spoken.session,
            patience: Patience::new(now, settings),
            alarm: Alarm::new(now + settings.websocket.ping_interval),
            draining: Some(Box::pin(sockets.drain.clone().cancelled_owned())),
            caller_left: false,
            engine_left: false,
            unheard: Vec::new(),
            fault: None,
            said: now,
            engine_heard_out: true,
            held_since: None,
            actions: Vec::new(),
        }
    }

    /// Does what the protocol said, in order, and what comes of it.
    fn act(&mut self, cx: &mut Context<'_>, now: Instant) {
        while !self.actions.is_empty() {
            let mut actions = std::mem::take(&mut self.actions);
            for action in actions.drain(..) {
                match action {
                    Action::ToEngine(message) => self.engine.send(message),
                    Action::ToCaller(message) => self.caller.send(message),
                    Action::CloseEngine(close) => self.engine.close(Some(frame(close))),
                    Action::CloseCaller(close) => self.caller.close(Some(frame(close))),
                    Action::Ask(run) => self.ask(cx, now, run),
                    Action::Ended(ended) => {
                        self.unheard.retain(|run| *run != ended.run);
                        self.slots.ended(now, &ended);
                    }
                    Action::Ttfb(ttfb) => self.slots.observe_upstream_ttfb(ttfb),
                    Action::ChunkGap(gap) => self.slots.metrics().chunk_gap(self.slots.protocol(), gap),
                }
            }
            if self.actions.is_empty() {
                self.actions = actions;
            }
        }
    }

    /// A run asks for a slot, unless nobody would hear it.
    fn ask(&mut self, cx: &mut Context<'_>, now: Instant, run: Run) {
        if self.patience.is_deaf() && !self.caller.is_clear() {
            // As with all that it had when it was given up.
            self.protocol.caller_stalled(now.into_std(), &mut self.actions);
        } else if self.caller.is_full() {
            self.unheard.push(run);
        } else if let Some(answer) = self.slots.ask(now, run, cx) {
            self.answered(now, answer);
        }
    }

    /// The caller has taken what was on its way: what waited for that asks.
    fn ask_for_the_unheard(&mut self, cx: &mut Context<'_>, now: Instant) {
        if self.unheard.is_empty() || self.caller.is_full() {
            return;
        }
        for run in std::mem::take(&mut self.unheard) {
            self.ask(cx, now, run);
        }
        self.act(cx, now);
    }

    fn answered(&mut self, now: Instant, (run, answer): Answer) {
        match answer {
            Ok(_) => self.protocol.granted(now.into_std(), run, &mut self.actions),
            Err(refusal) => self.protocol.refused(now.into_std(), run, refusal.reason, &mut self.actions),
        }
    }

    fn collect_answers(&mut self, cx: &mut Context<'_>, now: Instant) {
        while let Poll::Ready(answer) = self.slots.poll(now, cx) {
            self.answered(now, answer);
            self.act(cx, now);
        }
    }

    /// Takes a message from the caller, unless the engine is behind. Whether there was one.
    fn read_caller(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        if self.fault.is_some() || self.engine.is_full() && !self.engine_left {
            return false;
        }
        let Poll::Ready(read) = self.caller.poll_read(cx) else { return false };
        self.patience.heard(now);
        match read {
            Read::Message(message) if !self.caller_left && !self.engine_left => {
                self.said = now;
                self.protocol.caller_said(now.into_std(), message, &mut self.actions);
            }
            Read::Message(_) | Read::Alive => {}
            Read::Close(frame) => self.caller_leaves(now, frame),
            Read::Gone => self.caller_leaves(now, Some(away())),
            Read::Broken(fault) => {
                // What came before is still answered; nothing is begun.
                self.fault = Some(Fault::new(now, fault));
                self.protocol.caller_broke(now.into_std(), &mut self.actions);
            }
        }
        self.act(cx, now);
        true
    }

    /// Tells the protocol for how long what it is about to hear may have been there.
    fn note_whether_held_up(&mut self, now: Instant, held_up: bool, said: bool) {
        match self.held_since {
            None if held_up => self.held_since = Some(now),
            Some(since) if said => self.protocol.held_up(now - since),
            Some(_) if !held_up => {
                self.held_since = None;
                self.protocol.held_up(Duration::ZERO);
            }
            _ => {}
        }
    }

    /// Takes a message from the engine, unless the caller is behind. Whether there was one.
    fn read_engine(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        // To a caller who was given up nothing is sent but the ends of what was cancelled.
        let held_up = self.caller.is_full() && !self.caller_left && !self.patience.is_deaf();
        let read = if held_up { Poll::Pending } else { self.engine.poll_read(cx) };
        if read.is_pending() {
            self.engine_heard_out = !held_up;
        }
        self.note_whether_held_up(now, held_up, read.is_ready());
        let Poll::Ready(read) = read else { return false };
        match read {
            Read::Message(message) if !self.caller_left && !self.engine_left => {
                self.said = now;
                self.protocol.engine_said(now.into_std(), message, &mut self.actions);
            }
            Read::Message(_) | Read::Alive => {}
            Read::Close(frame) => self.engine_leaves(cx, now, true, frame),
            // It may not know yet what else ran on a connection that broke.
            Read::Gone => self.engine_leaves(cx, now, false, Some(lost())),
            Read::Broken(fault) => {
                self.engine.close(Some(fault));
                self.engine_leaves(cx, now, false, Some(lost()));
            }
        }
        self.act(cx, now);
        true
    }

    /// The caller closes, or is gone: what runs for it is cancelled by closing the engine's end.
    fn caller_leaves(&mut self, now: Instant, frame: Option<CloseFrame>) {
        if !std::mem::replace(&mut self.caller_left, true) {
            self.engine.close(frame);
            self.protocol.caller_closed(now.into_std(), &mut self.actions);
        }
    }

    /// The engine closes, or is gone: the caller is told what became of its syntheses, then that.
    fn engine_leaves(&mut self, cx: &mut Context<'_>, now: Instant, let_go: bool, frame: Option<CloseFrame>) {
        if !std::mem::replace(&mut self.engine_left, true) {
            self.protocol.engine_closed(now.into_std(), let_go, &mut self.actions);
            self.act(cx, now);
            let fault = self.fault.take().map(|fault| fault.frame);
            self.caller.close(fault.or(frame));
        }
    }

    /// Carries what both ends have to say. `true` where there may be more.
    fn carry(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let mut messages = 0;
        while self.read_caller(cx, now) | self.read_engine(cx, now) {
            messages += 1;
            if messages == MESSAGES_A_TURN {
                break;
            }
        }
        let was_full = self.caller.is_full() || self.engine.is_full();
        self.caller.flush(cx);
        self.engine.flush(cx);
        if self.caller.has_made_room() {
            // It takes what it was sent. Its pong may be a long way behind that.
            self.patience.heard(now);
        }
        // An end that was not read because the other was behind has nobody to wake this task.
        messages == MESSAGES_A_TURN || was_full && !(self.caller.is_full() || self.engine.is_full())
    }

    /// Does what time demands.
    fn look_at_the_clock(&mut self, cx: &mut Context<'_>, now: Instant) {
        if self.engine_heard_out && self.protocol.deadline().is_some_and(|due| due <= now.into_std()) {
            self.protocol.tick(now.into_std(), &mut self.actions);
        }
        let busy = self.protocol.running() + self.protocol.queued() > 0;
        if self.patience.is_stalled(now, self.caller.is_clear(), busy) {
            self.protocol.caller_stalled(now.into_std(), &mut self.actions);
            // From here on it is read whatever the caller does, and every deadline has been set anew.
            self.engine_heard_out = true;
        }
        if self.patience.wants_ping(now) {
            self.caller.ping();
        }
        let said = self.said;
        if let Some(fault) = self.fault.take_if(|fault| fault.due(said) <= now) {
            self.caller.close(Some(fault.frame.clone()));
            self.caller_leaves(now, Some(fault.frame));
        }
        if self.draining.is_none() && !busy {
            self.caller.close(Some(CloseFrame { code: CloseCode::Restart, reason: "shutting down".into() }));
            self.engine.close(Some(away()));
        }
        self.act(cx, now);
        if self.caller.is_closing() || self.engine.is_closing() {
            self.patience.goodbye(now);
        }
    }

    /// An end may be lost while it is written to; its other end is told as if it had been read.
    fn notice_the_gone(&mut self, cx: &mut Context<'_>, now: Instant) {
        if self.caller.is_gone() {
            self.caller_leaves(now, Some(away()));
        }
        if self.engine.is_gone() {
            self.engine_leaves(cx, now, false, Some(lost()));
        }
        self.act(cx, now);
    }

    fn is_over(&self, now: Instant) -> bool {
        (self.caller.is_gone() && self.engine.is_gone()) || self.patience.is_over(now)
    }

    fn due(&self) -> Instant {
        let busy = self.protocol.running() + self.protocol.queued() > 0;
        let protocol = self.protocol.deadline().filter(|_| self.engine_heard_out).map(Instant::from_std);
        let answers = self.fault.as_ref().map(|fault| fault.due(self.said));
        [protocol, answers].into_iter().flatten().fold(self.patience.due(busy), Instant::min)
    }
}

impl Future for Session {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if this.draining.as_mut().is_some_and(|draining| draining.as_mut().poll(cx).is_ready()) {
            this.draining = None;
        }
        loop {
            let now = Instant::now();
            this.collect_answers(cx, now);
            this.ask_for_the_unheard(cx, now);
            let more = this.carry(cx, now);
            this.collect_answers(cx, now);
            this.look_at_the_clock(cx, now);
            this.notice_the_gone(cx, now);
            this.caller.flush(cx);
            this.engine.flush(cx);
            if this.is_over(now) {
                this.caller_leaves(now, None);
                this.act(cx, now);
                return Poll::Ready(());
            }
            if more {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            // Early once more where a deadline has passed while this turn was taken.
            ready!(this.alarm.poll_until(cx, this.due()));
        }
    }
}

/// One timer, moved only when it would ring too late: most deadlines are put off long before they come.
struct Alarm {
    sleep: Pin<Box<Sleep>>,
}

impl Alarm {
    fn new(at: Instant) -> Self {
        Self { sleep: Box::pin(sleep_until(at)) }
    }

    fn poll_until(&mut self, cx: &mut Context<'_>, due: Instant) -> Poll<()> {
        if due < self.sleep.deadline() {
            self.sleep.as_mut().reset(due);
        }
        ready!(self.sleep.as_mut().poll(cx));
        if self.sleep.deadline() >= due {
            return Poll::Ready(());
        }
        self.sleep.as_mut().reset(due);
        self.sleep.as_mut().poll(cx)
    }
}

fn frame(close: Close) -> CloseFrame {
    CloseFrame { code: close.code.into(), reason: close.reason.into() }
}

fn away() -> CloseFrame {
    CloseFrame { code: CloseCode::Away, reason: "caller gone".into() }
}

fn lost() -> CloseFrame {
    CloseFrame { code: CloseCode::Error, reason: "engine connection lost".into() }
}
