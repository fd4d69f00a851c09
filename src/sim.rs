//! A simulated Rime engine: speaks the engine's protocols and behaves under load like a GPU, and counts what
//! it does. Knows nothing of the gate; it is what the gate is demonstrated, developed and measured against.
//!
//! ```
//! use rime_gate::sim::{self, Profile, Settings};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let settings = Settings { profile: Profile::named("test-fast")?, ..Settings::default() };
//! let engine = sim::start(settings).await?;
//! println!("POST http://{}/", engine.address());
//! assert_eq!(engine.counts().syntheses.peak, 0);
//! engine.stop().await;
//! # Ok(())
//! # }
//! ```

pub mod arguments;
pub mod audio;
mod choices;
pub mod counts;
mod door;
pub mod faults;
pub mod gpu;
mod grpc;
mod http;
mod legacy;
pub mod profile;
mod reply;
pub mod request;
mod socket;
mod speech;
mod surface;
mod text;
mod timestamps;
mod v1;
mod worker;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::http::StatusCode;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::choices::{OnClear, OnDuplicateStart};
pub use self::counts::Counts;
use self::counts::Witness;
use self::faults::Dice;
pub use self::faults::Faults;
use self::gpu::Gpu;
use self::http::Kind;
pub use self::profile::{OutOfMemory, Profile, ProfileError, Variables};
pub use self::request::Style;
use self::surface::Surface;
use self::worker::Worker;

/// How long [`Engine::stop`] waits for running syntheses.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// What an engine is like. The default is the reference profile on a port of the system's choice.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it listens; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Where `rime.TextToSpeech` is served, if it is; HTTP/2 with prior knowledge.
    pub grpc: Option<SocketAddr>,
    /// Where the legacy JSON WebSocket has a listener of its own, if it has.
    pub ws_json: Option<SocketAddr>,
    /// Where the legacy binary WebSocket has a listener, if it has.
    pub ws_binary: Option<SocketAddr>,
    /// The hardware.
    pub profile: Profile,
    /// The image's variables, where they differ from the profile's.
    pub variables: Variables,
    /// Fixes every chance: the same requests in the same order meet the same deviations and faults.
    pub seed: u64,
    /// What goes wrong.
    pub faults: Faults,
    /// How long a synthesis whose caller went away works on before the engine notices.
    pub cancel_delay: Duration,
    /// Whether the response head is sent at once instead of with the first audio.
    pub early_head: bool,
    /// Details of the answers.
    pub style: Style,
    /// The key that callers must present, if any.
    pub api_key: Option<String>,
    /// `INFERENCE_CONCURRENCY_CAPACITY`: what the load report is relative to.
    pub capacity: u32,
    /// What `clear` does on a legacy WebSocket.
    pub on_clear: OnClear,
    /// What a second `start` of an open context does on a WebSocket v1.
    pub on_duplicate_start: OnDuplicateStart,
    /// Whether `done` follows the `error` of a failed run on a legacy JSON WebSocket.
    pub done_after_error: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            grpc: None,
            ws_json: None,
            ws_binary: None,
            profile: Profile::default(),
            variables: Variables::default(),
            seed: 1,
            faults: Faults::default(),
            cancel_delay: Duration::ZERO,
            early_head: false,
            style: Style::default(),
            api_key: None,
            capacity: 32,
            on_clear: OnClear::default(),
            on_duplicate_start: OnDuplicateStart::default(),
            done_after_error: false,
        }
    }
}

/// Why an engine did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// A variable is out of range.
    #[error("cannot use the variables")]
    Profile(#[from] ProfileError),
    /// The model does not fit into the GPU's memory.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
    /// The status of `refuse` is none.
    #[error("cannot refuse with status {0}")]
    Refuse(u16),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
}

/// A running engine. Dropping it kills it.
#[derive(Debug)]
pub struct Engine {
    address: SocketAddr,
    grpc: Option<SocketAddr>,
    ws_json: Option<SocketAddr>,
    ws_binary: Option<SocketAddr>,
    witness: Witness,
    tasks: TaskTracker,
    graceful: CancellationToken,
    kill: CancellationToken,
}

