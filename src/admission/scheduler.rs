//! Decides who may enter, who waits, for how long, and who is refused. Pure: has no clock, no tasks and no wakers
//! of its own (`now` is an argument, the handle that wakes a waiter is a type parameter), and knows nothing of HTTP
//! or metrics.
//!
//! Each event is one atomic step. After each of them: running syntheses are at most the limit (unless the limit was
//! just lowered, or is only observed), and nobody waits while a slot is free.

use super::estimate::{HoldingTime, UpstreamTtfb};
use super::levels::{Levels, Record, WINDOWS};
use super::queue::Queue;
use super::settings::{QueueWaitMax, Settings, WhenFull};
use crate::refusal::{Reason, Refusal};
use std::time::{Duration, Instant};

/// A place in the queue. Not `Clone`: each is given to [`Scheduler::collect`] or [`Scheduler::cancel`] exactly once,
/// of the scheduler that made it.
#[derive(Debug)]
#[must_use = "a ticket that is dropped keeps its place, and its slot once granted"]
pub struct Ticket(usize);

/// The answer to an arrival.
#[derive(Debug)]
pub enum Decision {
    /// A slot was free and is now taken.
    Admitted,
    /// No slot is free yet. Ask again with [`Scheduler::collect`] when woken, and at `until` at the latest.
    Queued {
        /// The place in the queue.
        ticket: Ticket,
        /// When the wait has been too long.
        until: Instant,
    },
    /// No slot, and no place to wait for one.
    Refused(Refusal),
}

/// What became of a place in the queue.
#[derive(Debug)]
pub enum Outcome {
    /// Nothing yet.
    Waiting(Ticket),
    /// A slot was granted, after this wait.
    Admitted {
        /// From arrival to grant.
        waited: Duration,
    },
    /// It will get no slot.
    Refused(Refusal),
}

/// What the scheduler is like at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Snapshot {
    /// How many syntheses may run at once.
    pub limit: u32,
    /// How many do: slots granted and not given back.
    pub running: u32,
    /// How many wait.
    pub waiting: u32,
    /// How many may wait.
    pub queue_max: u32,
    /// How long an arrival may wait, as of now.
    pub queue_wait_max: Duration,
    /// The p99 of the upstream TTFB of late, once enough were seen.
    pub upstream_ttfb_p99: Option<Duration>,
    /// Slots that come free per second while all are taken, once enough came free.
    pub release_rate: Option<f64>,
    /// Whether the gate is shutting down.
    pub draining: bool,
}

/// A caller refused for the rate at which slots come free still gets this many standard deviations of luck. With
/// none, some are refused who would have been served; with 1, twice as many wait in vain, and none more is served
/// (`tests/admission_goodput.rs` prints the figures).
const LUCK: f64 = 0.5;
/// The part of the target, as a divisor, that the caller loses outside of what is measured: on the way to the gate and
/// back, and on a busy machine. Under overload those served are those who waited longest: without a margin, a caller
/// 20 ms away misses a target of 1 s once in twenty times.
const MARGIN: u32 = 25;
/// A time to come again is an estimate; beyond this it is a guess.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(600);

/// The admission state machine. `W` is whatever wakes a waiter.
#[derive(Debug)]
pub struct Scheduler<W> {
    settings: Settings,
    running: u32,
    draining: bool,
    queue: Queue<Waiter<W>>,
    holding: HoldingTime,
    upstream: UpstreamTtfb,
    record: Record,
}

#[derive(Debug)]
struct Waiter<W> {
    arrived: Instant,
    until: Instant,
    state: State<W>,
}

#[derive(Debug)]
enum State<W> {
    Waiting(W),
    Granted(Instant),
    Refused(Refusal),
}

