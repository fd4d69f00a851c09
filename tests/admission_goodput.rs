//! What callers get: how many syntheses a second have their first byte within the target, as a share of what the limit
//! can serve, with the default settings and nobody tuning anything. Open loop: callers arrive as a Poisson process,
//! whether or not the gate keeps up. Pure, seeded, no clock: minutes of traffic in milliseconds.
//!
//! Two others serve the same callers for comparison. A plain queue lets each wait up to a second, first come first
//! served. The oracle knows beforehand each caller's wait and upstream TTFB, and turns away exactly those who would be
//! late: nobody who serves in order of arrival does better. At 1x it loses some too, by Erlang's formula for a system
//! with `limit` servers and room for the few who can wait and still be in time: with 20 slots held 8 s, 2.5 come free
//! a second, so the last second has room for about two, and one caller in eight must go.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rime_gate::admission::Settings;
use rime_gate::admission::scheduler::{Decision, Outcome, Scheduler, Ticket};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

/// The default target: wait and upstream TTFB together.
const TARGET: f64 = 1.0;
const WARM_UP: f64 = 30.0;
const MEASURED: f64 = 60.0;
const SEEDS: u64 = 8;
/// As multiples of what the limit can serve.
const LOADS: [f64; 3] = [1.0, 1.5, 3.0];

/// An engine and what is asked of it. Seconds, drawn evenly from between the two.
#[derive(Clone, Copy, Debug)]
struct Shape {
    name: &'static str,
    limit: u32,
    holding: (f64, f64),
    upstream_ttfb: (f64, f64),
    /// What the caller sees and the gate does not: the way between them, and the time of a busy machine.
    unseen: (f64, f64),
}

impl Shape {
    /// Syntheses per second when every slot is always taken.
    fn capacity(&self) -> f64 {
        f64::from(self.limit) / f64::midpoint(self.holding.0, self.holding.1)
    }
}

/// Slots that are held for long: some 2.5 come free a second.
const LONG: Shape =
    Shape { name: "long", limit: 20, holding: (3.6, 12.6), upstream_ttfb: (0.2, 0.3), unseen: (0.0, 0.01) };
const SHORT: Shape = Shape { name: "short", holding: (0.6, 1.4), ..LONG };
const UNEVEN: (f64, f64) = (0.1, 0.7);
const EVEN: (f64, f64) = (0.249, 0.251);
/// What a busy machine takes on the way.
const BUSY: (f64, f64) = (0.0, 0.04);

const SHAPES: [Shape; 10] = [
    Shape { name: "busy machine", upstream_ttfb: EVEN, unseen: BUSY, ..SHORT },
    Shape { name: "busy, long", upstream_ttfb: EVEN, unseen: BUSY, ..LONG },
    LONG,
    SHORT,
    Shape { name: "uneven TTFB", holding: (0.8, 1.6), upstream_ttfb: UNEVEN, ..SHORT },
    Shape { name: "long, uneven", upstream_ttfb: UNEVEN, ..LONG },
    Shape { name: "4, long", limit: 4, ..LONG },
    Shape { name: "4, short", limit: 4, ..SHORT },
    Shape { name: "64, long", limit: 64, ..LONG },
    Shape { name: "64, short", limit: 64, ..SHORT },
];

#[derive(Clone, Copy, Debug)]
struct Caller {
    arrives: f64,
    holding: f64,
    upstream_ttfb: f64,
    unseen: f64,
}

fn callers(shape: Shape, load: f64, seed: u64) -> Vec<Caller> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut arrives = 0.0;
    let mut callers = Vec::new();
    while arrives < WARM_UP + MEASURED {
        arrives += -(1.0 - rng.random::<f64>()).ln() / (shape.capacity() * load);
        let holding = rng.random_range(shape.holding.0..shape.holding.1);
        let upstream_ttfb = rng.random_range(shape.upstream_ttfb.0..shape.upstream_ttfb.1);
        let unseen = rng.random_range(shape.unseen.0..=shape.unseen.1);
        callers.push(Caller { arrives, holding, upstream_ttfb, unseen });
    }
    callers
}

/// What came of the callers who arrived after the warm-up.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    arrived: u32,
    good: u32,
    late: u32,
    /// Refused after a wait.
    in_vain: u32,
}

impl Tally {
    fn served(&mut self, caller: Caller, wait: f64) {
        if caller.arrives >= WARM_UP {
            if wait + caller.upstream_ttfb + caller.unseen <= TARGET {
                self.good += 1;
            } else {
                self.late += 1;
            }
        }
    }
}

/// In order of arrival, each waiting as long as `patience` says or not at all.
fn in_order(shape: Shape, callers: &[Caller], patience: impl Fn(&Caller) -> f64) -> Tally {
    let mut free = vec![0.0_f64; shape.limit as usize];
    let mut tally = Tally::default();
    for caller in callers {
        let first = free.iter_mut().min_by(|a, b| a.total_cmp(b)).expect("a limit is never zero");
        let wait = (*first - caller.arrives).max(0.0);
        tally.arrived += u32::from(caller.arrives >= WARM_UP);
        if wait <= patience(caller) {
            *first = caller.arrives + wait + caller.holding;
            tally.served(*caller, wait);
        }
    }
    tally
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrival,
    FirstByte,
    End,
    TimeUp,
}

