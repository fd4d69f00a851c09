//! What an operator is told of text, keys and values that are wrong in themselves.

use super::{config, errors};

/// Title, caret's line and help of each error, without the snippet: for the many ways in which a value can be wrong.
fn short(text: &str) -> Vec<String> {
    let said = |line: &str| {
        let line = line.trim_start_matches([' ', '|']);
        let label = line.trim_start_matches('^');
        let worth = line.starts_with("error: ") || line.starts_with("= help: ") || label.len() < line.len();
        (worth && !label.is_empty()).then(|| label.trim().to_owned())
    };
    errors(text, &[]).lines().filter_map(said).collect()
}

#[test]
fn every_mistake_is_shown_at_once_in_the_order_of_the_file() {
    let text = r#"
[admission]
queue_mx = 3
when_full = "quue"
queue_wait_max = 700

[log]
level = "info,rime_gate=inof"
"#;
    let expected = r#"
error: unknown key `queue_mx` in [admission]
 --> proxy.toml:3:1
  |
3 | queue_mx = 3
  | ^^^^^^^^
  |
  = help: did you mean `queue_max`?

error: `admission.when_full` must be one of `queue`, `reject`, `observe`
 --> proxy.toml:4:13
  |
4 | when_full = "quue"
  |             ^^^^^^
  |
  = help: did you mean `queue`?

error: `admission.queue_wait_max` must be `auto` or a duration such as `500ms`, `1s` or `2m`
 --> proxy.toml:5:18
  |
5 | queue_wait_max = 700
  |                  ^^^ the unit is missing
  |
  = help: write `"700s"` for seconds, `"700ms"` for milliseconds

error: `log.level` must be a level such as `info`, or `info,rime_gate::admission=debug`
 --> proxy.toml:8:25
  |
8 | level = "info,rime_gate=inof"
  |                         ^^^^ not a level
  |
  = help: did you mean `info`?
"#;
    assert_eq!(errors(text, &[]), expected);
}

#[test]
fn an_unknown_key_is_told_where_it_belongs_or_what_there_is() {
    assert_eq!(
        short("threads = 2\n[admision]\n[log]\nqueue_max = 2\nzzz = 1\nhttp = 1\n"),
        [
            "error: unknown key `threads`",
            "= help: `threads` is a key of [runtime]",
            "error: unknown key `admision`",
            "= help: did you mean `admission`?",
            "error: unknown key `queue_max` in [log]",
            "= help: `queue_max` is a key of [admission]",
            "error: unknown key `zzz` in [log]",
            "= help: [log] takes `level`, `format`",
            "error: unknown key `http` in [log]",
            "= help: `http` is a key of [[engine]]",
        ]
    );
    assert_eq!(
        short("[listener.0]\nconcurency_max = 3"),
        [
            "error: `listener` must be a list of tables",
            "= help: write `[[listener]]` and its keys below it",
            "error: unknown key `0` in [[listener]]",
            "= help: [[listener]] takes `address`, `surface`, `synthesis_paths`",
        ]
    );
}

#[test]
fn a_number_out_of_its_range_or_of_another_type_is_refused() {
    assert_eq!(
        short("[limits]\nhead_bytes_max = 1\nheaders_max = 99999999999999999999999999999999999999999\n"),
        [
            "error: `limits.head_bytes_max` must be a whole number from 8192 to 1048576",
            "too small",
            "error: `limits.headers_max` must be a whole number from 1 to 1024",
            "too large",
        ]
    );
    assert_eq!(
        short(
            "[admission]\nqueue_max = \"64\"\nstatus_when_full = 500\n[forwarding]\ntrust_incoming = \"true\"\n"
        ),
        [
            "error: `admission.queue_max` must be a whole number from 0 to 65535",
            "this is a string",
            "= help: write the number without quotes",
            "error: `admission.status_when_full` must be 429 or 503",
            "error: `forwarding.trust_incoming` must be `true` or `false`",
            "this is a string",
            "= help: write it without quotes",
        ]
    );
    assert_eq!(
        short("[runtime]\nthreads = 0\n[[engine]]\nconcurrency_max = -1\n[metrics]\nmodels = 2024-01-01\n"),
        [
            "error: `runtime.threads` must be `auto` or a whole number from 1 to 256",
            "too small",
            "error: `engine.concurrency_max` must be a whole number from 1 to 65535",
            "too small",
            "error: `metrics.models` must be a list of 0 to 64 strings",
            "this is a date or time",
        ]
    );
}

