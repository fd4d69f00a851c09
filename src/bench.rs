//! The benchmark: puts an engine under load and finds the greatest number of syntheses in flight that keeps a target.
//! Decides how looks at levels follow each other; the loads, the statistics and the search are rooms of its own.
//!
//! A limit counts syntheses in flight, so that is what the search keeps constant. `armchair` counts sessions, which
//! think and listen between their turns, so that far fewer are in flight; [`load::Sessions`] are those, for comparison.
//!
//! ```no_run
//! # async fn example() -> Result<(), rime_gate::bench::BenchError> {
//! use rime_gate::bench::{self, Bench, Unit};
//!
//! let bench = Bench::at("http://127.0.0.1:8080").await?;
//! let found = bench::find_limit(&bench, Unit::InFlight, &mut |_| {}).await?;
//! println!("{:?} in flight keep {}", found.limit, bench.quest.target);
//! # Ok(())
//! # }
//! ```

pub mod gate;
pub mod hunt;
mod idle;
pub mod load;
pub mod page;
pub mod report;
pub mod sample;
pub mod search;
pub mod statistics;
pub mod texts;
pub mod view;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::uri::Scheme;
use http::{HeaderValue, Uri};
use thiserror::Error;
use tokio::time::{Instant, sleep};

use self::hunt::{Hunt, Level, Quest};
use self::load::{Crowd, Flow, Sessions};
use self::search::{Effort, Look};
use self::statistics::{Confidence, Verdict};
use crate::callers::{Agents, ClockStarts, Manner, Protocol, Words};
use crate::target::{Clause, Target};

/// How long arrivals at a rate warm the engine up.
const WARM_UP: Duration = Duration::from_secs(5);

/// What is measured, and how.
#[derive(Clone, Debug)]
pub struct Bench {
    /// Where the engine, or a gate before it, is called.
    pub address: SocketAddr,
    /// On which protocol.
    pub protocol: Protocol,
    /// For which voice, and so on.
    pub manner: Manner,
    /// What a level has to keep, how certainly, and within which means.
    pub quest: Quest,
    /// What is said. Not empty.
    pub texts: Vec<Words>,
    /// Fixes who says what, and when.
    pub seed: u64,
    /// A call that takes longer has failed.
    pub timeout: Duration,
    /// A look at a level that takes longer leaves it undecided.
    pub look_time_max: Duration,
    /// Between two looks, so that the engine forgets the one before.
    pub pause: Duration,
    /// What sessions are like. Their `turns` are those of a glance; a search lets them go on.
    pub sessions: Sessions,
}

/// What a level counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Syntheses that run at once, always.
    InFlight,
    /// `armchair`'s sessions.
    Sessions,
}

/// The load of one level.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Load {
    /// Always so many syntheses at once.
    InFlight(u32),
    /// So many sessions, each with its [`Sessions::turns`].
    Sessions(u32),
    /// So many syntheses begin per second, at random, for [`Bench::look_time_max`].
    Rate(f64),
}

