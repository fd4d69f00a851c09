//! One promise on each kind of field.

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

/// What an engine gets: the caller's fields that travel on, and behind them those that were added.
fn sent(mut request: Request<()>, forwarding: &Forwarding) -> Vec<(String, String)> {
    let added = settled(&mut request, forwarding).unwrap().added;
    let added = String::from_utf8(added.as_bytes().to_vec()).unwrap();
    let line = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned()));
    fields(&request)
        .into_iter()
        .chain(added.split_terminator("\r\n").map(|text| line(text).unwrap()))
        .collect()
}

fn settled(request: &mut Request<()>, forwarding: &Forwarding) -> Result<Settled, BadHead> {
    to_engine(request, &peer(), forwarding)
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
        (
            "connection",
            "content-length, transfer-encoding, authorization, host, x-forwarded-for, content-type",
        ),
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
    let vias: Vec<_> = sent.iter().filter(|(name, _)| name == "via").map(|(_, via)| via.as_str()).collect();
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
        assert_eq!(settled(&mut request, &forwarding(true, false, false)), Err(BadHead::Host));
    }
    let mut old = request(&[]);
    *old.version_mut() = Version::HTTP_10;
    assert!(settled(&mut old, &forwarding(true, false, false)).is_ok());
}

#[test]
fn an_absolute_target_becomes_origin_form_and_rules_over_host() {
    let mut request = request(&[("host", "other")]);
    *request.uri_mut() = "http://user@gate:8800/invocations?x=1".parse().unwrap();
    settled(&mut request, &forwarding(false, false, false)).unwrap();
    assert_eq!(request.uri(), "/invocations?x=1");
    assert_eq!(request.headers()["host"], "gate:8800");
    let mut request = self::request(&[("host", "other")]);
    *request.uri_mut() = "ftp://gate/".parse().unwrap();
    assert_eq!(settled(&mut request, &forwarding(false, false, false)), Err(BadHead::Target));
}

#[test]
fn an_absolute_target_without_a_path_means_the_root() {
    let mut request = request(&[("host", "gate")]);
    *request.uri_mut() = "http://gate?x=1".parse().unwrap();
    settled(&mut request, &forwarding(false, false, false)).unwrap();
    assert_eq!(request.uri(), "/?x=1");
}

#[test]
fn only_a_single_chunked_is_a_transfer_coding() {
    let sent = |codings: &[(&str, &str)]| {
        let mut request = request(&[&[("host", "gate")], codings].concat());
        settled(&mut request, &forwarding(false, false, false)).map(|settled| settled.length)
    };
    assert_eq!(sent(&[("transfer-encoding", "Chunked")]), Ok(BodyLength::Chunked));
    assert_eq!(sent(&[("content-length", "12")]), Ok(BodyLength::Bytes(12)));
    assert_eq!(sent(&[]), Ok(BodyLength::Unsaid));
    let twice = [("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")];
    assert_eq!(sent(&twice), Err(BadHead::TransferEncoding));
    assert_eq!(sent(&[("transfer-encoding", "gzip, chunked")]), Err(BadHead::TransferEncoding));
}

#[test]
fn connect_is_refused() {
    let mut request = request(&[("host", "gate")]);
    *request.method_mut() = http::Method::CONNECT;
    assert_eq!(settled(&mut request, &forwarding(false, false, false)), Err(BadHead::Connect));
}

#[test]
fn split_cookies_are_joined_for_http1() {
    let mut request = request(&[("cookie", "a=1"), ("cookie", "b=2")]);
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = "http://gate/".parse().unwrap();
    let added = settled(&mut request, &forwarding(false, false, false)).unwrap().added;
    assert_eq!(request.headers()["cookie"], "a=1; b=2");
    assert_eq!(added.as_bytes(), b"via: 2.0 rime-gate\r\n");
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

#[test]
fn only_digits_are_a_length() {
    let length = |fields: &[(&str, &str)]| BodyLength::of(request(fields).headers());
    assert_eq!(length(&[("content-length", "18446744073709551615")]), BodyLength::Bytes(u64::MAX));
    for odd in ["", "+1", "-1", " 1", "1,1", "0x1", "18446744073709551616"] {
        assert_eq!(decimal(odd.as_bytes()), None, "{odd}");
    }
    assert_eq!(length(&[("content-length", "2"), ("transfer-encoding", "chunked")]), BodyLength::Chunked);
    assert_eq!(length(&[("accept", "audio/wav")]), BodyLength::Unsaid);
}
