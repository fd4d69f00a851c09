//! The same load on the same engine with this or that before it: the gate, haproxy, nothing.

#![allow(dead_code, reason = "every test uses its part of this")]

#[path = "../loopback/mod.rs"]
mod loopback;

use std::fmt::{self, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroU32;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rime_gate::callers::{Callers, Load, Protocol, Tally};

use rime_gate::demo::capacity_per_second;
use rime_gate::gate::Gate;
use rime_gate::sim::{self, Profile, Settings};
use rime_gate::target::Target;
use tempfile::NamedTempFile;

/// Callers with a socket each, where the protocol has one.
const AGENTS: usize = 120;
/// Whoever has heard nothing long after the target is not good, however long it waits.
const PATIENCE: Duration = Duration::from_secs(10);

/// A load, and the engine that it comes to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scene {
    pub(crate) profile: &'static str,
    pub(crate) limit: NonZeroU32,
    pub(crate) protocol: Protocol,
    /// In times of what the engine can serve at the limit.
    pub(crate) load: f64,
    /// The engine fills before anybody is counted.
    pub(crate) warm_up: Duration,
    pub(crate) seconds: Duration,
    pub(crate) texts: &'static [&'static str],
    pub(crate) seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Before {
    Gate,
    Nothing,
    /// A queue bounded to so many milliseconds.
    Haproxy(u32),
}

/// What came of one load.
pub(crate) struct Row {
    pub(crate) before: Before,
    pub(crate) load: f64,
    /// Of capacity.
    pub(crate) share: f64,
    pub(crate) peak: u64,
    pub(crate) tally: Tally,
    /// What the gate itself counted.
    pub(crate) notes: String,
}

pub(crate) fn haproxy_is_installed() -> bool {
    Command::new("haproxy").arg("-v").stdout(Stdio::null()).status().is_ok()
}

impl Scene {
    /// An engine of its own, this before it, and the callers.
    pub(crate) async fn measure(self, before: Before) -> Row {
        let Self { profile, limit, protocol, load, warm_up, seconds, texts, seed } = self;
        let profile = Profile::named(profile).unwrap();
        let capacity = capacity_per_second(&profile, profile.variables, limit.get(), texts, seed);
        let engine = sim::start(Settings { profile, seed, ..Settings::default() }).await.unwrap();
        let gate = (before == Before::Gate).then(|| gate(engine.address(), limit));
        let haproxy = match before {
            Before::Haproxy(queue_ms) => Some(Haproxy::start(engine.address(), limit, queue_ms).await),
            _ => None,
        };
        let through = gate.as_ref().map(|gate| gate.addresses()[0]);
        let through = through.or(haproxy.as_ref().map(|haproxy| haproxy.address));
        let callers = Callers::new(Load {
            address: through.unwrap_or(engine.address()),
            protocol,
            agents: AGENTS,
            rate: capacity * load,
            warm_up,
            duration: seconds,
            patience: PATIENCE,
            seed,
            target: Target::default(),
            texts,
        });
        let tally = callers.run().await;
        let peak = engine.counts().syntheses.peak;
        let notes = gate.as_ref().map_or(String::new(), |gate| notes(&gate.control().metrics()));
        if let Some(gate) = gate {
            gate.drain().await;
        }
        engine.kill().await;
        let could = capacity * seconds.as_secs_f64();
        Row { before, load, share: number(tally.good) / could, peak, tally, notes }
    }
}

fn gate(engine: SocketAddr, limit: NonZeroU32) -> Gate {
    let mut config = loopback::config(engine);
    config.engine.concurrency_max = limit;
    Gate::start(config).unwrap()
}

/// The gate's own account of waits and refusals.
fn notes(metrics: &str) -> String {
    let told = ["rime_gate_refusals_total", "rime_gate_queue_wait_seconds", "rime_gate_window_"];
    let lines = metrics.lines().filter(|line| told.iter().any(|name| line.starts_with(name)));
    lines.filter(|line| !line.ends_with(" 0")).fold(String::new(), |mut notes, line| {
        writeln!(notes, "    {line}").unwrap();
        notes
    })
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tally = &self.tally;
        let figure = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2}"));
        write!(
            f,
            "{:14} {:3.1}x  {:.3}  offered {:4} good {:4} missed {:4} refused {:4} failed {:3} unfinished {:4} \
         underrun {:4}  TTFB p50 {} p99 {}  RTF p99 {}  peak {}",
            format!("{:?}", self.before),
            self.load,
            self.share,
            tally.offered,
            tally.good,
            tally.missed,
            tally.refused,
            tally.failed,
            tally.unfinished(),
            tally.underrun,
            figure(tally.ttfb_seconds(50.0)),
            figure(tally.ttfb_seconds(99.0)),
            figure(tally.rtf(99.0)),
            self.peak
        )
    }
}

fn number(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap())
}

/// A running haproxy with the same limit, killed on drop.
struct Haproxy {
    address: SocketAddr,
    child: Child,
    _file: NamedTempFile,
}

impl Haproxy {
    async fn start(engine: SocketAddr, limit: NonZeroU32, queue_ms: u32) -> Self {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let file = NamedTempFile::new().unwrap();
        let text = format!(
            "global\n  maxconn 8000\n  nbthread 1\ndefaults\n  mode http\n  timeout connect 1s\n  \
             timeout client 60s\n  timeout server 60s\n  timeout tunnel 60s\n  timeout queue {queue_ms}ms\n  option http-no-delay\n\
             listen gate\n  bind {address}\n  server engine {engine} maxconn {limit}\n"
        );
        std::fs::write(file.path(), text).unwrap();
        let child = Command::new("haproxy").arg("-db").arg("-f").arg(file.path()).spawn().unwrap();
        let listens = async {
            let mut looks = tokio::time::interval(Duration::from_millis(50));
            while tokio::net::TcpStream::connect(address).await.is_err() {
                looks.tick().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), listens).await.expect("haproxy listens");
        Self { address, child, _file: file }
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
