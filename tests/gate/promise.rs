//! The promise: never more syntheses in the engine than the limit, whatever callers, engine and operator do; and every
//! slot comes back. The witness is the engine's own count.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rime_gate::config::QueueWaitMax;
use rime_gate::gate::Gate;
use rime_gate::sim::{Faults, Settings};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::common::{
    self, ENDLESS, Wire, ask, at_rest, config, engine, fast, gauge, hold, say, soon, start, status, text,
    until,
};

const SEEDS: std::ops::Range<u64> = 0..20;
const LANES: usize = 3;
const CALLERS: usize = 200;
const LIMIT_MAX: u32 = 12;

/// Where a caller hangs up.
#[derive(Clone, Copy, Debug)]
enum Leaves {
    InItsHead,
    InItsBody,
    /// Queued, just granted, waiting for the head, in the middle of a chunk: wherever the time finds it.
    After(Duration),
    AtTheHead,
    /// Once it has so many bytes of audio.
    Within(usize),
    AtTheEnd,
    /// After a second synthesis on the same connection.
    AtTheSecondEnd,
}

/// One caller's life, all of it decided before it begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    arrives: Duration,
    characters: usize,
    leaves: Leaves,
    abruptly: bool,
    http2: bool,
}

impl Caller {
    pub(crate) fn random(random: &mut StdRng) -> Self {
        let leaves = match random.random_range(0..12) {
            0 => Leaves::InItsHead,
            1 => Leaves::InItsBody,
            2..=5 => Leaves::After(Duration::from_micros(random.random_range(0..60_000))),
            6 => Leaves::AtTheHead,
            7 => Leaves::Within(random.random_range(1..200_000)),
            8..=10 => Leaves::AtTheEnd,
            _ => Leaves::AtTheSecondEnd,
        };
        Self {
            arrives: Duration::from_micros(random.random_range(0..400_000)),
            characters: if random.random_bool(0.1) { 2_000 } else { random.random_range(1..120) },
            leaves,
            abruptly: random.random_bool(0.3),
            http2: random.random_bool(0.3),
        }
    }

    pub(crate) async fn live(self, gate: SocketAddr, shared: Option<SendRequest<Full<Bytes>>>) {
        sleep(self.arrives).await;
        match (self.leaves, shared) {
            (Leaves::InItsHead | Leaves::InItsBody, _) | (_, None) => self.http1(gate).await,
            (_, Some(sender)) => self.http2(sender).await,
        }
    }

    async fn http1(self, gate: SocketAddr) {
        let Ok(stream) = TcpStream::connect(gate).await else { return };
        let mut wire = Wire::over(stream);
        let request = say(self.characters);
        let sent = match self.leaves {
            Leaves::InItsHead => 20,
            Leaves::InItsBody => request.len() - 1,
            _ => request.len(),
        };
        wire.try_send(&request[..sent]).await;
        match self.leaves {
            Leaves::InItsHead | Leaves::InItsBody => {}
            Leaves::After(time) => drop(timeout(time, wire.try_message()).await),
            Leaves::AtTheHead => drop(wire.try_head().await),
            Leaves::Within(bytes) => drop(read_some(&mut wire, bytes).await),
            Leaves::AtTheEnd => drop(wire.try_message().await),
            Leaves::AtTheSecondEnd => {
                if wire.try_message().await.is_some() {
                    wire.try_send(&request).await;
                    wire.try_message().await;
                }
            }
        }
        if self.abruptly {
            wire.reset();
        }
    }

    /// A dropped answer is a stream that is reset.
    async fn http2(self, mut sender: SendRequest<Full<Bytes>>) {
        let mut asked = async || {
            sender.ready().await.ok()?;
            sender.send_request(synthesis(self.characters)).await.ok()
        };
        match self.leaves {
            Leaves::After(time) => {
                let _ = timeout(time, async { read_h2(asked().await?, usize::MAX).await }).await;
            }
            Leaves::AtTheHead => drop(asked().await),
            Leaves::Within(bytes) => {
                if let Some(answer) = asked().await {
                    read_h2(answer, bytes).await;
                }
            }
            _ => {
                if let Some(answer) = asked().await {
                    read_h2(answer, usize::MAX).await;
                }
            }
        }
    }
}

async fn read_some(wire: &mut Wire, bytes: usize) -> Option<()> {
    let head = wire.try_head().await?;
    if head.field("transfer-encoding").is_none() {
        return wire.try_body(head).await.map(drop);
    }
    let mut read = 0;
    while read < bytes {
        read += wire.chunk().await??.len();
    }
    Some(())
}