/// The scheduler with the callers before it and the engine behind it.
struct Gate<'a> {
    callers: &'a [Caller],
    scheduler: Scheduler<usize>,
    origin: Instant,
    events: BinaryHeap<Reverse<(Duration, Event, usize)>>,
    tickets: BTreeMap<usize, Ticket>,
    tally: Tally,
}

impl Gate<'_> {
    fn through(shape: Shape, callers: &[Caller]) -> Tally {
        let limit = NonZeroU32::new(shape.limit).expect("a limit is never zero");
        let arrivals = callers.iter().enumerate();
        let mut gate = Gate {
            callers,
            scheduler: Scheduler::new(Settings::new(limit)),
            origin: tokio::time::Instant::now().into_std(),
            events: arrivals.map(|(n, c)| Reverse((at(c.arrives), Event::Arrival, n))).collect(),
            tickets: BTreeMap::new(),
            tally: Tally::default(),
        };
        while let Some(Reverse((now, event, caller))) = gate.events.pop() {
            gate.step(now, event, caller);
        }
        assert!(gate.scheduler.is_empty());
        gate.tally
    }

    fn step(&mut self, after: Duration, event: Event, n: usize) {
        let now = self.origin + after;
        let caller = self.callers[n];
        match event {
            Event::Arrival => {
                self.tally.arrived += u32::from(caller.arrives >= WARM_UP);
                match self.scheduler.arrive(now, None, || n) {
                    Decision::Admitted => self.serve(after, n),
                    Decision::Queued { ticket, until } => {
                        self.tickets.insert(n, ticket);
                        self.events.push(Reverse((until - self.origin, Event::TimeUp, n)));
                    }
                    Decision::Refused(_) => {}
                }
            }
            Event::FirstByte => {
                self.scheduler.observe_upstream_ttfb(now, Duration::from_secs_f64(caller.upstream_ttfb));
            }
            Event::End => {
                if let Some(next) = self.scheduler.release(now) {
                    self.collect(after, next);
                }
            }
            Event::TimeUp => self.collect(after, n),
        }
    }

    fn collect(&mut self, after: Duration, n: usize) {
        // Its time may be up after it was served.
        let Some(ticket) = self.tickets.remove(&n) else { return };
        match self.scheduler.collect(self.origin + after, ticket) {
            Outcome::Waiting(_) => panic!("woken for nothing"),
            Outcome::Admitted { .. } => self.serve(after, n),
            Outcome::Refused(_) => self.tally.in_vain += u32::from(self.callers[n].arrives >= WARM_UP),
        }
    }

    fn serve(&mut self, after: Duration, n: usize) {
        let Caller { arrives, holding, upstream_ttfb, .. } = self.callers[n];
        self.tally.served(self.callers[n], after.as_secs_f64() - arrives);
        self.events.push(Reverse((after + at(upstream_ttfb), Event::FirstByte, n)));
        self.events.push(Reverse((after + at(holding), Event::End, n)));
    }
}

fn at(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// Good syntheses as shares of capacity, and what the gate's callers went through.
struct Row {
    gate: f64,
    plain: f64,
    oracle: f64,
    late: f64,
    in_vain: f64,
}

fn measure(shape: Shape, load: f64) -> Row {
    let mut sums = [Tally::default(); 3];
    for seed in 0..SEEDS {
        let callers = callers(shape, load, seed);
        let tallies = [
            Gate::through(shape, &callers),
            in_order(shape, &callers, |_| TARGET),
            in_order(shape, &callers, |caller| TARGET - caller.upstream_ttfb - caller.unseen),
        ];
        for (sum, tally) in sums.iter_mut().zip(tallies) {
            sum.arrived += tally.arrived;
            sum.good += tally.good;
            sum.late += tally.late;
            sum.in_vain += tally.in_vain;
        }
    }
    // By those who came, not by those who should have: at 1x, chance would else weigh as much as policy.
    let of_capacity = |tally: Tally| f64::from(tally.good) / f64::from(tally.arrived) * load;
    let [gate, plain, oracle] = sums;
    Row {
        gate: of_capacity(gate),
        plain: of_capacity(plain),
        oracle: of_capacity(oracle),
        late: f64::from(gate.late) / f64::from(gate.good + gate.late),
        in_vain: f64::from(gate.in_vain) / f64::from(gate.arrived),
    }
}

#[test]
fn with_its_defaults_the_gate_serves_nearly_all_that_the_limit_can_serve_in_time() {
    println!("good syntheses, as a share of what the limit can serve");
    println!("{:<14} load   gate  plain oracle   late in vain", "engine");
    let mut short = Vec::new();
    for shape in SHAPES {
        for load in LOADS {
            let Row { gate, plain, oracle, late, in_vain } = measure(shape, load);
            println!(
                "{:<14} {load:>3}x  {gate:.3}  {plain:.3}  {oracle:.3}  {late:.3}  {in_vain:.3}",
                shape.name
            );
            let promised: f64 = if load > 1.0 { 0.95 } else { 0.93 };
            // Where not even the oracle keeps the promise, the gate must come near it. It cannot be it: a caller whose
            // own first byte would come early could wait longer than the p99 allows.
            let kept = gate >= promised.min(oracle * 0.95) && late <= 0.005;
            let better = load <= 1.0 || gate > plain;
            if !kept || !better {
                short.push((shape.name, load));
            }
        }
    }
    assert!(short.is_empty(), "less than promised: {short:?}");
}
