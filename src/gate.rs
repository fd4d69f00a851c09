//! Builds every room from a [`Config`], runs them and drains them. Decides which thread does what: workers carry
//! callers, each on a runtime of its own that its connections never leave; the caller's runtime does the rest.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::admin::{self, Access, Control};
use crate::admission::{self, Door};
use crate::config::{Config, EngineUrl, Limits, QueueWaitMax, Surface, Tuned, WhenFull};
use crate::engine::grpc::GrpcClient;
use crate::engine::{EngineClient, Health};
use crate::listener::{self, Doorway};
use crate::metrics::{self, Metrics, Protocol};
use crate::relay;
use crate::relay::websocket::Sockets;
use crate::stream::{Books, StallTimeouts};

/// Connections to the admin address, and to the metrics address: scrapers, probes and a few people.
const ADMIN_CONNECTIONS_MAX: usize = 256;

/// How long such a connection is kept unused; scrapers connect again.
const ADMIN_IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// How often unused engine connections are looked through.
const POOL_LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Why a gate does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address} ({what})")]
    Bind {
        /// Which of the gate's addresses.
        what: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// A worker thread cannot be started.
    #[error("cannot start a worker")]
    Worker(#[source] io::Error),
}

/// A running gate. Dropped without [`drain`](Self::drain), it stops at once and cuts off what runs.
#[derive(Debug)]
pub struct Gate {
    addresses: Vec<SocketAddr>,
    admin_address: SocketAddr,
    metrics_address: SocketAddr,
    control: Arc<Control>,
    doorway: Doorway,
    sockets: Sockets,
    /// Of the admin and metrics addresses: they serve until the last synthesis has ended, and one's crowd does not keep
    /// the other's few out.
    back_doors: [Doorway; 2],
    workers: Vec<JoinHandle<()>>,
    /// Cancelled when workers are to leave.
    stop: CancellationToken,
    /// Sweeping, health, admin.
    housekeeping: JoinSet<()>,
    drain_timeout: Duration,
}

impl Gate {
    /// Binds every address, then starts the workers, and the rest on the current runtime.
    ///
    /// # Errors
    ///
    /// [`StartError`]; nothing runs then.
    pub fn start(config: Config) -> Result<Self, StartError> {
        let config = Arc::new(config);
        let bound = Bound::bind(&config)?;
        let metrics = Arc::new(Metrics::new(&metrics_settings(&config)));
        let doorway = Doorway::new(config.limits.clone(), Some(Arc::clone(&metrics)));
        let door = Door::new(admission_settings(&config));
        let linger = config.engine.cancel_linger;
        let grpc = Books::new(door.class(Protocol::Grpc as usize), Arc::clone(&metrics), linger);
        let books = Arc::new(Books::new(door, metrics, linger));
        let health = Arc::new(Health::default());
        let sockets = Sockets::new(&config);
        let control = Arc::new(Control::new(
            Arc::clone(&config),
            Arc::clone(&books),
            Arc::new(grpc),
            Arc::clone(&health),
            Arc::clone(&doorway.open),
            Arc::clone(&doorway.turned_away),
            sockets.clone(),
        ));
        let mut gate = Self {
            addresses: bound.callers.iter().filter_map(|socket| socket.local_addr().ok()).collect(),
            admin_address: bound.admin.local_addr().unwrap_or(config.admin.address),
            metrics_address: bound.metrics.local_addr().unwrap_or(config.metrics.address),
            control,
            doorway,
            sockets,
            back_doors: [Access::Admin, Access::ReadOnly].map(|_| back_door(&config.limits)),
            workers: Vec::new(),
            stop: CancellationToken::new(),
            housekeeping: JoinSet::new(),
            drain_timeout: config.limits.drain_timeout,
        };
        gate.keep_house(bound.admin, bound.metrics, &config)?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        for number in 0..config.runtime.threads.count(cores) {
            gate.employ(number, &bound.callers, &config)?;
        }
        Ok(gate)
    }

    /// What runs beside the workers, on the current runtime.
    fn keep_house(
        &mut self,
        admin: std::net::TcpListener,
        metrics: std::net::TcpListener,
        config: &Config,
    ) -> Result<(), StartError> {
        let timeouts =
            StallTimeouts { engine: config.engine.stall_timeout, caller: config.limits.caller_stall_timeout };
        let control = &self.control;
        self.housekeeping.spawn(Arc::clone(&control.books).keep_sweeping(timeouts));
        self.housekeeping.spawn(Arc::clone(&control.grpc).keep_sweeping(timeouts));
        self.housekeeping.spawn(Arc::clone(control).keep_judging());
        self.housekeeping.spawn(Arc::clone(&control.health).watch(config.engine.clone()));
        let sockets = [(admin, Access::Admin), (metrics, Access::ReadOnly)];
        for ((socket, access), back_door) in sockets.into_iter().zip(&self.back_doors) {
            let socket = TcpListener::from_std(socket).map_err(StartError::Worker)?;
            let service = admin::service(Arc::clone(control), access);
            self.housekeeping.spawn(listener::accept(socket, service, back_door.clone()));
        }
        Ok(())
    }

    /// Starts one worker.
    fn employ(
        &mut self,
        number: usize,
        sockets: &[std::net::TcpListener],
        config: &Arc<Config>,
    ) -> Result<(), StartError> {
        let sockets: Vec<_> = sockets
            .iter()
            .map(std::net::TcpListener::try_clone)
            .collect::<Result<_, _>>()
            .map_err(StartError::Worker)?;
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Worker)?;
        let work = work(
            sockets,
            Arc::clone(config),
            Arc::clone(&self.control),
            self.doorway.clone(),
            self.sockets.clone(),
            self.stop.clone(),
        );
        let worker = std::thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(move || runtime.block_on(work))
            .map_err(StartError::Worker)?;
        self.workers.push(worker);
        Ok(())
    }

    /// Where callers come in, in the configuration's order, with the ports that the system chose.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The admin address.
    #[must_use]
    pub const fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// The metrics address.
    #[must_use]
    pub const fn metrics_address(&self) -> SocketAddr {
        self.metrics_address
    }

    /// The gate's state.
    #[must_use]
    pub const fn control(&self) -> &Arc<Control> {
        &self.control
    }

    /// Lets nobody in any more, refuses the waiting, lets the running end within `drain_timeout`, then stops.
    ///
    /// # Cancel safety
    ///
    /// Dropping it stops the gate at once.
    pub async fn drain(mut self) {
        let door = self.control.books.door.clone();
        info!(running = door.snapshot().running, "draining");
        door.drain();
        self.doorway.drain.cancel();
        self.doorway.tasks.close();
        self.sockets.drain.cancel();
        self.sockets.tasks.close();
        let ending = async {
            self.doorway.tasks.wait().await;
            self.sockets.tasks.wait().await;
            door.idle().await;
        };
        let started = Instant::now();
        match timeout(self.drain_timeout, ending).await {
            Ok(()) => info!(took = ?started.elapsed(), "drained"),
            Err(_) => warn!(cut_off = door.snapshot().running, "the drain timeout has passed"),
        }
        self.stop.cancel();
        for worker in self.workers.drain(..) {
            if tokio::task::spawn_blocking(|| worker.join()).await.is_ok_and(|joined| joined.is_err()) {
                error!("a worker had panicked");
            }
        }
        self.housekeeping.shutdown().await;
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.doorway.drain.cancel();
        self.sockets.drain.cancel();
        self.back_doors.iter().for_each(|back_door| back_door.drain.cancel());
        self.stop.cancel();
    }
}

