//! Which fields tell the engine about the caller, and what they say.

use std::net::{IpAddr, SocketAddr};

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

pub(super) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(super) const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(super) const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

const HTTP: HeaderValue = HeaderValue::from_static("http");

/// Whether a field tells who a caller is, of those that a gate may tell itself.
pub(super) fn tells_of_callers(name: &HeaderName) -> bool {
    *name == header::FORWARDED || name.as_str().starts_with("x-forwarded-")
}

/// What the gate tells the engine about the caller.
#[derive(Clone, Debug)]
pub struct Forwarding {
    /// Send `X-Forwarded-For`, `-Proto` and `-Host`.
    pub x_forwarded: bool,
    /// Send `Forwarded` (RFC 7239).
    pub forwarded: bool,
    /// Add to what the caller sent, instead of replacing it: only behind a proxy that is trusted.
    pub trust_incoming: bool,
    /// What is added to `Via` (RFC 9110 section 7.6.3), by protocol version 1.1 and 2.0; `None` adds nothing.
    pub via: Option<[HeaderValue; 2]>,
}

/// One caller's address as headers carry it, made once a connection.
#[derive(Debug)]
pub struct Peer {
    address: HeaderValue,
    pub(super) node: Box<str>,
}

impl Peer {
    /// The caller at `address`.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        let ip = address.ip().to_canonical();
        // RFC 7239 section 6: an IPv6 address stands in brackets and quotes.
        let node = match ip {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("\"[{ip}]\""),
        };
        let address = HeaderValue::try_from(ip.to_string()).unwrap_or(HeaderValue::from_static("unknown"));
        Self { address, node: node.into() }
    }
}

impl Forwarding {
    /// Both `Via` values of a pseudonym; `None` where it is empty or cannot stand in a header.
    #[must_use]
    pub fn via_of(pseudonym: &str) -> Option<[HeaderValue; 2]> {
        let value = |version| HeaderValue::try_from(format!("{version} {pseudonym}")).ok();
        if pseudonym.is_empty() { None } else { Some([value("1.1")?, value("2.0")?]) }
    }

    /// Each field that tells of `peer`, who asked for `host`.
    pub(super) fn tell(
        &self,
        host: Option<&HeaderValue>,
        peer: &Peer,
        mut field: impl FnMut(HeaderName, &HeaderValue),
    ) {
        if self.x_forwarded {
            field(X_FORWARDED_FOR, &peer.address);
            field(X_FORWARDED_PROTO, &HTTP);
            if let Some(host) = host {
                field(X_FORWARDED_HOST, host);
            }
        }
        if self.forwarded {
            let host = host.and_then(|host| host.to_str().ok());
            let host =
                host.filter(|host| !host.contains(['"', '\\'])).map(|host| format!(";host=\"{host}\""));
            let element = format!("for={};proto=http{}", peer.node, host.unwrap_or_default());
            if let Ok(element) = HeaderValue::try_from(element) {
                field(header::FORWARDED, &element);
            }
        }
    }

    /// Puts such a field among those that came: in the place of the caller's, or behind what a trusted proxy has said.
    pub(super) fn put(&self, headers: &mut HeaderMap, name: HeaderName, value: &HeaderValue) {
        if !self.trust_incoming || !headers.contains_key(&name) {
            headers.insert(name, value.clone());
            return;
        }
        // Not lists: whoever was nearer to the caller knows better.
        if matches!(name.as_str(), "x-forwarded-proto" | "x-forwarded-host") {
            return;
        }
        let mut lines: Vec<&[u8]> = headers.get_all(&name).iter().map(HeaderValue::as_bytes).collect();
        lines.push(value.as_bytes());
        if let Ok(joined) = HeaderValue::from_bytes(&lines.join(&b", "[..])) {
            headers.insert(name, joined);
        }
    }
}