impl<W> Scheduler<W> {
    /// An empty gate.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            running: 0,
            draining: false,
            queue: Queue::new(),
            holding: HoldingTime::new(),
            upstream: UpstreamTtfb::new(),
            record: Record::new(),
        }
    }

    /// A caller wants a slot, and will not wait beyond `deadline` even where the settings allow it. `wake` is asked
    /// for its handle only if the caller has to wait.
    pub fn arrive(&mut self, now: Instant, deadline: Option<Instant>, wake: impl FnOnce() -> W) -> Decision {
        if self.draining {
            return Decision::Refused(Refusal::new(Reason::Draining));
        }
        if deadline.is_some_and(|deadline| deadline <= now) {
            return self.refuse(Reason::Deadline);
        }
        // Nobody waits while a slot is free, so whoever finds one overtakes nobody.
        if self.has_room() {
            self.take_slot(now);
            return Decision::Admitted;
        }
        if self.settings.when_full == WhenFull::Reject {
            return self.refuse(Reason::LimitReached);
        }
        if self.waiting() >= self.settings.queue_max {
            return self.refuse(Reason::QueueFull);
        }
        let mut wait = self.queue_wait_max(now);
        if let Some(deadline) = deadline {
            wait = wait.min(deadline.saturating_duration_since(now));
        }
        if wait.is_zero() || self.is_hopeless(wait) {
            return self.refuse(Reason::Deadline);
        }
        let until = now + wait;
        let key = self.queue.push(Waiter { arrived: now, until, state: State::Waiting(wake()) });
        Decision::Queued { ticket: Ticket(key), until }
    }

    /// What became of a waiter. Refuses it if its time is up.
    pub fn collect(&mut self, now: Instant, ticket: Ticket) -> Outcome {
        let waiter = self.queue.get(ticket.0);
        if matches!(waiter.state, State::Waiting(_)) {
            if now < waiter.until {
                return Outcome::Waiting(ticket);
            }
            self.queue.remove(ticket.0);
            return Outcome::Refused(self.refusal(Reason::QueueTimeout));
        }
        let waiter = self.queue.remove(ticket.0);
        match waiter.state {
            State::Granted(at) => Outcome::Admitted { waited: at.saturating_duration_since(waiter.arrived) },
            State::Refused(refusal) => Outcome::Refused(refusal),
            State::Waiting(_) => unreachable!("handled above"),
        }
    }

    /// The handle that wakes a waiter, to be replaced if it changed; `None` if its fate is decided already.
    pub fn wake_mut(&mut self, ticket: &Ticket) -> Option<&mut W> {
        match &mut self.queue.get_mut(ticket.0).state {
            State::Waiting(wake) => Some(wake),
            State::Granted(_) | State::Refused(_) => None,
        }
    }

    /// A waiter leaves. If it had been granted a slot already, the next one gets it and is to be woken.
    #[must_use = "whoever is returned has a slot and must be woken"]
    #[expect(clippy::needless_pass_by_value, reason = "a ticket ends here: nobody may use it again")]
    pub fn cancel(&mut self, now: Instant, ticket: Ticket) -> Option<W> {
        let waiter = self.queue.remove(ticket.0);
        if !matches!(waiter.state, State::Granted(_)) {
            return None;
        }
        // Nothing ran in this slot, so it says nothing about how long slots are held.
        self.give_back(now);
        self.grant_next(now)
    }

    /// A slot comes back. Returns the waiter that has it now and is to be woken.
    #[must_use = "whoever is returned has a slot and must be woken"]
    pub fn release(&mut self, now: Instant) -> Option<W> {
        self.give_back(now);
        self.holding.released();
        self.grant_next(now)
    }

    /// Changes the settings. A higher limit wakes those returned; under a lower one, running syntheses end by
    /// themselves. Those who wait already keep the wait that they were given.
    #[must_use = "whoever is returned has a slot and must be woken"]
    pub fn set(&mut self, now: Instant, settings: Settings) -> Vec<W> {
        self.settings = settings;
        std::iter::from_fn(|| self.grant_next(now)).collect()
    }

    /// From now on nobody enters. Those who wait are refused and are to be woken; running syntheses go on.
    #[must_use = "whoever is returned was refused and must be woken"]
    pub fn drain(&mut self) -> Vec<W> {
        self.draining = true;
        let refusal = Refusal::new(Reason::Draining);
        std::iter::from_fn(|| self.settle_first(State::Refused(refusal))).collect()
    }

    /// The engine's first byte came this long after dispatch.
    pub fn observe_upstream_ttfb(&mut self, now: Instant, ttfb: Duration) {
        self.upstream.observe(now, ttfb);
    }

    /// The settings in force.
    #[must_use]
    pub const fn settings(&self) -> Settings {
        self.settings
    }

    /// Whether every slot is back and nobody waits.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.running == 0 && self.queue.waiting() == 0
    }

    /// Whether nothing at all is left: idle, and every ticket collected or cancelled.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.running == 0 && self.queue.entries() == 0
    }

    /// The state as of now.
    pub fn snapshot(&mut self, now: Instant) -> Snapshot {
        Snapshot {
            limit: self.settings.limit.get(),
            running: self.running,
            waiting: self.waiting(),
            queue_max: self.settings.queue_max,
            queue_wait_max: self.queue_wait_max(now),
            upstream_ttfb_p99: self.upstream.p99(now),
            release_rate: self.holding.rate(self.settings.limit.get()),
            draining: self.draining,
        }
    }

    /// How many were in flight of late, over each of [`WINDOWS`].
    pub fn levels(&mut self, now: Instant) -> [Levels; WINDOWS.len()] {
        self.passed(now);
        self.record.view(now, self.running)
    }

    /// Slot-seconds from the start up to `now`. The difference of two, by the time between, is the mean level.
    pub fn slot_seconds(&mut self, now: Instant) -> f64 {
        self.passed(now);
        self.record.integral()
    }

    fn waiting(&self) -> u32 {
        u32::try_from(self.queue.waiting()).unwrap_or(u32::MAX)
    }

    fn has_room(&self) -> bool {
        self.running < self.settings.limit.get() || self.settings.when_full == WhenFull::Observe
    }

    /// Until `now` nothing has changed. To be called before each change of `running`.
    fn passed(&mut self, now: Instant) {
        let seconds = self.record.passed(now, self.running);
        self.holding.passed(seconds, self.running);
    }

    fn take_slot(&mut self, now: Instant) {
        self.passed(now);
        self.running += 1;
        self.record.reached(self.running);
    }

    fn give_back(&mut self, now: Instant) {
        self.passed(now);
        debug_assert!(self.running > 0, "a slot came back that nobody held");
        self.running = self.running.saturating_sub(1);
    }

    /// Gives a free slot, if there is one, to the first whose time is not up. Whose time is up needs no waking:
    /// the timer that is to wake it has run out.
    fn grant_next(&mut self, now: Instant) -> Option<W> {
        while self.has_room() {
            let first = self.queue.first()?;
            if self.queue.get(first).until <= now {
                let refusal = self.refusal(Reason::QueueTimeout);
                self.settle_first(State::Refused(refusal));
                continue;
            }
            self.take_slot(now);
            return self.settle_first(State::Granted(now));
        }
        None
    }

    /// Takes the first out of the line and decides its fate; returns the handle that wakes it.
    fn settle_first(&mut self, fate: State<W>) -> Option<W> {
        let first = self.queue.first()?;
        self.queue.unlink(first);
        match std::mem::replace(&mut self.queue.get_mut(first).state, fate) {
            State::Waiting(wake) => Some(wake),
            State::Granted(_) | State::Refused(_) => None,
        }
    }

    fn queue_wait_max(&mut self, now: Instant) -> Duration {
        match self.settings.queue_wait_max {
            QueueWaitMax::Fixed(wait) => wait,
            QueueWaitMax::Auto { target_ttfb } => match self.upstream.p99(now) {
                Some(p99) => (target_ttfb - target_ttfb / MARGIN).saturating_sub(p99),
                None => target_ttfb / 2,
            },
        }
    }

    /// Releases that must happen before a newcomer has a slot.
    fn releases_ahead(&self) -> f64 {
        let over = self.running.saturating_sub(self.settings.limit.get());
        f64::from(over) + f64::from(self.waiting()) + 1.0
    }

    /// Whether a newcomer will hardly get a slot within `wait`. Releases come much like a Poisson process: of
    /// `expected` ones, the true count is rarely more than a few times its square root above. The half makes whole
    /// releases of it: where less than one is expected, one may come all the same.
    fn is_hopeless(&self, wait: Duration) -> bool {
        let Some(rate) = self.holding.rate(self.settings.limit.get()) else { return false };
        let expected = rate * wait.as_secs_f64();
        self.releases_ahead() - 0.5 > expected + LUCK * expected.sqrt()
    }

    fn refusal(&self, reason: Reason) -> Refusal {
        let retry_after = self.holding.rate(self.settings.limit.get()).map(|rate| {
            Duration::try_from_secs_f64(self.releases_ahead() / rate)
                .map_or(RETRY_AFTER_MAX, |wait| wait.min(RETRY_AFTER_MAX))
        });
        Refusal { reason, retry_after }
    }

    fn refuse(&self, reason: Reason) -> Decision {
        Decision::Refused(self.refusal(reason))
    }
}
