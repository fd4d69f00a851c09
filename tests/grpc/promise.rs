//! The promise over gRPC, counted in the engine: random callers, random aborts, and never more than the limit.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rime_gate::sim::{Faults, Settings};
use rimelabs_api::rime::StreamingSynthesisRequest;
use rimelabs_api::rime::streaming_synthesis_request::Payload as Said;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::calls::audio;
use crate::common::{at_rest, fast, soon, start, status, until};
use crate::{Client, Written, client, config, door, engine, say};

const CALLERS: usize = 200;

/// What one caller does: how it speaks, and when it loses patience.
#[derive(Clone, Copy)]
struct Plan {
    streams: bool,
    characters: usize,
    begins: Duration,
    patience: Option<Duration>,
    pause: Duration,
}

impl Plan {
    fn random(random: &mut StdRng) -> Self {
        let milliseconds = |random: &mut StdRng, most| Duration::from_millis(random.random_range(0..most));
        Self {
            streams: random.random_bool(0.4),
            characters: random.random_range(1..3_000),
            begins: milliseconds(random, 400),
            patience: random.random_bool(0.5).then(|| milliseconds(random, 300)),
            pause: milliseconds(random, 20),
        }
    }

    async fn write(self, texts: mpsc::Sender<StreamingSynthesisRequest>) {
        for number in 0..4 {
            sleep(self.pause).await;
            let said =
                if number == 0 { Said::Header(say(0)) } else { Said::TextChunk("Some words. ".into()) };
            if texts.send(StreamingSynthesisRequest { payload: Some(said) }).await.is_err() {
                return;
            }
        }
    }

    async fn live(self, mut client: Client) {
        sleep(self.begins).await;
        let call = async {
            let answer = if self.streams {
                let (texts, written) = mpsc::channel(1);
                tokio::spawn(self.write(texts));
                client.synthesize_streaming(Written(written)).await
            } else {
                client.synthesize(say(self.characters)).await
            };
            if let Ok(answer) = answer {
                let _ = audio(&mut answer.into_inner()).await;
            }
        };
        match self.patience {
            Some(patience) => drop(timeout(patience, call).await),
            None => call.await,
        }
    }
}

async fn any_crowd_keeps_the_promise(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let limit = random.random_range(1..12);
    let faults = Faults { error_rate: 0.05, cut_rate: 0.05, stall_rate: 0.02, ..Faults::default() };
    let faults = if seed.is_multiple_of(2) { Faults::default() } else { faults };
    let cancel_delay = Duration::from_millis(random.random_range(0..30));
    let engine =
        engine(Settings { seed, faults, cancel_delay, early_head: random.random_bool(0.5), ..fast() }).await;
    let mut settings = config(&engine, limit);
    settings.engine.stall_timeout = Duration::from_millis(400);
    let gate = start(settings);
    let shared = [client(door(&gate)).await, client(door(&gate)).await, client(door(&gate)).await];
    let mut callers = JoinSet::new();
    for number in 0..CALLERS {
        callers.spawn(Plan::random(&mut random).live(shared[number % shared.len()].clone()));
    }
    while let Some(ended) = soon("the callers' end", callers.join_next()).await {
        ended.unwrap();
    }
    let peak = engine.counts().syntheses.peak;
    assert!(peak <= u64::from(limit), "seed {seed}: {peak} at once under {limit}");
    println!("seed {seed}: {:?} under {limit}", engine.counts().syntheses);
    at_rest(&gate).await;
    until("the engine at rest", || engine.counts().syntheses.running == 0).await;
    for _ in 0..20 {
        // Fate may still strike a few.
        let Ok(answer) = soon("a head", shared[0].clone().synthesize(say(40))).await else { continue };
        if soon("the end", audio(&mut answer.into_inner())).await.is_ok() {
            assert_eq!(status(&gate).waiting, 0);
            return;
        }
    }
    panic!("nothing is served any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_callers_do_the_engine_never_runs_more_than_the_limit_and_every_slot_comes_back() {
    for seed in 0..6 {
        any_crowd_keeps_the_promise(seed).await;
    }
}