async fn read_h2(mut answer: Response<Incoming>, bytes: usize) -> Option<()> {
    let mut read = 0;
    while read < bytes {
        read += answer.body_mut().frame().await?.ok()?.data_ref().map_or(0, Bytes::len);
    }
    Some(())
}

fn synthesis(characters: usize) -> Request<Full<Bytes>> {
    Request::post("http://gate/").body(Full::from(text(characters))).unwrap()
}

async fn h2c(gate: &Gate) -> SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(gate.addresses()[0]).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

async fn put_limit(gate: &Gate, limit: u32) {
    let body = limit.to_string();
    let length = body.len();
    let request =
        |host| format!("PUT /limit HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n{body}");
    let rebound = Wire::to(gate.admin_address()).await.ask(request("evil.example")).await;
    assert_eq!(rebound.status(), 403, "a web page that resolves its own name to this machine");
    assert_eq!(Wire::to(gate.admin_address()).await.ask(request("localhost:9465")).await.status(), 200);
}

/// A synthesis comes through whole, be it after some of the engine's faults.
async fn is_served(gate: &Gate) {
    for _ in 0..50 {
        let mut wire = Wire::to_gate(gate).await;
        wire.send(say(20)).await;
        let answer = soon("an answer", wire.try_message()).await;
        if answer.is_some_and(|answer| answer.status() == 200) {
            return;
        }
    }
    panic!("nothing is served any more");
}

fn engine_of(random: &mut StdRng, seed: u64) -> Settings {
    let faults = match seed % 3 {
        0 => Faults::default(),
        1 => Faults { error_rate: 0.1, cut_rate: 0.1, ..Faults::default() },
        _ => Faults { error_rate: 0.05, cut_rate: 0.05, stall_rate: 0.03, ..Faults::default() },
    };
    Settings {
        seed,
        faults,
        early_head: random.random_bool(0.5),
        cancel_delay: Duration::from_millis(random.random_range(0..30)),
        ..fast()
    }
}

async fn any_schedule_keeps_the_promise(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let settings = engine_of(&mut random, seed);
    let mut engine = common::engine(settings.clone()).await;
    let address = engine.address();
    let first_limit = random.random_range(1..=LIMIT_MAX);
    let mut config = config(address, first_limit);
    config.engine.stall_timeout = Duration::from_millis(300);
    // An engine that shares its cores with 600 callers notices late that one has gone, whatever its own delay.
    config.engine.cancel_linger = Duration::from_millis(600);
    config.engine.health_interval = Duration::from_millis(50);
    config.admission.queue_max = random.random_range(1..64);
    config.admission.queue_wait_max = if random.random_bool(0.3) {
        QueueWaitMax::Auto
    } else {
        QueueWaitMax::Fixed(Duration::from_millis(random.random_range(50..1_500)))
    };
    let gate = Arc::new(start(config));
    until("the engine up", || status(&gate).engine.up).await;

    let shared = [h2c(&gate).await, h2c(&gate).await];
    let mut callers = JoinSet::new();
    for number in 0..CALLERS {
        let caller = Caller::random(&mut random);
        let shared = caller.http2.then(|| shared[number % shared.len()].clone());
        callers.spawn(caller.live(gate.addresses()[0], shared));
    }
    let greatest = Arc::new(AtomicU32::new(first_limit));
    // Every other schedule leaves the limit alone, so that it is met exactly.
    let resizes = seed % 2 == 1;
    let operator = resizes.then(|| tokio::spawn(resize(Arc::clone(&gate), Arc::clone(&greatest), seed)));
    if seed % 4 == 3 {
        // In the middle of it all the engine dies and another takes its address.
        while callers.len() > CALLERS / 2 {
            soon("a caller's end", callers.join_next()).await;
        }
        let peak = engine.counts().syntheses.peak;
        assert!(peak <= u64::from(greatest.load(Relaxed)), "seed {seed}: {peak} at once before the restart");
        engine.kill().await;
        engine = common::engine(Settings { listen: address, ..settings }).await;
    }
    while let Some(ended) = soon("the callers' end", callers.join_next()).await {
        ended.unwrap();
    }
    if let Some(operator) = operator {
        operator.abort();
        let _ = operator.await;
    }
    drop(shared);

    let (peak, greatest) = (engine.counts().syntheses.peak, greatest.load(Relaxed));
    assert!(peak <= u64::from(greatest), "seed {seed}: {peak} at once, and the limit never above {greatest}");
    println!("seed {seed}: {:?} under {greatest}", engine.counts().syntheses);
    at_rest(&gate).await;
    until("the engine at rest", || engine.counts().syntheses.running == 0).await;
    until("the engine up again", || status(&gate).engine.up).await;
    is_served(&gate).await;
    at_rest(&gate).await;
}

