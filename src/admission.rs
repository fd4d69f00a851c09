//! The door: `admit()` gives a permit or a refusal. The async shell over the pure [`scheduler`]: a short lock, wakers,
//! timers and values that give back what they hold. Knows nothing of HTTP, audio or metrics.

mod estimate;
pub mod layer;
mod levels;
mod queue;
pub mod scheduler;
mod settings;

pub use layer::{Admission, AdmissionError, AdmissionLayer, Held};
pub use levels::{Levels, WINDOWS};
pub use scheduler::Snapshot;
pub use settings::{QueueWaitMax, Settings, WhenFull};

use crate::refusal::Refusal;
use scheduler::{Decision, Outcome, Scheduler, Ticket};
use std::fmt;
use std::future::Future;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};

/// The one door that every synthesis goes through. Cheap to clone; all clones are the same door, on any thread and
/// any runtime.
///
/// ```
/// use rime_gate::admission::{Door, Settings};
/// use std::num::NonZeroU32;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), rime_gate::refusal::Refusal> {
/// let door = Door::new(Settings::new(NonZeroU32::MIN));
/// let permit = door.admit().await?;
/// assert_eq!(door.snapshot().running, 1);
/// drop(permit); // when the last byte of audio has gone out
/// assert_eq!(door.snapshot().running, 0);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Door {
    shared: Arc<Shared>,
    class: usize,
}

/// How many classes of syntheses are told apart in what runs; see [`Door::class`].
pub const CLASSES: usize = 8;

struct Shared {
    scheduler: Mutex<Scheduler<Waker>>,
    idle: Notify,
    /// Permits out, by class.
    taken: [AtomicU32; CLASSES],
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Scheduler<Waker>> {
        // No step of the scheduler is left half done by a panic: it calls nobody else's code.
        self.scheduler.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one step under the lock, and wakes outside of it.
    fn step(&self, step: impl FnOnce(&mut Scheduler<Waker>) -> Option<Waker>) {
        let (woken, idle) = {
            let mut scheduler = self.lock();
            (step(&mut scheduler), scheduler.is_idle())
        };
        if let Some(waker) = woken {
            waker.wake();
        }
        if idle {
            self.idle.notify_waiters();
        }
    }
}

impl Door {
    /// A door with every slot free.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let scheduler = Mutex::new(Scheduler::new(settings));
        let shared = Shared { scheduler, idle: Notify::new(), taken: Default::default() };
        Self { shared: Arc::new(shared), class: 0 }
    }

    /// The same door for syntheses of another class, from 0 to [`CLASSES`] - 1: they stand in the same line, and
    /// only [`taken`](Self::taken) tells them apart.
    ///
    /// # Panics
    ///
    /// If there is no such class.
    #[must_use]
    pub fn class(&self, class: usize) -> Self {
        assert!(class < CLASSES, "there are {CLASSES} classes");
        Self { shared: Arc::clone(&self.shared), class }
    }

    /// Permits out now, by class. Together they are at most [`Snapshot::running`], which counts granted slots too that
    /// nobody has collected yet.
    #[must_use]
    pub fn taken(&self) -> [u32; CLASSES] {
        self.shared.taken.each_ref().map(|taken| taken.load(Ordering::Relaxed))
    }

    /// Asks for a slot. The caller arrives when the future is first polled.
    ///
    /// # Errors
    ///
    /// The future yields a [`Refusal`] when there is no slot and the settings allow no (more) waiting.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing, at any moment: a place in the queue is given up at once, and a slot that
    /// was granted but not yet collected goes to the next in line.
    pub fn admit(&self) -> Admit {
        self.admit_before(None)
    }

    /// As [`admit`](Self::admit), for a caller who will not wait beyond `deadline`, even where the settings allow it.
    pub fn admit_before(&self, deadline: Option<Instant>) -> Admit {
        self.admit_from(None, deadline)
    }

    fn admit_from(&self, arrived: Option<Instant>, deadline: Option<Instant>) -> Admit {
        let state = AdmitState::New { arrived, deadline };
        Admit { shared: Arc::clone(&self.shared), class: self.class, state }
    }

    /// Changes how many may run at once. More wakes those who wait; under fewer, running syntheses end by themselves
    /// and nobody enters until they have.
    pub fn set_limit(&self, limit: NonZeroU32) {
        self.update(|settings| settings.limit = limit);
    }

