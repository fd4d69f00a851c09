//! Takes in connections and serves each as its listener's kind says. Decides nothing about requests.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};

use super::http::{self, Kind};
use super::reply::Reply;
use super::surface::Surface;

/// HTTP/2 streams on one connection: a gate in front may well keep only one.
const STREAMS_MAX: u32 = 4_096;
/// Pause after a connection could not be accepted: descriptors may be short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// Accepts until the engine stops.
///
/// # Cancel safety
/// The listener closes; connections go on.
pub(super) async fn accept(listener: TcpListener, kind: Kind, surface: Arc<Surface>) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = surface.graceful.cancelled() => return,
            () = surface.kill.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let serve = serve(stream, kind, surface.clone());
                let kill = surface.kill.clone();
                surface.tasks.spawn(async move { kill.run_until_cancelled(serve).await });
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Serves one connection, HTTP/1.1 or HTTP/2 with prior knowledge.
async fn serve(stream: TcpStream, kind: Kind, surface: Arc<Surface>) {
    // Small pieces must leave at once. A socket that refuses is closed already.
    let _ = stream.set_nodelay(true);
    let open = Arc::new(surface.witness.connection());
    let graceful = surface.graceful.clone();
    let service = service_fn(move |request| -> BoxedAnswer {
        Box::pin(http::answer(surface.clone(), kind, open.clone(), request))
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http2().max_concurrent_streams(STREAMS_MAX);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    // How the connection ended concerns its caller; the engine counts syntheses.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = graceful.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

type BoxedAnswer =
    std::pin::Pin<Box<dyn Future<Output = Result<::http::Response<Reply>, Infallible>> + Send>>;