/// Changes the limit for as long as it lives, by both ways that there are.
async fn resize(gate: Arc<Gate>, greatest: Arc<AtomicU32>, seed: u64) {
    let mut random = StdRng::seed_from_u64(!seed);
    loop {
        sleep(Duration::from_millis(random.random_range(1..40))).await;
        let limit = random.random_range(1..=LIMIT_MAX);
        greatest.fetch_max(limit, Relaxed);
        if random.random_bool(0.5) {
            put_limit(&gate, limit).await;
        } else {
            gate.control().set_limit(limit.try_into().unwrap());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_the_engine_never_runs_more_than_the_limit_and_every_slot_comes_back() {
    // A few at a time: most of a schedule is waiting.
    let mut lanes = JoinSet::new();
    for lane in 0..LANES {
        lanes.spawn(async move {
            for seed in SEEDS.skip(lane).step_by(LANES) {
                any_schedule_keeps_the_promise(seed).await;
            }
        });
    }
    while let Some(lane) = lanes.join_next().await {
        lane.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_smaller_limit_holds_as_soon_as_the_running_have_ended() {
    let engine = engine(fast()).await;
    let gate = start(config(engine.address(), 4));
    let held = [hold(&gate).await, hold(&gate).await, hold(&gate).await, hold(&gate).await];
    put_limit(&gate, 2).await;
    let mut late = JoinSet::new();
    for _ in 0..20 {
        let mut wire = Wire::to_gate(&gate).await;
        late.spawn(async move { wire.ask(say(40)).await.status() });
    }
    until("all of them waiting", || status(&gate).waiting == 20).await;
    assert_eq!(status(&gate).running, 4, "shrinking cuts nobody off");
    drop(held);
    until("the held ended", || engine.counts().syntheses.running <= 2).await;
    engine.reset();
    assert!(soon("their answers", late.join_all()).await.iter().all(|status| *status == 200));
    assert!(engine.counts().syntheses.peak <= 2, "{:?}", engine.counts());
    at_rest(&gate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_streams_of_one_h2c_connection_share_the_slots_and_a_reset_gives_its_slot_back() {
    let engine = engine(fast()).await;
    let gate = start(config(engine.address(), 3));
    let sender = h2c(&gate).await;
    let mut holding = Vec::new();
    for _ in 0..3 {
        holding.push(soon("an answer", sender.clone().send_request(synthesis(ENDLESS))).await.unwrap());
    }
    let mut waiting = JoinSet::new();
    for _ in 0..40 {
        let mut sender = sender.clone();
        waiting.spawn(async move {
            let answer = sender.send_request(synthesis(40)).await.unwrap();
            let status = answer.status();
            answer.into_body().collect().await.unwrap();
            status
        });
    }
    until("forty waiting", || status(&gate).waiting == 40).await;
    assert_eq!(engine.counts().syntheses.running, 3);
    // A stream that is reset in the queue leaves it, its neighbours stay.
    let mut gone = sender.clone();
    let gone = tokio::spawn(async move { gone.send_request(synthesis(40)).await });
    until("one more waiting", || status(&gate).waiting == 41).await;
    gone.abort();
    until("one less waiting", || status(&gate).waiting == 40).await;
    drop(holding);
    assert!(soon("all answers", waiting.join_all()).await.iter().all(|status| *status == 200));
    assert!(engine.counts().syntheses.peak <= 3, "{:?}", engine.counts());
    at_rest(&gate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_stops_reading_loses_its_slot_over_http1_and_h2c() {
    let engine = engine(fast()).await;
    let mut config = config(engine.address(), 2);
    config.limits.caller_stall_timeout = Duration::from_millis(300);
    let gate = start(config);
    let mut still = hold(&gate).await;
    let stream = soon("an answer", h2c(&gate).await.send_request(synthesis(ENDLESS))).await.unwrap();
    assert_eq!(status(&gate).running, 2);
    at_rest(&gate).await;
    until("the engine at rest", || engine.counts().syntheses.running == 0).await;
    // Both learn that their audio is not whole.
    assert!(soon("the end", still.try_body(common::Message::default())).await.is_some());
    assert!(soon("the end", stream.into_body().collect()).await.is_err());
    is_served(&gate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_uploads_slowly_holds_no_slot() {
    let engine = engine(fast()).await;
    let gate = start(config(engine.address(), 1));
    let mut slow = Vec::new();
    let request = say(40);
    for _ in 0..20 {
        let mut wire = Wire::to_gate(&gate).await;
        wire.send(&request[..request.len() - 2]).await;
        slow.push(wire);
    }
    until("all of them connected", || status(&gate).connections == 20).await;
    assert_eq!(ask(&gate, say(40)).await.status(), 200);
    assert_eq!(engine.counts().syntheses.total, 1);
    assert_eq!((status(&gate).running, status(&gate).waiting), (0, 0));
    for wire in &mut slow {
        assert_eq!(wire.ask(&request[request.len() - 2..]).await.status(), 200);
    }
    assert_eq!(engine.counts().syntheses.peak, 1);
    at_rest(&gate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_stalls_gives_its_slot_back_and_the_caller_learns_of_it() {
    let engine = engine(Settings { faults: Faults { stall_rate: 1.0, ..Faults::default() }, ..fast() }).await;
    let mut config = config(engine.address(), 1);
    config.engine.stall_timeout = Duration::from_millis(200);
    let gate = start(config);
    for _ in 0..3 {
        let mut wire = Wire::to_gate(&gate).await;
        wire.send(say(200)).await;
        let head = wire.head().await;
        assert_eq!(head.status(), 200);
        assert!(soon("the end", wire.try_body(head)).await.is_none(), "broken audio does not look whole");
    }
    at_rest(&gate).await;
    assert_eq!(engine.counts().syntheses.peak, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_gate_ends_what_runs_refuses_what_waits_and_lets_nobody_in() {
    let engine = engine(fast()).await;
    let gate = start(config(engine.address(), 1));
    let address = gate.addresses()[0];
    let mut running = Wire::to_gate(&gate).await;
    running.send(say(6_000)).await;
    let head = running.head().await;
    let mut queued = Wire::to_gate(&gate).await;
    queued.send(say(40)).await;
    until("one waiting", || status(&gate).waiting == 1).await;
    let mut idle = Wire::to_gate(&gate).await;
    assert_eq!(idle.ask("GET /health HTTP/1.1\r\nHost: gate\r\n\r\n").await.status(), 200);
    let control = Arc::clone(gate.control());
    let metrics_address = gate.metrics_address();
    let draining = tokio::spawn(gate.drain());

    let refused = queued.message().await;
    assert_eq!((refused.status(), refused.reason().as_str()), (503, "draining"));
    assert!(queued.ending().await.is_empty(), "a drained connection is closed");
    assert!(idle.ending().await.is_empty(), "an idle connection is closed");
    assert!(!control.is_ready());
    let ready = Wire::to(metrics_address).await.ask("GET /readyz HTTP/1.1\r\nHost: g\r\n\r\n").await;
    assert_eq!(ready.status(), 503, "unready for as long as it drains");
    // The kernel may still complete a handshake; nobody serves what comes.
    if let Ok(stream) = TcpStream::connect(address).await {
        let mut late = Wire::over(stream);
        late.try_send(say(40)).await;
        assert!(soon("the end", late.try_head()).await.is_none(), "nobody is let in");
    }
    let spoken = running.body(head).await;
    assert!(spoken.body.len() > 6_000 * 24_000 * 2 / 14 / 2, "the running synthesis is whole");
    soon("the drain", draining).await.unwrap();
    assert_eq!(engine.counts().syntheses.completed, 1);
    assert!(TcpStream::connect(address).await.is_err(), "the address is free");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_cuts_off_what_runs_past_its_timeout() {
    let engine = engine(fast()).await;
    let mut config = config(engine.address(), 2);
    config.limits.drain_timeout = Duration::from_millis(200);
    let gate = start(config);
    let mut held = hold(&gate).await;
    soon("the drain", gate.drain()).await;
    held.ending().await;
    until("the engine at rest", || engine.counts().syntheses.running == 0).await;
    assert_eq!(engine.counts().syntheses.completed, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_is_full_shows_it_in_its_metrics() {
    let engine = engine(fast()).await;
    let gate = start(config(engine.address(), 1));
    let held = hold(&gate).await;
    let mut queued = Wire::to_gate(&gate).await;
    queued.send(say(40)).await;
    until("the queue's depth", || gauge(&gate, "rime_gate_queue_depth") == 1.0).await;
    assert_eq!(gauge(&gate, "rime_gate_inflight_syntheses"), 1.0);
    until("an age", || gauge(&gate, "rime_gate_oldest_synthesis_age_seconds") > 0.0).await;
    // Who hangs up in the queue leaves it at once.
    drop(queued);
    until("an empty queue", || gauge(&gate, "rime_gate_queue_depth") == 0.0).await;
    assert_eq!(engine.counts().syntheses.total, 1);
    drop(held);
    at_rest(&gate).await;
}