    /// Changes any of the settings, in one step. Those who wait already keep the wait that they were given.
    pub fn update(&self, change: impl FnOnce(&mut Settings)) {
        let woken = {
            let mut scheduler = self.shared.lock();
            let mut settings = scheduler.settings();
            change(&mut settings);
            scheduler.set(Instant::now().into_std(), settings)
        };
        woken.into_iter().for_each(Waker::wake);
    }

    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> Settings {
        self.shared.lock().settings()
    }

    /// From now on nobody enters, and those who wait are refused. What runs goes on: see [`idle`](Self::idle).
    pub fn drain(&self) {
        let woken = self.shared.lock().drain();
        woken.into_iter().for_each(Waker::wake);
        self.shared.step(|_| None);
    }

    /// Waits until every slot is back and nobody waits. Means the end only after [`drain`](Self::drain).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn idle(&self) {
        loop {
            let notified = self.shared.idle.notified();
            if self.shared.lock().is_idle() {
                return;
            }
            notified.await;
        }
    }

    /// Tells the door that the engine's first audio byte came this long after dispatch.
    /// [`QueueWaitMax::Auto`] lives on it.
    pub fn observe_upstream_ttfb(&self, ttfb: Duration) {
        self.observe_upstream_ttfb_at(Instant::now(), ttfb);
    }

    /// As [`observe_upstream_ttfb`](Self::observe_upstream_ttfb), for whoever knows the time: it came at `now`.
    pub fn observe_upstream_ttfb_at(&self, now: Instant, ttfb: Duration) {
        self.shared.lock().observe_upstream_ttfb(now.into_std(), ttfb);
    }

    /// How many were in flight of late, over each of [`WINDOWS`].
    #[must_use]
    pub fn levels(&self) -> [Levels; WINDOWS.len()] {
        let now = Instant::now().into_std();
        self.shared.lock().levels(now)
    }

    /// What it is like behind the door.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let now = Instant::now().into_std();
        self.shared.lock().snapshot(now)
    }
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Door").field(&self.snapshot()).finish()
    }
}

/// The future of [`Door::admit`].
///
/// It makes a timer only once it has to wait, and so wants a tokio runtime with time only then.
#[must_use = "nobody arrives until the future is polled"]
pub struct Admit {
    shared: Arc<Shared>,
    class: usize,
    state: AdmitState,
}

enum AdmitState {
    New { arrived: Option<Instant>, deadline: Option<Instant> },
    Waiting { ticket: Ticket, timer: Pin<Box<Sleep>> },
    Done,
}

impl Admit {
    fn permit(&self, waited: Duration, begun: Begun) -> Permit {
        self.shared.taken[self.class].fetch_add(1, Ordering::Relaxed);
        Permit { shared: Arc::clone(&self.shared), class: self.class, waited, begun, ended: None }
    }

    fn arrive(
        &mut self,
        arrived: Option<Instant>,
        deadline: Option<Instant>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Permit, Refusal>> {
        self.state = AdmitState::Done;
        let now = arrived.unwrap_or_else(Instant::now).into_std();
        let deadline = deadline.map(Instant::into_std);
        let (decision, begun) = {
            let mut scheduler = self.shared.lock();
            (scheduler.arrive(now, deadline, || cx.waker().clone()), Begun::new(&mut scheduler, now))
        };
        match decision {
            Decision::Admitted => Poll::Ready(Ok(self.permit(Duration::ZERO, begun))),
            Decision::Refused(refusal) => Poll::Ready(Err(refusal)),
            Decision::Queued { ticket, until } => {
                let timer = Box::pin(tokio::time::sleep_until(Instant::from_std(until)));
                self.state = AdmitState::Waiting { ticket, timer };
                self.look(cx)
            }
        }
    }

    /// Looks whether the wait has come to an end.
    fn look(&mut self, cx: &mut Context<'_>) -> Poll<Result<Permit, Refusal>> {
        let AdmitState::Waiting { ticket, mut timer } = std::mem::replace(&mut self.state, AdmitState::Done)
        else {
            unreachable!("called only while waiting")
        };
        // First the timer, so that it is armed with this waker whatever the scheduler says.
        let _ = timer.as_mut().poll(cx);
        let now = Instant::now().into_std();
        let (outcome, begun) = {
            let mut scheduler = self.shared.lock();
            if let Some(waker) = scheduler.wake_mut(&ticket) {
                waker.clone_from(cx.waker());
            }
            (scheduler.collect(now, ticket), Begun::new(&mut scheduler, now))
        };
        match outcome {
            Outcome::Waiting(ticket) => {
                self.state = AdmitState::Waiting { ticket, timer };
                Poll::Pending
            }
            Outcome::Admitted { waited } => Poll::Ready(Ok(self.permit(waited, begun))),
            Outcome::Refused(refusal) => Poll::Ready(Err(refusal)),
        }
    }
}

impl Future for Admit {
    type Output = Result<Permit, Refusal>;

