//! Decides which headers travel on: hop-by-hop ones end here, forwarding ones begin here, all others pass as
//! they came, in their order. Knows no bodies and no connections.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, Uri, Version};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

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

impl Forwarding {
    /// Both `Via` values of a pseudonym; `None` where it is empty or cannot stand in a header.
    #[must_use]
    pub fn via_of(pseudonym: &str) -> Option<[HeaderValue; 2]> {
        let value = |version| HeaderValue::try_from(format!("{version} {pseudonym}")).ok();
        if pseudonym.is_empty() { None } else { Some([value("1.1")?, value("2.0")?]) }
    }
}

/// One caller's address as headers carry it, made once a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    address: HeaderValue,
    node: Arc<str>,
}

impl Default for Peer {
    /// A caller whose address is hidden (RFC 7239 section 6.2).
    fn default() -> Self {
        Self { address: HeaderValue::from_static("unknown"), node: "unknown".into() }
    }
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

fn forward(headers: &mut HeaderMap, host: Option<&HeaderValue>, peer: &Peer, forwarding: &Forwarding) {
    let trust = forwarding.trust_incoming;
    if forwarding.x_forwarded {
        put(headers, X_FORWARDED_FOR, &peer.address, trust);
        if !(trust && headers.contains_key(X_FORWARDED_PROTO)) {
            headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("http"));
        }
        if let Some(host) = host.filter(|_| !(trust && headers.contains_key(X_FORWARDED_HOST))) {
            headers.insert(X_FORWARDED_HOST, host.clone());
        }
    }
    if forwarding.forwarded {
        let host = host.and_then(|host| host.to_str().ok());
        let host = host.filter(|host| !host.contains(['"', '\\'])).map(|host| format!(";host=\"{host}\""));
        let element = format!("for={};proto=http{}", peer.node, host.unwrap_or_default());
        if let Ok(element) = HeaderValue::try_from(element) {
            put(headers, header::FORWARDED, &element, trust);
        }
    }
}