/// Why nothing was measured.
#[derive(Debug, Error)]
pub enum BenchError {
    /// The URL cannot be called.
    #[error("cannot use {url}: {why}")]
    Url {
        /// The URL as it was given.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The host has no address.
    #[error("cannot find {host}")]
    Host {
        /// Host and port.
        host: String,
        /// Why not.
        source: io::Error,
    },
    /// A single synthesis fails.
    #[error("{address} does not serve a single synthesis: {why}")]
    Unserved {
        /// Who was asked.
        address: SocketAddr,
        /// What came of it.
        why: String,
    },
}

/// What a search says while it goes on.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A look begins.
    Begins(Look),
    /// A synthesis was heard at a level.
    Heard(&'a Level),
    /// A look has ended.
    Ended(Look, &'a Level),
}

/// What a search has found.
#[derive(Clone, Debug)]
pub struct Found {
    /// The greatest level that is certain to keep the target, if there is one.
    pub limit: Option<u32>,
    /// The clause that the next level does not keep, and whether that is certain (`Missed`) or could not be decided.
    /// Nothing where the search came to the greatest level it may try.
    pub bound_by: Option<(Clause, Verdict)>,
    /// The mean TTFB of one synthesis alone.
    pub initial_latency: Option<Duration>,
    /// Every level that was looked at, from the smallest, with its samples and verdicts.
    pub levels: Vec<Level>,
}

impl Found {
    /// The level that was found, with its samples, TTFB and RTF.
    #[must_use]
    pub fn at_limit(&self) -> Option<&Level> {
        self.levels.iter().find(|level| Some(level.level) == self.limit)
    }
}

impl Bench {
    /// A benchmark of `url` (`http://host:port/path`) with the guide's target, the built-in English texts and a
    /// confidence of 0.95.
    ///
    /// # Errors
    /// The URL is none that can be called, or its host has no address.
    ///
    /// # Cancel safety
    /// Nothing was begun.
    pub async fn at(url: &str) -> Result<Self, BenchError> {
        let wrong = |why| BenchError::Url { url: url.to_owned(), why };
        let uri: Uri = url.parse().map_err(|_| wrong("it is no URL"))?;
        if uri.scheme() == Some(&Scheme::HTTPS) {
            return Err(wrong("TLS is not spoken here, measure from beside the engine"));
        }
        let authority = uri.authority().filter(|_| uri.scheme() == Some(&Scheme::HTTP));
        let authority = authority.ok_or_else(|| wrong("expected `http://` and a host"))?;
        let host = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
        let addresses = tokio::net::lookup_host(&host).await;
        let address = addresses.and_then(|mut found| found.next().ok_or(io::ErrorKind::NotFound.into()));
        let address = address.map_err(|source| BenchError::Host { host, source })?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let quest = Quest {
            target: Target::default(),
            confidence: Confidence::default(),
            level_max: 1_024,
            samples_max: 3_000,
            glance: 2,
        };
        Ok(Self {
            address,
            protocol: Protocol::Http,
            manner: Manner {
                path,
                host: Some(authority.to_string()),
                speaker: None,
                clock_starts: ClockStarts::Sent,
                ..Manner::default()
            },
            quest,
            texts: texts::built_in("eng").unwrap_or_default(),
            seed: 1,
            timeout: Duration::from_secs(120),
            look_time_max: Duration::from_secs(900),
            pause: Duration::from_secs(2),
            sessions: Sessions::default(),
        })
    }

    /// Sends `value` as `Authorization`.
    #[must_use]
    pub fn with_authorization(mut self, value: HeaderValue) -> Self {
        self.manner.authorization = Some(value);
        self
    }

    /// Why the engine seems to be at work for others; nothing if it does not.
    ///
    /// # Cancel safety
    /// Dropping it hangs up.
    pub async fn busy(&self) -> Option<String> {
        idle::busy(self, &self.crowd(ClockStarts::Sent)).await
    }

    fn crowd(&self, clock_starts: ClockStarts) -> Arc<Crowd> {
        let manner = Manner { clock_starts, ..self.manner.clone() };
        Crowd::new(Agents::new(self.address, self.protocol, manner), &self.texts, self.timeout)
    }
}

/// Finds the greatest level that keeps the target.
///
/// # Errors
/// The engine does not serve a single synthesis. What goes wrong later counts against its level.
///
/// # Cancel safety
/// Dropping it hangs up on every call.
pub async fn find_limit(
    bench: &Bench,
    unit: Unit,
    watch: &mut (dyn FnMut(Event<'_>) + Send),
) -> Result<Found, BenchError> {
    let turns = bench.sessions.turns.unwrap_or(5);
    let glance = match unit {
        Unit::InFlight => bench.quest.glance,
        Unit::Sessions => u64::from(turns),
    };
    served(bench).await?;
    let mut hunt = Hunt::new(Quest { glance, ..bench.quest });
    let mut looks = 0;
    while let Some(look) = hunt.next() {
        if looks > 0 {
            sleep(bench.pause).await;
        }
        watch(Event::Begins(look));
        let began = Instant::now();
        let crowd = bench.crowd(ClockStarts::Sent);
        // Another look at a level is not to hear the same words at the same moments.
        let seed = bench.seed.wrapping_add(looks);
        let deadline = began + bench.look_time_max;
        let listener = |sample| {
            let level = hunt.level(look);
            level.record(sample);
            watch(Event::Heard(level));
            if hunt.is_enough(look) { Flow::Stop } else { Flow::Continue }
        };
        match unit {
            Unit::InFlight => crowd.in_flight(look.level, seed, deadline, listener).await,
            Unit::Sessions => {
                let endless = Sessions { turns: None, ..bench.sessions };
                crowd.sessions(look.level, endless, seed, deadline, listener).await;
            }
        }
        let level = hunt.level(look);
        level.saw(began.elapsed(), &crowd);
        watch(Event::Ended(look, level));
        hunt.close(look);
        looks += 1;
    }
    Ok(Found {
        limit: hunt.found(),
        bound_by: hunt.bound_by(),
        initial_latency: hunt.initial_latency(),
        levels: hunt.levels().cloned().collect(),
    })
}

/// One synthesis, which nobody counts: it also warms the engine up.
async fn served(bench: &Bench) -> Result<(), BenchError> {
    let sample = bench.crowd(ClockStarts::Sent).once().await;
    match sample.refused.or(sample.failed) {
        Some(why) => Err(BenchError::Unserved { address: bench.address, why }),
        None => Ok(()),
    }
}

/// Measures one level, until its verdict is certain or the means are used up; sessions until they have ended.
///
/// # Cancel safety
/// Dropping it hangs up on every call.
pub async fn measure(bench: &Bench, load: Load, watch: &mut (dyn FnMut(Event<'_>) + Send)) -> Level {
    let count = match load {
        Load::InFlight(count) | Load::Sessions(count) => count,
        Load::Rate(_) => 0,
    };
    let look = Look { level: count, effort: Effort::Proof };
    let mut level = Level::new(count, &bench.quest);
    watch(Event::Begins(look));
    let began = Instant::now();
    let deadline = began + bench.look_time_max;
    let finite = matches!(load, Load::Sessions(_)) && bench.sessions.turns.is_some();
    let clock_starts = if matches!(load, Load::Rate(_)) { ClockStarts::Due } else { ClockStarts::Sent };
    let crowd = bench.crowd(clock_starts);
    let listener = |sample| {
        level.record(sample);
        watch(Event::Heard(&level));
        if !finite && level.is_enough(Effort::Proof, &bench.quest) { Flow::Stop } else { Flow::Continue }
    };
    match load {
        Load::InFlight(count) => crowd.in_flight(count, bench.seed, deadline, listener).await,
        Load::Sessions(count) => {
            crowd.sessions(count, bench.sessions, bench.seed, deadline, listener).await;
        }
        Load::Rate(rate) => crowd.rate(rate, bench.seed, WARM_UP, deadline, listener).await,
    }
    level.saw(began.elapsed(), &crowd);
    watch(Event::Ended(look, &level));
    level
}

impl Unit {
    /// As JSON has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::InFlight => "in_flight",
            Self::Sessions => "sessions",
        }
    }

    /// As people say it.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::InFlight => "in flight",
            Self::Sessions => "sessions",
        }
    }
}