/// Every socket of a gate, bound before anything runs.
struct Bound {
    callers: Vec<std::net::TcpListener>,
    admin: std::net::TcpListener,
    metrics: std::net::TcpListener,
}

impl Bound {
    fn bind(config: &Config) -> Result<Self, StartError> {
        let bind = |what, address| {
            listener::bind(address).map_err(|source| StartError::Bind { what, address, source })
        };
        let callers = config.listeners.iter().map(|listener| bind("listener", listener.address));
        Ok(Self {
            callers: callers.collect::<Result<_, _>>()?,
            admin: bind("admin", config.admin.address)?,
            metrics: bind("metrics", config.metrics.address)?,
        })
    }
}

/// One worker's life.
async fn work(
    doors: Vec<std::net::TcpListener>,
    config: Arc<Config>,
    control: Arc<Control>,
    doorway: Doorway,
    sockets: Sockets,
    stop: CancellationToken,
) {
    let engine = EngineClient::new(&config.engine.http, &config.engine, Arc::clone(&control.health));
    let grpc = GrpcClient::new(&config.engine);
    let mut clients = vec![engine.clone()];
    for (socket, listener) in doors.into_iter().zip(&config.listeners) {
        match TcpListener::from_std(socket) {
            Ok(socket) => {
                let engine = match listener.surface {
                    Surface::Grpc => {
                        let stack = relay::grpc::stack(&config, &control.grpc, &control.health, &grpc);
                        tokio::spawn(listener::accept(socket, stack, doorway.clone()));
                        continue;
                    }
                    Surface::WsJson => legacy(&config.engine.ws_json, &config),
                    Surface::WsBinary => legacy(&config.engine.ws_binary, &config),
                    Surface::Http => engine.clone(),
                };
                let stack = relay::stack(&config, listener, &control.books, &sockets, &engine);
                clients.push(engine);
                tokio::spawn(listener::accept(socket, stack, doorway.clone()));
            }
            Err(error) => error!(%error, address = %listener.address, "a worker cannot listen"),
        }
    }
    let mut looks = interval(POOL_LOOK_INTERVAL.min(config.engine.pool_idle_timeout));
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = looks.tick() => {
                clients.iter().for_each(EngineClient::close_idle);
                grpc.close_idle();
            }
        }
    }
}