/// Sets a list field to `value`, or adds it at the list's end.
fn put(headers: &mut HeaderMap, name: HeaderName, value: &HeaderValue, add: bool) {
    if !add || !headers.contains_key(&name) {
        headers.insert(name, value.clone());
        return;
    }
    let mut lines: Vec<&[u8]> = headers.get_all(&name).iter().map(HeaderValue::as_bytes).collect();
    lines.push(value.as_bytes());
    if let Ok(joined) = HeaderValue::from_bytes(&lines.join(&b", "[..])) {
        headers.insert(name, joined);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> Peer {
        Peer::new("192.0.2.7:4711".parse().unwrap())
    }

    fn forwarding(x_forwarded: bool, forwarded: bool, trust_incoming: bool) -> Forwarding {
        Forwarding { x_forwarded, forwarded, trust_incoming, via: Forwarding::via_of("rime-gate") }
    }

    fn request(fields: &[(&str, &str)]) -> Request<()> {
        let builder = Request::post("/invocations?a=%20b");
        fields.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value)).body(()).unwrap()
    }

    fn fields(request: &Request<()>) -> Vec<(String, String)> {
        let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
        request.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect()
    }

    fn sent(mut request: Request<()>, forwarding: &Forwarding) -> Vec<(String, String)> {
        to_engine(&mut request, &peer(), forwarding).unwrap();
        fields(&request)
    }

    #[test]
    fn hop_by_hop_fields_end_here_and_the_rest_keep_their_order() {
        let request = request(&[
            ("host", "gate"),
            ("accept", "audio/wav"),
            ("connection", "keep-alive, X-Private , host"),
            ("keep-alive", "timeout=5"),
            ("x-private", "1"),
            ("te", "trailers"),
            ("expect", "100-continue"),
            ("x-one", "1"),
            ("x-two", "2"),
            ("x-one", "1b"),
        ]);
        let quiet = Forwarding { x_forwarded: false, forwarded: false, trust_incoming: false, via: None };
        let names: Vec<_> = sent(request, &quiet).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["host", "accept", "x-one", "x-one", "x-two"]);
    }

    #[test]
    fn connection_cannot_take_away_what_frames_or_routes_a_message() {
        let request = request(&[
            ("host", "gate"),
            ("content-length", "2"),
            ("authorization", "Bearer k"),
            ("connection", "content-length, authorization, host, x-forwarded-for, content-type"),
            ("content-type", "application/json"),
        ]);
        let sent = sent(request, &forwarding(true, false, false));
        let names: Vec<_> = sent.iter().map(|(name, _)| name.as_str()).collect();
        let expected = [
            "host",
            "content-length",
            "authorization",
            "content-type",
            "x-forwarded-for",
            "x-forwarded-proto",
            "x-forwarded-host",
            "via",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn an_untrusted_caller_cannot_choose_its_address() {
        let spoofed =
            request(&[("host", "gate"), ("x-forwarded-for", "10.0.0.1"), ("forwarded", "for=10.0.0.1")]);
        let sent = sent(spoofed, &forwarding(true, true, false));
        assert!(sent.contains(&("x-forwarded-for".into(), "192.0.2.7".into())));
        assert!(sent.contains(&("forwarded".into(), "for=192.0.2.7;proto=http;host=\"gate\"".into())));
    }

    #[test]
    fn a_trusted_proxy_is_added_to() {
        let behind = request(&[
            ("host", "gate"),
            ("x-forwarded-for", "198.51.100.1"),
            ("x-forwarded-for", "203.0.113.2"),
            ("x-forwarded-proto", "https"),
            ("via", "1.1 edge"),
        ]);
        let sent = sent(behind, &forwarding(true, false, true));
        assert!(sent.contains(&("x-forwarded-for".into(), "198.51.100.1, 203.0.113.2, 192.0.2.7".into())));
        assert!(sent.contains(&("x-forwarded-proto".into(), "https".into())));
        let vias: Vec<_> =
            sent.iter().filter(|(name, _)| name == "via").map(|(_, via)| via.as_str()).collect();
        assert_eq!(vias, ["1.1 edge", "1.1 rime-gate"]);
    }

    #[test]
    fn ipv6_callers_are_bracketed_in_forwarded_and_mapped_ones_are_ipv4() {
        assert_eq!(&*Peer::new("[2001:db8::1]:1".parse().unwrap()).node, "\"[2001:db8::1]\"");
        assert_eq!(&*Peer::new("[::ffff:192.0.2.1]:1".parse().unwrap()).node, "192.0.2.1");
    }

    #[test]
    fn a_request_without_exactly_one_host_is_refused() {
        for fields in [&[][..], &[("host", "a"), ("host", "b")], &[("host", "a"), ("host", "a")]] {
            let mut request = request(fields);
            assert_eq!(to_engine(&mut request, &peer(), &forwarding(true, false, false)), Err(BadHead::Host));
        }
        let mut old = request(&[]);
        *old.version_mut() = Version::HTTP_10;
        assert_eq!(to_engine(&mut old, &peer(), &forwarding(true, false, false)), Ok(()));
    }

    #[test]
    fn an_absolute_target_becomes_origin_form_and_rules_over_host() {
        let mut request = request(&[("host", "other")]);
        *request.uri_mut() = "http://user@gate:8800/invocations?x=1".parse().unwrap();
        to_engine(&mut request, &peer(), &forwarding(false, false, false)).unwrap();
        assert_eq!(request.uri(), "/invocations?x=1");
        assert_eq!(request.headers()["host"], "gate:8800");
        let mut request = self::request(&[("host", "other")]);
        *request.uri_mut() = "ftp://gate/".parse().unwrap();
        assert_eq!(to_engine(&mut request, &peer(), &forwarding(false, false, false)), Err(BadHead::Target));
    }

    #[test]
    fn an_absolute_target_without_a_path_means_the_root() {
        let mut request = request(&[("host", "gate")]);
        *request.uri_mut() = "http://gate?x=1".parse().unwrap();
        to_engine(&mut request, &peer(), &forwarding(false, false, false)).unwrap();
        assert_eq!(request.uri(), "/?x=1");
    }

    #[test]
    fn only_a_single_chunked_is_a_transfer_coding() {
        let sent = |codings: &[(&str, &str)]| {
            let mut request = request(&[&[("host", "gate")], codings].concat());
            to_engine(&mut request, &peer(), &forwarding(false, false, false))
        };
        assert_eq!(sent(&[("transfer-encoding", "Chunked")]), Ok(()));
        let twice = [("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")];
        assert_eq!(sent(&twice), Err(BadHead::TransferEncoding));
        assert_eq!(sent(&[("transfer-encoding", "gzip, chunked")]), Err(BadHead::TransferEncoding));
    }

    #[test]
    fn connect_is_refused() {
        let mut request = request(&[("host", "gate")]);
        *request.method_mut() = http::Method::CONNECT;
        assert_eq!(to_engine(&mut request, &peer(), &forwarding(false, false, false)), Err(BadHead::Connect));
    }

    #[test]
    fn split_cookies_are_joined_for_http1() {
        let mut request = request(&[("cookie", "a=1"), ("cookie", "b=2")]);
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = "http://gate/".parse().unwrap();
        to_engine(&mut request, &peer(), &forwarding(false, false, false)).unwrap();
        assert_eq!(request.headers()["cookie"], "a=1; b=2");
        assert_eq!(request.headers()["via"], "2.0 rime-gate");
    }

    #[test]
    fn the_engines_connection_fields_stay_with_the_engine() {
        let mut response = Response::builder()
            .header("connection", "close, x-hop")
            .header("x-hop", "1")
            .header("transfer-encoding", "chunked")
            .header("content-type", "audio/wav")
            .body(())
            .unwrap();
        to_caller(&mut response, Version::HTTP_11);
        let names: Vec<_> = response.headers().keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["transfer-encoding", "content-type"]);
        to_caller(&mut response, Version::HTTP_2);
        assert!(!response.headers().contains_key("transfer-encoding"));
    }

    #[test]
    fn a_grpc_head_keeps_te_and_the_callers_authority_and_says_who_calls() {
        let engine = Authority::from_static("127.0.0.1:7463");
        let mut request = Request::post("https://gate:8463/rime.TextToSpeech/Synthesize")
            .header("te", "trailers")
            .header("grpc-timeout", "2S")
            .header("x-key-bin", "AAE")
            .header("x-key-bin", "AAI")
            .body(())
            .unwrap();
        to_grpc_engine(&mut request, &engine, &peer(), &forwarding(true, false, false)).unwrap();
        assert_eq!(*request.uri(), "http://gate:8463/rime.TextToSpeech/Synthesize");
        let names: Vec<_> = request.headers().keys().map(HeaderName::as_str).collect();
        let forwarded = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "via"];
        assert_eq!(names, [&["te", "grpc-timeout", "x-key-bin"][..], &forwarded].concat());
        assert_eq!(request.headers().get_all("x-key-bin").iter().collect::<Vec<_>>(), ["AAE", "AAI"]);
        assert_eq!(request.headers()["via"], "2.0 rime-gate");

        let mut nameless = Request::post("/a.B/C").body(()).unwrap();
        to_grpc_engine(&mut nameless, &engine, &peer(), &forwarding(false, false, false)).unwrap();
        assert_eq!(*nameless.uri(), "http://127.0.0.1:7463/a.B/C");
    }
}
