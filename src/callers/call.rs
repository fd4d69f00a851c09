//! One call: a connection of its own, one request, one answer read to its end. Decides what happened, not whether
//! that was good.

use std::fmt::Display;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Collected, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::manner::{AUDIO, Manner, Words};
use crate::engine::orca;
use crate::meter::{Measured, Meter, Outcome};
use crate::refusal::REASON_HEADER;

/// What is read of an answer that is no sound.
const ERROR_BYTES_MAX: usize = 4096;

/// What came of a call.
#[derive(Clone, Debug)]
pub enum Heard {
    /// An answer with a success status; `Outcome::Ok` if it came to its end.
    Answer(Measured),
    /// 429 or 503, or what stands for them: an explicit no, and why, as far as it was said.
    Refusal(String),
    /// Anything else: no connection, no answer, another status. What went wrong, in one line.
    Failure(String),
}

impl Heard {
    /// Nobody answered, or not to the end.
    pub(super) fn failure(trouble: impl Display) -> Self {
        Self::Failure(trouble.to_string())
    }
}

/// The body that asks for these words, as `armchair` sends it.
pub(super) fn body(manner: &Manner, words: &Words) -> Bytes {
    let mut body = json!({ "text": words.text });
    let fields = [
        ("speaker", manner.speaker_of(words)),
        ("modelId", manner.model.as_deref()),
        ("lang", manner.lang_of(words)),
    ];
    for (name, value) in fields.into_iter().filter_map(|(name, value)| Some((name, value?))) {
        body[name] = value.into();
    }
    body.to_string().into()
}

/// Calls, and listens to the end. The call was due at `due`.
///
/// # Cancel safety
/// Dropping it hangs up.
pub(super) async fn call(address: SocketAddr, manner: &Manner, due: Instant, words: &Words) -> Heard {
    call_and_report(address, manner, due, words).await.0
}

/// The same; and what the engine reports of its own load (ORCA), if it does.
pub(crate) async fn call_and_report(
    address: SocketAddr,
    manner: &Manner,
    due: Instant,
    words: &Words,
) -> (Heard, Option<f64>) {
    let asked = ask(address, manner, due, body(manner, words)).await;
    let (answer, started, _line) = match asked {
        Ok(asked) => asked,
        Err(trouble) => return (Heard::failure(trouble), None),
    };
    let reported = orca::utilization(answer.headers());
    let heard = match answer.status() {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => Heard::Refusal(why(&answer)),
        status if status.is_success() => Heard::Answer(listen(answer, manner, started).await),
        status => Heard::Failure(format!("{status}: {}", beginning(answer).await)),
    };
    (heard, reported)
}

/// What a gate says of its reason, else the status.
fn why(answer: &Response<Incoming>) -> String {
    let reason = answer.headers().get(REASON_HEADER).and_then(|reason| reason.to_str().ok());
    reason.map_or_else(|| answer.status().to_string(), str::to_owned)
}

/// The first line of an answer that is no sound.
async fn beginning(answer: Response<Incoming>) -> String {
    let body = Limited::new(answer.into_body(), ERROR_BYTES_MAX).collect().await;
    let bytes = body.map(Collected::to_bytes).unwrap_or_default();
    String::from_utf8_lossy(&bytes).lines().next().unwrap_or_default().to_owned()
}

/// The connection's task, stopped on drop.
struct Line(tokio::task::JoinHandle<()>);

impl Drop for Line {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(super) type Trouble = Box<dyn std::error::Error + Send + Sync>;

async fn ask(
    address: SocketAddr,
    manner: &Manner,
    due: Instant,
    body: Bytes,
) -> Result<(Response<Incoming>, Instant, Line), Trouble> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // How the connection ends is seen in the answer's body.
    let line = Line(tokio::spawn(async move { drop(connection.await) }));
    let host = manner.host.clone().unwrap_or_else(|| address.to_string());
    let mut request = Request::post(&manner.path)
        .header(header::HOST, host)
        .header(header::ACCEPT, AUDIO)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))?;
    if let Some(authorization) = &manner.authorization {
        request.headers_mut().insert(header::AUTHORIZATION, authorization.clone());
    }
    let started = manner.start(due);
    Ok((sender.send_request(request).await?, started, line))
}

async fn listen(answer: Response<Incoming>, manner: &Manner, started: Instant) -> Measured {
    let content_type = answer.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let mut meter = manner.meter(started, content_type);
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

/// What was measured, now that the answer has ended.
pub(super) fn ended(meter: Meter, outcome: Outcome) -> Heard {
    Heard::Answer(meter.end(Instant::now().into_std(), outcome))
}