/// Starts an engine on the current runtime.
///
/// # Errors
/// It does not fit into its GPU's memory, or cannot listen.
///
/// # Cancel safety
/// Nothing was started.
pub async fn start(settings: Settings) -> Result<Engine, StartError> {
    let limits = settings.profile.limits(&settings.variables)?;
    settings.profile.fit(&limits)?;
    let refuse = settings.faults.refuse;
    let refuse = refuse.map(|status| StatusCode::from_u16(status).map_err(|_| StartError::Refuse(status)));
    let refuse = refuse.transpose()?;

    let (http, address) = listen(settings.listen).await?;
    let mut listeners = vec![(http, Kind::Http)];
    let mut bound = [None; 3];
    let further =
        [(settings.grpc, Kind::Grpc), (settings.ws_json, Kind::WsJson), (settings.ws_binary, Kind::WsBinary)];
    for (bound, (address, kind)) in bound.iter_mut().zip(further) {
        let Some(address) = address else { continue };
        let (listener, address) = listen(address).await?;
        *bound = Some(address);
        listeners.push((listener, kind));
    }
    let [grpc, ws_json, ws_binary] = bound;

    let witness = Witness::default();
    let gpu = Gpu::new(settings.profile.clone(), limits, settings.seed);
    let worker = Worker::new(gpu, settings.cancel_delay);
    let (tasks, graceful, kill) = (TaskTracker::new(), CancellationToken::new(), CancellationToken::new());
    let surface = Arc::new(Surface {
        profile: settings.profile.name,
        worker: worker.clone(),
        witness: witness.clone(),
        dice: Mutex::new(Dice::new(settings.faults, settings.seed)),
        refuse,
        style: settings.style,
        early_head: settings.early_head,
        api_key: settings.api_key,
        capacity: settings.capacity.max(1),
        on_clear: settings.on_clear,
        on_duplicate_start: settings.on_duplicate_start,
        done_after_error: settings.done_after_error,
        requests: AtomicU64::new(0),
        tasks: tasks.clone(),
        graceful: graceful.clone(),
        kill: kill.clone(),
    });

    let engine = Engine { address, grpc, ws_json, ws_binary, witness, tasks, graceful, kill };
    let kill = engine.kill.clone();
    tokio::spawn(async move { kill.run_until_cancelled(worker.run()).await });
    for (listener, kind) in listeners {
        engine.tasks.spawn(door::accept(listener, kind, surface.clone()));
    }
    Ok(engine)
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let refused = |source| StartError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;
    Ok((listener, address))
}

/// What an error is called (`kind`) where it has no status.
fn refusal_kind(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 => "invalid_input",
        401 => "unauthenticated",
        403 => "permission_denied",
        404 => "not_found",
        429 => "resource_exhausted",
        501 => "unimplemented",
        502 | 503 => "unavailable",
        504 => "timeout",
        _ => "internal",
    }
}

impl Engine {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where gRPC is served, if [`Settings::grpc`] asked for it.
    #[must_use]
    pub fn grpc(&self) -> Option<SocketAddr> {
        self.grpc
    }

    /// Where the legacy JSON WebSocket listens, if [`Settings::ws_json`] asked for it.
    #[must_use]
    pub fn ws_json(&self) -> Option<SocketAddr> {
        self.ws_json
    }

    /// Where the legacy binary WebSocket listens, if [`Settings::ws_binary`] asked for it.
    #[must_use]
    pub fn ws_binary(&self) -> Option<SocketAddr> {
        self.ws_binary
    }

    /// What it has done, by its own count.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.witness.counts()
    }

    /// Forgets what was; what runs stays counted.
    pub fn reset(&self) {
        self.witness.reset();
    }

    /// Stops accepting, lets running syntheses end (for at most 30 seconds), then closes.
    ///
    /// # Cancel safety
    /// Dropping it kills the engine.
    pub async fn stop(self) {
        self.graceful.cancel();
        self.tasks.close();
        let _ = tokio::time::timeout(STOP_TIMEOUT, self.tasks.wait()).await;
        self.end_now().await;
    }

    /// Dies as a process does that is killed: every connection breaks.
    ///
    /// # Cancel safety
    /// The engine is dead all the same; what is not waited for is the closing of its sockets.
    pub async fn kill(self) {
        self.end_now().await;
    }

    async fn end_now(&self) {
        self.kill.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.kill.cancel();
    }
}
