//! Decides which headers travel on: hop-by-hop ones end here, forwarding ones begin here, all others pass as
//! they came, in their order. Knows no bodies and no connections.

mod forwarding;

use std::borrow::Cow;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, Uri, Version};

pub use forwarding::{Forwarding, Peer};
use forwarding::{X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO, forward};

/// Whether a field describes one connection only (RFC 9110 section 7.6.1). `Transfer-Encoding` is absent on purpose: the
/// HTTP library reads and writes it, and keeping it keeps a chunked body chunked.
fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection" | "keep-alive" | "proxy-connection" | "te" | "upgrade" | "http2-settings"
    )
}

/// Fields that `Connection` cannot take away: they say where a message goes, how long it is or who sent it.
const NEVER_NOMINATED: [HeaderName; 8] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::AUTHORIZATION,
    header::FORWARDED,
    X_FORWARDED_FOR,
    X_FORWARDED_PROTO,
    X_FORWARDED_HOST,
];

/// Why a request's head cannot be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHead {
    /// RFC 9112 section 3.2: exactly one `Host` in HTTP/1.1.
    #[error("an HTTP/1.1 request has exactly one Host")]
    Host,
    /// A gate is no tunnel.
    #[error("CONNECT is not served")]
    Connect,
    /// Any transfer coding but a single `chunked`: where two readers may disagree about a body's end, nobody is let
    /// through (RFC 9112 section 6.1).
    #[error("Transfer-Encoding is chunked, once, or absent")]
    TransferEncoding,
    /// Absolute-form for another scheme than this listener's.
    #[error("the request target cannot be served")]
    Target,
}

/// Turns a caller's head into the engine's: checks `Host`, makes the target origin-form, drops the hop-by-hop
/// fields and `Expect` (the gate has answered it), adds the forwarding fields.
///
/// # Errors
///
/// [`BadHead`] where the request must be answered 400.
pub fn to_engine<B>(request: &mut Request<B>, peer: &Peer, forwarding: &Forwarding) -> Result<(), BadHead> {
    if request.method() == http::Method::CONNECT {
        return Err(BadHead::Connect);
    }
    let version = request.version();
    let mut codings = request.headers().get_all(header::TRANSFER_ENCODING).iter();
    if codings.next().is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
        || codings.next().is_some()
    {
        return Err(BadHead::TransferEncoding);
    }
    settle_host(request)?;
    let headers = request.headers_mut();
    drop_hop_by_hop(headers);
    if headers.contains_key(header::EXPECT) {
        drop_fields(headers, |name| *name == header::EXPECT);
    }
    let host = headers.get(header::HOST).cloned();
    forward(headers, host.as_ref(), peer, forwarding);
    if let Some([http1, http2]) = &forwarding.via {
        headers.append(header::VIA, if version == Version::HTTP_2 { http2.clone() } else { http1.clone() });
    }
    *request.version_mut() = Version::HTTP_11;
    Ok(())
}

/// Turns a gRPC caller's head into the engine's: HTTP/2 on both sides, over which the target is sent to `authority` where
/// the caller names none. `te: trailers` travels on, and so does every other field: HTTP/2 has no hop-by-hop ones (RFC 9113
/// section 8.2.2).
///
/// # Errors
///
/// [`BadHead`] where the call must be refused.
pub fn to_grpc_engine<B>(
    request: &mut Request<B>,
    authority: &Authority,
    peer: &Peer,
    forwarding: &Forwarding,
) -> Result<(), BadHead> {
    if request.method() == http::Method::CONNECT {
        return Err(BadHead::Connect);
    }
    let named = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()?.parse().ok());
    let authority = request.uri().authority().cloned().or(named).unwrap_or_else(|| authority.clone());
    let host = HeaderValue::from_str(authority.as_str()).ok();
    let target = request.uri().path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::builder()
        .scheme(Scheme::HTTP)
        .authority(authority)
        .path_and_query(target)
        .build()
        .map_err(|_| BadHead::Target)?;
    let headers = request.headers_mut();
    if headers.contains_key(header::HOST) {
        drop_fields(headers, |name| *name == header::HOST);
    }
    forward(headers, host.as_ref(), peer, forwarding);
    if let Some([_, http2]) = &forwarding.via {
        headers.append(header::VIA, http2.clone());
    }
    Ok(())
}

/// Turns the engine's head into the caller's: drops what belongs to the engine's connection.
pub fn to_caller<B>(response: &mut Response<B>, caller: Version) {
    drop_hop_by_hop(response.headers_mut());
    if response.headers().contains_key(header::TRANSFER_ENCODING) {
        // A length beside the coding need not be true, and must not travel on (RFC 9112 section 6.3).
        drop_fields(response.headers_mut(), |name| {
            *name == header::CONTENT_LENGTH || caller == Version::HTTP_2 && *name == header::TRANSFER_ENCODING
        });
    }
    *response.version_mut() = caller;
}

/// Makes `Host` and the target agree, the target being origin-form (RFC 9112 section 3.2).
fn settle_host<B>(request: &mut Request<B>) -> Result<(), BadHead> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    if second.is_some() || (first.is_none() && request.version() == Version::HTTP_11) {
        return Err(BadHead::Host);
    }
    if request.version() == Version::HTTP_2 && request.headers().contains_key(header::COOKIE) {
        join_cookies(request.headers_mut());
    }
    let Some(authority) = request.uri().authority() else { return Ok(()) };
    if !matches!(request.uri().scheme_str(), Some("http" | "https")) {
        return Err(BadHead::Target);
    }
    // The target's authority rules over Host; user information is not part of Host.
    let host = authority.as_str().rsplit('@').next().unwrap_or_default();
    let host = HeaderValue::try_from(host).map_err(|_| BadHead::Target)?;
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    // RFC 9112 section 3.2.1: an empty path is sent as "/".
    let rooted =
        if target.starts_with('?') { Cow::Owned(format!("/{target}")) } else { Cow::Borrowed(target) };
    let target: Uri = rooted.parse().map_err(|_| BadHead::Target)?;
    *request.uri_mut() = target;
    request.headers_mut().insert(header::HOST, host);
    Ok(())
}

/// HTTP/2 may split `cookie`; HTTP/1.1 carries one line (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let lines: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if lines.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&lines.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, joined);
    }
}

fn drop_hop_by_hop(headers: &mut HeaderMap) {
    if !headers.keys().any(is_hop_by_hop) {
        return;
    }
    let nominated: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        .filter(|name| !NEVER_NOMINATED.contains(name))
        .collect();
    drop_fields(headers, |name| is_hop_by_hop(name) || nominated.contains(name));
}

/// Drops fields without disturbing the order of the others, which `HeaderMap::remove` would do.
pub fn drop_fields(headers: &mut HeaderMap, dropped: impl Fn(&HeaderName) -> bool) {
    let mut kept = HeaderMap::with_capacity(headers.len());
    let mut keeping = None;
    for (name, value) in std::mem::take(headers) {
        if let Some(name) = name {
            keeping = if dropped(&name) { None } else { Some(name) };
        }
        if let Some(name) = &keeping {
            kept.append(name.clone(), value);
        }
    }
    *headers = kept;
}

#[cfg(test)]
mod tests;