#[test]
fn a_duration_has_a_unit_and_is_neither_zero_nor_endless() {
    let duration = "must be a duration such as `500ms`, `1s` or `2m`";
    assert_eq!(
        short("[limits]\nheader_timeout = \"0s\"\nbody_timeout = \"25h\"\nidle_timeout = \"soon\"\n"),
        [
            &format!("error: `limits.header_timeout` {duration}"),
            "zero is not a time to wait",
            "= help: at least 1ms",
            &format!("error: `limits.body_timeout` {duration}"),
            "too long",
            "= help: at most 24h",
            &format!("error: `limits.idle_timeout` {duration}"),
            "expected number at 0",
        ]
    );
    assert_eq!(
        short("[admission]\nqueue_wait_max = \"0s\"\n"),
        [
            "error: `admission.queue_wait_max` must be `auto` or a duration such as `500ms`, `1s` or `2m`",
            "zero is not a time to wait",
            "= help: to refuse at once, set `when_full = \"reject\"`",
        ]
    );
    let zero_is_fine = config("[[engine]]\ncancel_linger = \"0s\"\n[target]\nclient_buffer = \"0s\"\n", &[]);
    assert!(zero_is_fine.engine.cancel_linger.is_zero());
}

#[test]
fn an_address_is_an_ip_address_and_a_port() {
    let title =
        "error: `admin.address` must be an IP address and a port, such as `0.0.0.0:8800` or `[::]:8800`";
    for (address, help) in [
        ("127.0.0.1", Some("the port is missing")),
        (":9465", Some("for every address of the machine, write `0.0.0.0:9465`")),
        ("9465", Some("for every address of the machine, write `0.0.0.0:9465`")),
        ("localhost:9465", Some("write `127.0.0.1:9465`")),
        ("gate.example:9465", None),
    ] {
        let mut expected = vec![title.to_owned()];
        expected.extend(help.map(|help| format!("= help: {help}")));
        assert_eq!(short(&format!("[admin]\naddress = \"{address}\"\n")), expected);
    }
}

#[test]
fn the_url_of_an_engine_is_plain_http_with_a_host_and_no_path() {
    let title = "error: `engine.http` must be a URL such as `http://127.0.0.1:8080`";
    for (url, label) in [
        ("https://engine:8080", "the gate speaks plain HTTP to its engine: write `http://`"),
        ("http://engine:8080/invocations", "an engine's URL has no path: callers bring their own"),
        ("http://user@engine:8080", "an engine's URL holds a host and a port, nothing else"),
        ("http://engine:808080", "the port is a number from 1 to 65535"),
        ("engine:8080", "expected `http://` and a host"),
        ("/", "expected `http://` and a host"),
        ("http:// engine", "expected `http://` and a host"),
    ] {
        assert_eq!(short(&format!("[[engine]]\nhttp = \"{url}\"\n")), [title, label], "{url}");
    }
    for (url, host, port) in [
        ("http://engine", "engine", 80),
        ("http://engine.tts.svc:8080/", "engine.tts.svc", 8080),
        ("http://[::1]:8080", "::1", 8080),
    ] {
        let http = config("", &[&format!("engine.http={url}")]).engine.http;
        assert_eq!((http.host(), http.port()), (host, port));
    }
}

