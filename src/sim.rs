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
pub mod counts;
pub mod faults;
pub mod gpu;
mod http;
pub mod profile;
pub mod request;
mod speech;
mod worker;

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::http::StatusCode;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::counts::Counts;
use self::counts::{Open, Witness};
use self::faults::Dice;
pub use self::faults::Faults;
use self::gpu::Gpu;
use self::http::Surface;
pub use self::profile::{OutOfMemory, Profile, ProfileError, Variables};
pub use self::request::Style;
use self::worker::Worker;

/// How long [`Engine::stop`] waits for running syntheses.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// HTTP/2 streams on one connection: a gate in front may well keep only one.
const STREAMS_MAX: u32 = 4_096;
/// Pause after a connection could not be accepted: descriptors may be short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// What an engine is like. The default is the reference profile on a port of the system's choice.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it listens; port 0 lets the system choose.
    pub listen: SocketAddr,
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
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            profile: Profile::default(),
            variables: Variables::default(),
            seed: 1,
            faults: Faults::default(),
            cancel_delay: Duration::ZERO,
            early_head: false,
            style: Style::default(),
            api_key: None,
            capacity: 32,
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

    let refused = |source| StartError::Listen { address: settings.listen, source };
    let listener = TcpListener::bind(settings.listen).await.map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;

    let witness = Witness::default();
    let gpu = Gpu::new(settings.profile.clone(), limits, settings.seed);
    let worker = Worker::new(gpu, settings.cancel_delay);
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
    });

    let engine = Engine {
        address,
        witness,
        tasks: TaskTracker::new(),
        graceful: CancellationToken::new(),
        kill: CancellationToken::new(),
    };
    let kill = engine.kill.clone();
    tokio::spawn(async move { kill.run_until_cancelled(worker.run()).await });
    let door = Door {
        surface,
        tasks: engine.tasks.clone(),
        graceful: engine.graceful.clone(),
        kill: engine.kill.clone(),
    };
    engine.tasks.spawn(door.accept(listener));
    Ok(engine)
}

impl Engine {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
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

/// Takes in connections.
struct Door {
    surface: Arc<Surface>,
    tasks: TaskTracker,
    graceful: CancellationToken,
    kill: CancellationToken,
}

impl Door {
    async fn accept(self, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.graceful.cancelled() => return,
                () = self.kill.cancelled() => return,
            };
            match accepted {
                Ok((stream, _)) => {
                    let open = self.surface.witness.connection();
                    let serve = serve(stream, self.surface.clone(), self.graceful.clone(), open);
                    let kill = self.kill.clone();
                    self.tasks.spawn(async move { kill.run_until_cancelled(serve).await });
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    }
}

/// Serves one connection, HTTP/1.1 or HTTP/2 with prior knowledge.
async fn serve(stream: TcpStream, surface: Arc<Surface>, graceful: CancellationToken, open: Open) {
    // Small pieces must leave at once. A socket that refuses is closed already.
    let _ = stream.set_nodelay(true);
    let service =
        service_fn(move |request| -> BoxedAnswer { Box::pin(http::answer(surface.clone(), request)) });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http2().max_concurrent_streams(STREAMS_MAX);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    // How the connection ended concerns its caller; the engine counts syntheses.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = graceful.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
    drop(open);
}

type BoxedAnswer =
    std::pin::Pin<Box<dyn Future<Output = Result<::http::Response<http::Reply>, Infallible>> + Send>>;