/// A client of one of the API container's sockets. Whether the engine is up is judged by its HTTP surface alone.
fn legacy(url: &EngineUrl, config: &Config) -> EngineClient {
    EngineClient::new(url, &config.engine, Arc::default())
}

/// The way in for operators: few, and none of them silent for long, so that probes always get through.
fn back_door(limits: &Limits) -> Doorway {
    let limits = Limits {
        connections_max: ADMIN_CONNECTIONS_MAX,
        idle_timeout: ADMIN_IDLE_TIMEOUT.min(limits.idle_timeout),
        ..limits.clone()
    };
    Doorway::new(limits, None)
}

fn admission_settings(config: &Config) -> admission::Settings {
    let admission = &config.admission;
    admission::Settings {
        limit: config.engine.concurrency_max,
        when_full: match admission.when_full {
            WhenFull::Queue => admission::WhenFull::Queue,
            WhenFull::Reject => admission::WhenFull::Reject,
            WhenFull::Observe => admission::WhenFull::Observe,
        },
        queue_max: admission.queue_max.try_into().unwrap_or(u32::MAX),
        queue_wait_max: match (admission.queue_wait_max, config.target.slo.ttfb_max()) {
            (QueueWaitMax::Fixed(wait), _) => admission::QueueWaitMax::Fixed(wait),
            (QueueWaitMax::Auto, target) => {
                admission::QueueWaitMax::Auto { target_ttfb: target.unwrap_or(TTFB_MAX_WITHOUT_TARGET) }
            }
        },
    }
}

/// What a caller is taken to bear where the target names no TTFB: the guide's second.
const TTFB_MAX_WITHOUT_TARGET: Duration = Duration::from_secs(1);

fn metrics_settings(config: &Config) -> metrics::Settings {
    metrics::Settings {
        models: config.metrics.models.clone(),
        engines: vec![config.engine.name.clone()],
        target: config.target.slo,
        status_when_full: config.admission.status_when_full.code(),
        tuned: tuned_labels(&config.engine.tuned),
        is_tuned: !config.engine.tuned.is_empty(),
    }
}

fn tuned_labels(tuned: &Tuned) -> [String; 6] {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    [
        tuned.target.map_or_else(String::new, |target| target.to_string()),
        text(&tuned.model),
        text(&tuned.image),
        text(&tuned.gpu),
        tuned.level.map_or_else(String::new, |level| level.to_string()),
        text(&tuned.date),
    ]
}