#[test]
fn names_paths_and_headers_are_what_http_and_labels_can_carry() {
    let text = r#"
[[engine]]
name = ""
health_path = "/healthz?full"
[[listener]]
synthesis_paths = ["/", "invocations"]
[forwarding]
via = "rime gate"
request_id_header = "host"
[metrics]
models = ["arcana", 3]
"#;
    assert_eq!(
        short(text),
        [
            "error: `engine.name` must be a name of printable characters",
            "empty, or with spaces around it, or with control characters in it",
            "error: `engine.health_path` must be a path such as `/` or `/readyz`",
            "a path has no query and no fragment",
            "error: `listener.synthesis_paths` must be a path such as `/` or `/readyz`",
            "a path begins with `/`",
            "error: `forwarding.via` must be a word such as `rime-gate`, or empty for no `Via`",
            "not a token of RFC 9110",
            "error: `forwarding.request_id_header` must be the name of a header such as `x-request-id`",
            "this header has a meaning of its own",
            "error: `metrics.models` must be a name of printable characters",
            "this is an integer",
        ]
    );
    assert_eq!(
        short("[[listener]]\nsynthesis_paths = []\n"),
        ["error: `listener.synthesis_paths` must be a list of 1 to 64 strings", "this list has 0"]
    );
}

#[test]
fn the_caret_stands_under_the_wrong_part_of_the_target() {
    let expected = r#"
error: `target.slo` must be a target such as `success:1.00,ttfb:p99@1s,rtf:p99@1.00,underrun:0.00`
 --> proxy.toml:2:30
  |
2 | slo = "success:1.00,ttfb:p99@1"
  |                              ^ a TTFB is written `500ms` or `1.2s`
"#;
    assert_eq!(errors("[target]\nslo = \"success:1.00,ttfb:p99@1\"\n", &[]), expected);

    let with_an_escape = r#"
error: `target.slo` must be a target such as `success:1.00,ttfb:p99@1s,rtf:p99@1.00,underrun:0.00`
 --> proxy.toml:2:7
  |
2 | slo = "ttfb:p99\u00401"
  |       ^^^^^^^^^^^^^^^^^ a TTFB is written `500ms` or `1.2s`
"#;
    assert_eq!(errors("[target]\nslo = \"ttfb:p99\\u00401\"\n", &[]), with_an_escape);
}

#[test]
fn a_table_and_a_list_of_tables_are_told_apart() {
    assert_eq!(
        short("limits = 3\n[engine]\nconcurrency_max = 0\n[[admission]]\n"),
        [
            "error: `limits` must be a table",
            "= help: write `[limits]` and its keys below it",
            "error: `engine` must be a list of tables",
            "= help: write `[[engine]]` and its keys below it",
            "error: `engine.concurrency_max` must be a whole number from 1 to 65535",
            "too small",
            "error: `admission` must be a table",
            "= help: write `[admission]`, once",
        ]
    );
}

#[test]
fn a_line_that_is_not_toml_does_not_hide_the_next_mistake() {
    let text = r#"
[admission]
when_full = queue
queue_max =
queue_max 3
[limits]
headers_max = 0
"#;
    let expected = r#"
error: this is not TOML
 --> proxy.toml:3:13
  |
3 | when_full = queue
  |             ^^^^^ a string stands in quotes

error: this is not TOML
 --> proxy.toml:4:12
  |
4 | queue_max =
  |            ^ the value is missing

error: this is not TOML
 --> proxy.toml:5:11
  |
5 | queue_max 3
  |           ^ key with no value, expected `=`

error: `limits.headers_max` must be a whole number from 1 to 1024
 --> proxy.toml:7:15
  |
7 | headers_max = 0
  |               ^ too small
"#;
    assert_eq!(errors(text, &[]), expected);
}

#[test]
fn below_a_broken_table_header_no_key_is_judged() {
    let expected = r#"
error: this is not TOML
 --> proxy.toml:1:11
  |
1 | [admission
  |           ^ unclosed table, expected `]`
"#;
    assert_eq!(errors("[admission\nqueue_mx = 1\n", &[]), expected);
}

#[test]
fn a_key_given_twice_is_an_error() {
    assert_eq!(
        short("[admission]\nqueue_max = 1\nqueue_max = 2\n"),
        ["error: this is not TOML", "duplicate key"]
    );
}

#[test]
fn no_more_than_64_problems_are_shown_and_the_rest_is_counted() {
    let text: String = (0..100).map(|index| format!("key{index} = 1\n")).collect();
    let errors = errors(&text, &[]);
    assert_eq!(errors.matches("error: ").count(), 64);
    assert!(errors.ends_with("\n\nand 36 more\n"), "{errors}");
}
