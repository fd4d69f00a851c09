//! A question to an operator's door: one small request, one small answer. Knows not what is asked.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a door on the same machine may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks for `path`, and takes any answer but 200 for a failure, which it tells in one line.
///
/// # Errors
/// One line for a person.
///
/// # Cancel safety
/// Dropping it hangs up.
pub async fn ask(address: SocketAddr, method: Method, path: &str, body: String) -> Result<Bytes, String> {
    match timeout(PATIENCE, exchange(address, method, path, body)).await {
        Ok(Ok((StatusCode::OK, answer))) => Ok(answer),
        Ok(Ok((status, answer))) => Err(format!(
            "the gate on {address} answered {status}: {}",
            String::from_utf8_lossy(&answer).trim_end()
        )),
        Ok(Err(error)) => Err(format!("cannot ask the gate on {address}: {error}")),
        Err(_) => Err(format!("the gate on {address} does not answer")),
    }
}

async fn exchange(
    address: SocketAddr,
    method: Method,
    path: &str,
    body: String,
) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, address.to_string())
        .body(Full::new(Bytes::from(body)))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    Ok((status, response.into_body().collect().await?.to_bytes()))
}
