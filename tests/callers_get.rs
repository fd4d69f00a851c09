//! What callers get: an open load at 1, 1.5 and 3 times what the limit can serve, through a gate that nobody tuned,
//! to an engine whose RTF passes 1 just above the limit.
//!
//! A synthesis is good when all its audio came, its TTFB (the wait included) was at most 1 s, its RTF at most 1, and
//! playback never ran dry. What is asked for is the good ones' share of what the engine could have served.
//!
//! `RIME_GATE_TEST_SECONDS` shortens the minute that each load lasts. `RIME_GATE_TEST_PEERS=1` also measures the same
//! load without a gate and through `haproxy`, if it is installed, for the table in the README.
//! The load is made over HTTP, and then by 120 agents with a v1 socket each; `RIME_GATE_TEST_PROTOCOL=ws-json` (or any
//! other) measures that protocol alone.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroU32;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rime_gate::callers::{Callers, Load, Protocol, SENTENCES, Tally};
use rime_gate::config::{Config, EngineUrl};
use rime_gate::demo::capacity_per_second;
use rime_gate::gate::Gate;
use rime_gate::sim::{self, Profile, Settings};
use rime_gate::target::Target;
use tempfile::NamedTempFile;

const LIMIT: NonZeroU32 = NonZeroU32::new(20).unwrap();
const SEED: u64 = 20;
/// Load, and the least share of capacity that must be good.
const BOUNDS: [(f64, f64); 3] = [(1.0, 0.93), (1.5, 0.95), (3.0, 0.95)];
/// What says how much a queue can smooth out: [`SENTENCES`] hold a slot for about 1.5 s. The longer that is, the fewer
/// slots come free in the time a caller can wait, and the more of a load of 1 is lost to chance, whoever decides.
const TEXTS: &[&str] = &SENTENCES;
/// Callers with a socket each, where the protocol has one.
const AGENTS: usize = 120;
/// The engine fills before anybody is counted.
const WARM_UP: Duration = Duration::from_secs(5);
/// Whoever has heard nothing long after the target is not good, however long it waits.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Before {
    Gate,
    Nothing,
    /// A queue bounded to so many milliseconds.
    Haproxy(u32),
}

/// What came of one load.
struct Row {
    before: Before,
    load: f64,
    /// Of capacity.
    share: f64,
    peak: u64,
    tally: Tally,
    /// What the gate itself counted.
    notes: String,
}

#[test]
fn an_untuned_gate_keeps_an_overloaded_engine_as_useful_as_it_can_be() {
    let seconds = std::env::var("RIME_GATE_TEST_SECONDS").ok().map_or(60, |value| value.parse().unwrap());
    let seconds = Duration::from_secs(seconds);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for protocol in protocols() {
        println!("{protocol:?}: before, load, share of capacity, counts, TTFB and RTF of those let in:");
        let gated = runtime.block_on(measure(Before::Gate, protocol, seconds));
        if std::env::var_os("RIME_GATE_TEST_PEERS").is_some() {
            for peer in [Before::Haproxy(1_000), Before::Haproxy(700), Before::Nothing] {
                let installed = Command::new("haproxy").arg("-v").stdout(Stdio::null()).status().is_ok();
                if peer == Before::Nothing || installed {
                    runtime.block_on(measure(peer, protocol, seconds));
                }
            }
        }
        for (row, (load, bound)) in gated.iter().zip(BOUNDS) {
            assert_eq!(row.peak, u64::from(LIMIT.get()), "most at once in the engine at {load} times");
            assert!(
                row.share >= bound,
                "{protocol:?}: at {load} times the capacity {:.3} of it was good, not {bound}\n{}",
                row.share,
                row.notes
            );
        }
    }
}

/// All three loads at the same time, each with an engine of its own; printed row by row.
async fn measure(before: Before, protocol: Protocol, seconds: Duration) -> Vec<Row> {
    let [one, half, three] = BOUNDS.map(|(load, _)| row(before, protocol, load, seconds));
    let (one, half, three) = tokio::join!(one, half, three);
    let rows = vec![one, half, three];
    for row in &rows {
        println!("{}", line(row));
        print!("{}", row.notes);
    }
    rows
}

async fn row(before: Before, protocol: Protocol, load: f64, seconds: Duration) -> Row {
    let profile = Profile::named("edge-20").unwrap();
    let capacity = capacity_per_second(&profile, profile.variables, LIMIT.get(), TEXTS, SEED);
    let engine = sim::start(Settings { profile, seed: SEED, ..Settings::default() }).await.unwrap();
    let gate = (before == Before::Gate).then(|| gate(engine.address()));
    let haproxy = match before {
        Before::Haproxy(queue_ms) => Some(Haproxy::start(engine.address(), queue_ms).await),
        _ => None,
    };
    let through = gate.as_ref().map(|gate| gate.addresses()[0]);
    let through = through.or(haproxy.as_ref().map(|haproxy| haproxy.address));
    let callers = Callers::new(Load {
        address: through.unwrap_or(engine.address()),
        protocol,
        agents: AGENTS,
        rate: capacity * load,
        warm_up: WARM_UP,
        duration: seconds,
        patience: PATIENCE,
        seed: SEED,
        target: Target::default(),
        texts: TEXTS,
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

fn gate(engine: SocketAddr) -> Gate {
    let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = Config::default();
    config.listeners[0].address = anywhere;
    config.admin.address = anywhere;
    config.metrics.address = anywhere;
    config.engine.http = EngineUrl::parse(&format!("http://{engine}")).unwrap();
    config.engine.concurrency_max = LIMIT;
    Gate::start(config).unwrap()
}

/// The protocols that are measured, one after the other.
fn protocols() -> Vec<Protocol> {
    match std::env::var("RIME_GATE_TEST_PROTOCOL") {
        Ok(name) => vec![clap::ValueEnum::from_str(&name, false).unwrap()],
        Err(_) => vec![Protocol::Http, Protocol::V1],
    }
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

fn line(row: &Row) -> String {
    let tally = &row.tally;
    let figure = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2}"));
    format!(
        "{:14} {:3.1}x  {:.3}  offered {:4} good {:4} missed {:4} refused {:4} failed {:3} unfinished {:4} \
         underrun {:4}  TTFB p50 {} p99 {}  RTF p99 {}  peak {}",
        format!("{:?}", row.before),
        row.load,
        row.share,
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
        row.peak
    )
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
    async fn start(engine: SocketAddr, queue_ms: u32) -> Self {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let file = NamedTempFile::new().unwrap();
        let limit = LIMIT.get();
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