    /// # Panics
    ///
    /// If polled again after it was ready, or if it has to wait outside of a tokio runtime with time.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.state {
            AdmitState::New { arrived, deadline } => self.arrive(arrived, deadline, cx),
            AdmitState::Waiting { .. } => self.look(cx),
            AdmitState::Done => panic!("`Admit` polled after it was ready"),
        }
    }
}

impl Drop for Admit {
    fn drop(&mut self) {
        if let AdmitState::Waiting { ticket, .. } = std::mem::replace(&mut self.state, AdmitState::Done) {
            self.shared.step(|scheduler| scheduler.cancel(Instant::now().into_std(), ticket));
        }
    }
}

impl fmt::Debug for Admit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            AdmitState::New { .. } => "not arrived",
            AdmitState::Waiting { .. } => "waiting",
            AdmitState::Done => "done",
        };
        f.debug_tuple("Admit").field(&state).finish()
    }
}

/// Room for one synthesis. Dropping it gives the slot back, exactly once, on whatever thread and for whatever reason,
/// a panic included. Let it ride with the audio that it pays for.
#[must_use = "dropping a permit gives its slot back"]
pub struct Permit {
    shared: Arc<Shared>,
    class: usize,
    waited: Duration,
    begun: Begun,
    /// When the slot comes back, where whoever drops this knows it.
    ended: Option<Instant>,
}

/// When a slot was collected, and the slot-seconds of the door by then.
#[derive(Clone, Copy)]
struct Begun {
    at: std::time::Instant,
    slot_seconds: f64,
}

impl Begun {
    fn new(scheduler: &mut Scheduler<Waker>, at: std::time::Instant) -> Self {
        Self { at, slot_seconds: scheduler.slot_seconds(at) }
    }
}

impl Permit {
    /// How many held a slot since this one was collected, itself included: the time-weighted mean. `None` where no
    /// time has passed.
    #[must_use]
    pub fn mean_level(&self) -> Option<f64> {
        self.mean_level_at(Instant::now())
    }

    /// As [`mean_level`](Self::mean_level), for whoever knows that it is `now`.
    #[must_use]
    pub fn mean_level_at(&self, now: Instant) -> Option<f64> {
        let now = Begun::new(&mut self.shared.lock(), now.into_std());
        let held = now.at.saturating_duration_since(self.begun.at).as_secs_f64();
        (held > 0.0).then(|| ((now.slot_seconds - self.begun.slot_seconds) / held).max(1.0))
    }

    /// How long its caller stood in the queue; zero if a slot was free.
    #[must_use]
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// Gives the slot back, for whoever knows that it is `now`. Dropping it does the same.
    pub fn release(mut self, now: Instant) {
        self.ended = Some(now);
    }

    /// Gives the slot back after `linger`, for work that goes on until it notices that it was cancelled. At once where
    /// `linger` is zero, or where there is no tokio runtime to wait on.
    pub fn release_after(self, linger: Duration) {
        if linger.is_zero() {
            return;
        }
        let begun = Instant::now();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                // However late this task gets its turn, the time runs from the call.
                tokio::time::sleep(linger.saturating_sub(begun.elapsed())).await;
                drop(self);
            });
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.shared.taken[self.class].fetch_sub(1, Ordering::Relaxed);
        let now = self.ended.unwrap_or_else(Instant::now).into_std();
        self.shared.step(|scheduler| scheduler.release(now));
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("waited", &self.waited).finish_non_exhaustive()
    }
}
