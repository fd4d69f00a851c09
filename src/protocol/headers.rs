//! Decides which headers travel on: hop-by-hop ones end here, forwarding ones begin here, all others pass as
//! they came, in their order. Reads no bodies and knows no connections.

mod forwarding;

use std::borrow::Cow;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, Uri, Version};

pub use forwarding::{Forwarding, Peer};
use forwarding::{X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO};

/// Whether a field describes one connection only (RFC 9110 section 7.6.1). `Transfer-Encoding` is absent on purpose:
/// keeping it keeps a chunked body chunked.
fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection" | "keep-alive" | "proxy-connection" | "te" | "upgrade" | "http2-settings"
    )
}

/// Fields that `Connection` cannot take away: they say where a message goes, how long it is or who sent it.
const NEVER_NOMINATED: [HeaderName; 9] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::CONTENT_TYPE,
    header::AUTHORIZATION,
    header::FORWARDED,
    X_FORWARDED_FOR,
    X_FORWARDED_PROTO,
    X_FORWARDED_HOST,
];

/// Whether a field may follow a body: none that frames, routes or vouches for its message may (RFC 9110 section 6.5.1).
pub(crate) fn may_trail(name: &HeaderName) -> bool {
    !is_hop_by_hop(name) && !NEVER_NOMINATED.contains(name)
}

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

/// What of a head is known once its fields are for the engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Fields behind the caller's.
    pub added: Added,
    /// What is said of the body.
    pub length: BodyLength,
}

/// Fields that go to the engine behind the caller's own, as HTTP/1.1 writes them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Added(Vec<u8>);

impl Added {
    /// Room for what a gate adds, mostly.
    const BYTES: usize = 160;

    fn add(&mut self, name: &HeaderName, value: &HeaderValue) {
        if self.0.capacity() == 0 {
            self.0.reserve(Self::BYTES);
        }
        write_field(name.as_str().as_bytes(), value.as_bytes(), &mut self.0);
    }

    /// Whole lines.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Appends one field line (RFC 9112 section 5).
pub(crate) fn write_field(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    for part in [name, b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

/// What of a caller's head needs a look: told in one pass, where every question would be a search.
#[derive(Default)]
struct Found {
    /// The last of them.
    host: Option<HeaderValue>,
    hosts: usize,
    length: BodyLength,
    hop_by_hop: bool,
    expect: bool,
    cookie: bool,
    tells_of_callers: bool,
}

impl Found {
    fn in_head(headers: &HeaderMap) -> Result<Self, BadHead> {
        let mut found = Self::default();
        for (name, value) in headers {
            match *name {
                header::HOST => {
                    found.host = Some(value.clone());
                    found.hosts += 1;
                }
                header::TRANSFER_ENCODING => {
                    if found.length == BodyLength::Chunked
                        || !value.as_bytes().eq_ignore_ascii_case(b"chunked")
                    {
                        return Err(BadHead::TransferEncoding);
                    }
                    found.length = BodyLength::Chunked;
                }
                header::CONTENT_LENGTH if found.length != BodyLength::Chunked => {
                    found.length = decimal(value.as_bytes()).map_or(BodyLength::Unsaid, BodyLength::Bytes);
                }
                header::EXPECT => found.expect = true,
                header::COOKIE => found.cookie = true,
                _ if is_hop_by_hop(name) => found.hop_by_hop = true,
                _ => found.tells_of_callers |= forwarding::tells_of_callers(name),
            }
        }
        Ok(found)
    }
}

/// Turns a caller's head into the engine's: checks `Host`, makes the target origin-form, drops the hop-by-hop
/// fields and `Expect` (the gate has answered it), and tells which fields are to be added.
///
/// # Errors
///
/// [`BadHead`] where the request must be answered 400.
pub fn to_engine<B>(
    request: &mut Request<B>,
    peer: &Peer,
    forwarding: &Forwarding,
) -> Result<Settled, BadHead> {
    if request.method() == http::Method::CONNECT {
        return Err(BadHead::Connect);
    }
    let version = request.version();
    let mut found = Found::in_head(request.headers())?;
    settle_host(request, &mut found)?;
    let headers = request.headers_mut();
    if found.cookie && version == Version::HTTP_2 {
        join_cookies(headers);
    }
    if found.hop_by_hop {
        drop_hop_by_hop(headers);
    }
    if found.expect {
        drop_fields(headers, |name| *name == header::EXPECT);
    }
    let mut added = Added::default();
    forwarding.tell(found.host.as_ref(), peer, |name, value| {
        if found.tells_of_callers {
            forwarding.put(headers, name, value);
        } else {
            added.add(&name, value);
        }
    });
    if let Some([http1, http2]) = &forwarding.via {
        added.add(&header::VIA, if version == Version::HTTP_2 { http2 } else { http1 });
    }
    *request.version_mut() = Version::HTTP_11;
    Ok(Settled { added, length: found.length })
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
    forwarding.tell(host.as_ref(), peer, |name, value| forwarding.put(headers, name, value));
    if let Some([_, http2]) = &forwarding.via {
        headers.append(header::VIA, http2.clone());
    }
    Ok(())
}

/// Turns the engine's head into the caller's: drops what belongs to the engine's connection.
pub fn to_caller<B>(response: &mut Response<B>, caller: Version) {
    let (mut hop_by_hop, mut coded) = (false, false);
    for name in response.headers().keys() {
        match *name {
            header::TRANSFER_ENCODING => coded = true,
            _ => hop_by_hop |= is_hop_by_hop(name),
        }
    }
    if hop_by_hop {
        drop_hop_by_hop(response.headers_mut());
    }
    if coded {
        // A length beside the coding need not be true, and must not travel on (RFC 9112 section 6.3).
        drop_fields(response.headers_mut(), |name| {
            *name == header::CONTENT_LENGTH || caller == Version::HTTP_2 && *name == header::TRANSFER_ENCODING
        });
    }
    *response.version_mut() = caller;
}

/// How long the body of a request is by its head (RFC 9112 section 6.3), which the HTTP library has checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyLength {
    /// Its chunks tell.
    Chunked,
    /// So many bytes.
    Bytes(u64),
    /// Nothing is said.
    #[default]
    Unsaid,
}

impl BodyLength {
    /// What `headers` say.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let mut length = Self::Unsaid;
        for (name, value) in headers {
            match *name {
                header::TRANSFER_ENCODING => return Self::Chunked,
                header::CONTENT_LENGTH => {
                    length = decimal(value.as_bytes()).map_or(Self::Unsaid, Self::Bytes);
                }
                _ => {}
            }
        }
        length
    }
}

/// A number in decimal digits and nothing else. `None` also where 64 bits do not hold it.
pub(crate) fn decimal(digits: &[u8]) -> Option<u64> {
    let (first, rest) = digits.split_first()?;
    let value = |digit: &u8| digit.is_ascii_digit().then(|| u64::from(digit - b'0'));
    rest.iter().try_fold(value(first)?, |number, digit| number.checked_mul(10)?.checked_add(value(digit)?))
}

/// Makes `Host` and the target agree, the target being origin-form (RFC 9112 section 3.2).
fn settle_host<B>(request: &mut Request<B>, found: &mut Found) -> Result<(), BadHead> {
    if found.hosts > 1 || (found.hosts == 0 && request.version() == Version::HTTP_11) {
        return Err(BadHead::Host);
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
    request.headers_mut().insert(header::HOST, host.clone());
    found.host = Some(host);
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
