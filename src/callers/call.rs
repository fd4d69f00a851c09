//! One call: a connection of its own, one request, one answer read to its end. Decides what happened, not whether
//! that was good.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::audio::{AudioClock, Hint};
use crate::meter::{Measured, Meter, Outcome};

/// What callers want to hear: it says its own rate.
pub(super) const AUDIO: &str = "audio/wav";

/// What came of a call.
#[derive(Clone, Debug)]
pub(super) enum Heard {
    /// An answer with a success status; `Outcome::Ok` if it came to its end.
    Answer(Measured),
    /// 429 or 503: an explicit no.
    Refusal,
    /// Anything else: no connection, no answer, another status.
    Failure,
}

/// The body that asks for `text`, as `armchair` sends it.
pub(super) fn body(text: &str) -> Bytes {
    json!({ "text": text, "speaker": "luna", "modelId": "arcana" }).to_string().into()
}

/// Calls, and listens to the end. The clock started at `scheduled`.
///
/// # Cancel safety
/// Dropping it hangs up.
pub(super) async fn call(address: SocketAddr, scheduled: Instant, body: Bytes) -> Heard {
    let Ok((answer, _line)) = ask(address, body).await else { return Heard::Failure };
    match answer.status() {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => Heard::Refusal,
        status if status.is_success() => Heard::Answer(listen(answer, scheduled).await),
        _ => Heard::Failure,
    }
}

/// The connection's task, stopped on drop.
struct Line(tokio::task::JoinHandle<()>);

impl Drop for Line {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(super) type Trouble = Box<dyn std::error::Error + Send + Sync>;

async fn ask(address: SocketAddr, body: Bytes) -> Result<(Response<Incoming>, Line), Trouble> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // How the connection ends is seen in the answer's body.
    let line = Line(tokio::spawn(async move { drop(connection.await) }));
    let request = Request::post("/invocations")
        .header(header::HOST, address.to_string())
        .header(header::ACCEPT, AUDIO)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))?;
    Ok((sender.send_request(request).await?, line))
}

async fn listen(answer: Response<Incoming>, scheduled: Instant) -> Measured {
    let content_type = answer.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let mut meter = meter(scheduled, content_type);
    let mut body = answer.into_body();
    while let Some(frame) = body.frame().await {
        let now = Instant::now().into_std();
        match frame {
            Ok(frame) => {
                if let Some(bytes) = frame.data_ref() {
                    meter.heard(now, bytes);
                }
            }
            Err(_) => return meter.end(now, Outcome::Truncated),
        }
    }
    meter.end(Instant::now().into_std(), Outcome::Ok)
}

/// A meter for sound of this type, whose clock started at `scheduled`.
pub(super) fn meter(scheduled: Instant, content_type: Option<&str>) -> Meter {
    let clock = AudioClock::for_answer(content_type, None, Hint::default());
    let scheduled = scheduled.into_std();
    Meter::new(scheduled, scheduled, Duration::ZERO, clock, Duration::ZERO)
}

/// What was measured, now that the answer has ended.
pub(super) fn ended(meter: Meter, outcome: Outcome) -> Heard {
    Heard::Answer(meter.end(Instant::now().into_std(), outcome))
}
