//! What `proxy.toml` may say, and what an operator is told when it says something else.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails as the test does")]

use std::collections::BTreeSet;

use proptest::prelude::*;
use rime_gate::config::{Config, LogFilter, Overrides, QueueWaitMax, Threads, WhenFull};

const PROXY_TOML: &str = include_str!("../proxy.toml");

fn overrides(sets: &[&str]) -> Overrides {
    let mut overrides = Overrides::default();
    for set in sets {
        overrides.push_set(set).unwrap();
    }
    overrides
}

fn config(text: &str, sets: &[&str]) -> Config {
    Config::read("proxy.toml", text, &overrides(sets)).unwrap().config
}

/// The rendered errors, with a line end before them so that the expected text can begin on a line of its own.
fn errors(text: &str, sets: &[&str]) -> String {
    format!("\n{}", Config::read("proxy.toml", text, &overrides(sets)).unwrap_err())
}

fn warnings(text: &str) -> String {
    format!("\n{}", Config::read("proxy.toml", text, &Overrides::default()).unwrap().warnings)
}

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
fn an_empty_file_means_the_defaults() {
    assert_eq!(config("", &[]), Config::default());
}

#[test]
fn the_committed_file_means_the_defaults_without_a_warning() {
    let read = Config::read("proxy.toml", PROXY_TOML, &Overrides::default()).unwrap();
    assert_eq!(read.config, Config::default());
    assert!(read.warnings.is_empty(), "{}", read.warnings);
}

#[test]
fn the_committed_file_names_every_key_and_no_other() {
    let mut named = BTreeSet::new();
    for (table, value) in PROXY_TOML.parse::<toml::Table>().unwrap() {
        let keys = value.as_table().or_else(|| value.as_array()?.first()?.as_table()).unwrap();
        named.extend(keys.keys().map(|key| format!("{table}.{key}")));
    }
    assert_eq!(named, Config::keys());
}

#[test]
fn the_committed_file_says_of_every_key_what_its_default_is() {
    let mut comment = String::new();
    for line in PROXY_TOML.lines() {
        if let Some(text) = line.strip_prefix('#') {
            comment.push_str(text);
        } else {
            if let Some((key, value)) = line.split_once(" = ") {
                assert!(comment.ends_with(&format!(" Default {value}.")), "{key}: {comment}");
            }
            comment.clear();
        }
    }
}

#[test]
fn a_written_configuration_reads_as_itself() {
    let mut written =
        config("", &["log.level=warn,rime_gate=debug", "limits.idle_timeout=1m 3s", "forwarding.via="]);
    written.runtime.threads = Threads::Count(3.try_into().unwrap());
    for config in [Config::default(), written] {
        let text = toml::to_string(&config).unwrap();
        assert_eq!(self::config(&text, &[]), config, "{text}");
    }
}

/// `UPDATE_SCHEMA=1 cargo test --test config schema` writes the file anew.
#[test]
fn the_committed_schema_is_the_generated_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/proxy.schema.json");
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        std::fs::write(path, Config::schema()).unwrap();
    }
    assert!(
        std::fs::read_to_string(path).unwrap() == Config::schema(),
        "run UPDATE_SCHEMA=1 cargo test schema"
    );
}

#[test]
fn the_log_subscriber_understands_every_filter_that_is_accepted() {
    for text in ["off", "info", "info,rime_gate::admission=debug", "hyper=off,trace"] {
        let filter = LogFilter::parse(text).unwrap();
        tracing_subscriber::filter::EnvFilter::try_new(filter.as_str()).unwrap();
    }
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

error: `admission.when_full` must be one of `queue`, `reject`
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
        short("threads = 2\n[admision]\n[log]\nqueue_max = 2\nzzz = 1\n"),
        [
            "error: unknown key `threads`",
            "= help: `threads` is a key of [runtime]",
            "error: unknown key `admision`",
            "= help: did you mean `admission`?",
            "error: unknown key `queue_max` in [log]",
            "= help: `queue_max` is a key of [admission]",
            "error: unknown key `zzz` in [log]",
            "= help: [log] takes `level`, `format`",
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

#[test]
fn two_doors_cannot_share_an_address() {
    let text = r#"
[[listener]]
address = "0.0.0.0:9464"
[[listener]]
address = "127.0.0.1:9464"
"#;
    let expected = r#"
error: `listener.0.address` and `metrics.address` claim the same address
 --> proxy.toml:3:11
  |
3 | address = "0.0.0.0:9464"
  |           ^^^^^^^^^^^^^^ 0.0.0.0:9464 is taken here
  |
  = help: give each its own port

error: `listener.0.address` and `listener.1.address` claim the same address
 --> proxy.toml:5:11
  |
3 | address = "0.0.0.0:9464"
  |           -------------- 0.0.0.0:9464 is taken here
4 | [[listener]]
5 | address = "127.0.0.1:9464"
  |           ^^^^^^^^^^^^^^^^ 127.0.0.1:9464
  |
  = help: give each its own port

error: `listener.1.address` and `metrics.address` claim the same address
 --> proxy.toml:5:11
  |
5 | address = "127.0.0.1:9464"
  |           ^^^^^^^^^^^^^^^^ 127.0.0.1:9464 is taken here
  |
  = help: give each its own port
"#;
    assert_eq!(errors(text, &[]), expected);
    // Port 0 is a new port each time; other addresses of the machine do not collide.
    config("", &["metrics.address=127.0.0.1:0", "admin.address=127.0.0.1:0"]);
    config("", &["metrics.address=127.0.0.1:9464", "admin.address=127.0.0.2:9464"]);
    assert_eq!(errors("", &["metrics.address=[::]:9465"]).matches("claim the same address").count(), 1);
}

#[test]
fn two_listeners_without_an_address_collide_on_the_default() {
    let expected = r#"
error: `listener.0.address` and `listener.1.address` claim the same address
 --> proxy.toml:2:1
  |
1 | [[listener]]
  | ------------ 0.0.0.0:8800 is taken here
2 | [[listener]]
  | ^^^^^^^^^^^^ 0.0.0.0:8800
  |
  = help: give each its own port
"#;
    assert_eq!(errors("[[listener]]\n[[listener]]\n", &[]), expected);
}

#[test]
fn the_engine_cannot_be_the_gate_itself() {
    let expected = r#"
error: the engine is the gate itself
 --> proxy.toml:2:11
  |
2 | address = "0.0.0.0:8080"
  |           ^^^^^^^^^^^^^^ where the gate listens
  |
  = help: `engine.http` is where the engine listens
"#;
    assert_eq!(errors("[[listener]]\naddress = \"0.0.0.0:8080\"\n", &[]), expected);
    assert!(errors("", &["engine.http=http://localhost:8800"]).contains("the engine is the gate itself"));
    // The same port on another machine is another engine.
    config("", &["engine.http=http://10.0.0.5:8800"]);
}

#[test]
fn a_second_engine_is_not_served() {
    let expected = r#"
error: one engine is served, and the file names more
 --> proxy.toml:2:1
  |
1 | [[engine]]
  | ---------- the first
2 | [[engine]]
  | ^^^^^^^^^^ the second
  |
  = help: run one gate for each engine
"#;
    assert_eq!(errors("[[engine]]\n[[engine]]\n", &[]), expected);
}

#[test]
fn there_are_at_most_64_listeners() {
    let listener = |index| format!("[[listener]]\naddress = \"127.0.0.1:{}\"\n", 20_000 + index);
    let listeners = |count| (0..count).map(listener).collect::<String>();
    assert_eq!(config(&listeners(64), &[]).listeners.len(), 64);
    assert_eq!(short(&listeners(66)), ["error: at most 64 listeners are served"]);
}

#[test]
fn an_automatic_wait_needs_a_ttfb_to_follow() {
    let expected = r#"
error: `admission.queue_wait_max` is `auto`, and the target says nothing of TTFB
 --> proxy.toml:2:7
  |
2 | slo = "rtf:p99@1.00"
  |       ^^^^^^^^^^^^^^ no `ttfb` clause
  |
  = help: add `ttfb:p99@1s` to the target, or set a duration for `queue_wait_max`
"#;
    let text = "[target]\nslo = \"rtf:p99@1.00\"\n";
    assert_eq!(errors(text, &[]), expected);
    config(text, &["admission.when_full=reject"]);
    config(text, &["admission.queue_wait_max=700ms"]);
}

#[test]
fn what_works_and_is_probably_not_meant_is_a_warning() {
    let text = r#"
[[engine]]
first_byte_timeout = "500ms"
[admission]
queue_wait_max = "3s"
[admin]
address = "0.0.0.0:9465"
[target]
slo = "ttfb:p99@1s"
"#;
    let expected = r#"
warning: the engine is given up before the target is missed
 --> proxy.toml:3:22
  |
3 | first_byte_timeout = "500ms"
  |                      ^^^^^^^ the target's TTFB is 1s
...
9 | slo = "ttfb:p99@1s"
  |       ------------- the target
  |
  = help: a synthesis that would still be good ends as `engine_timeout`

warning: a synthesis may wait until it has missed the target
 --> proxy.toml:5:18
  |
5 | queue_wait_max = "3s"
  |                  ^^^^ the target's TTFB is 1s
...
9 | slo = "ttfb:p99@1s"
  |       ------------- the target
  |
  = help: a slot is then spent on a caller who is already late; `auto` follows the target

warning: the admin address is open to other machines
 --> proxy.toml:7:11
  |
7 | address = "0.0.0.0:9465"
  |           ^^^^^^^^^^^^^^
  |
  = help: whoever reaches it can change the limit; `metrics.address` is the one to open
"#;
    assert_eq!(warnings(text), expected);
}

#[test]
fn an_override_counts_more_than_the_file_and_the_later_more_than_the_earlier() {
    let text = "[admission]\nqueue_max = 1\nwhen_full = \"reject\"\n";
    let config =
        config(text, &["admission.queue_max=2", "admission.queue_max=3", "admission.queue_wait_max=200ms"]);
    assert_eq!((config.admission.queue_max, config.admission.when_full), (3, WhenFull::Reject));
    assert!(matches!(config.admission.queue_wait_max, QueueWaitMax::Fixed(wait) if wait.as_millis() == 200));
}

#[test]
fn an_override_reaches_any_listener_by_its_number_and_the_first_without() {
    let text = "[[listener]]\n[[listener]]\n";
    let sets =
        ["listener.address=127.0.0.1:1", "listener.1.address=127.0.0.1:2", "listener.synthesis_paths=['/']"];
    let listeners = config(text, &sets).listeners;
    assert_eq!(listeners.iter().map(|one| one.address.port()).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(listeners[0].synthesis_paths, ["/"]);
}

#[test]
fn a_wrong_override_is_shown_as_it_was_said() {
    let sets = [
        "admission.queue_max=lots",
        "admission.queu_max=3",
        "admission=3",
        "listener.7.address=127.0.0.1:1",
        "metrics.models=[\"arcana\", 3]",
        "listener.synthesis_paths=[",
        "admin.address=0.0.0.0:9464",
    ];
    let expected = r#"
error: `admission.queue_max` must be a whole number from 0 to 65535
 |
 | --set admission.queue_max=lots
 |                           ^^^^ this is a string

error: unknown key `admission.queu_max`
 |
 | --set admission.queu_max=3
 |       ^^^^^^^^^^^^^^^^^^
 |
 = help: did you mean `admission.queue_max`?

error: unknown key `admission`
 |
 | --set admission=3
 |       ^^^^^^^^^
 |
 = help: it is a table: set one of its keys, such as `admission.queue_max`

error: unknown key `listener.7.address`
 |
 | --set listener.7.address=127.0.0.1:1
 |       ^^^^^^^^^^^^^^^^^^
 |
 = help: did you mean `listener.address`?

error: `metrics.models` must be a name of printable characters
 |
 | --set metrics.models=["arcana", 3]
 |                                 ^ this is an integer

error: the value of `listener.synthesis_paths` is not TOML
 |
 | --set listener.synthesis_paths=[
 |                                 ^ unclosed array, expected `]`

error: `metrics.address` and `admin.address` claim the same address
  |
  | --set admin.address=0.0.0.0:9464
  |                     ^^^^^^^^^^^^ 0.0.0.0:9464
  |
 ::: proxy.toml:2:11
  |
2 | address = "127.0.0.1:9464"
  |           ---------------- 127.0.0.1:9464 is taken here
  |
  = help: give each its own port
"#;
    assert_eq!(errors("[metrics]\naddress = \"127.0.0.1:9464\"\n", &sets), expected);
}

/// The committed file with a piece cut out and another put in: texts that are nearly right.
fn nearly_right() -> impl Strategy<Value = String> {
    let place = || any::<prop::sample::Index>();
    (place(), 0..40_usize, "[\\PC\n\t\u{1b}\u{202e}\"'=\\[\\]{}#.,0-9]{0,20}").prop_map(|(at, cut, piece)| {
        let chars: Vec<char> = PROXY_TOML.chars().collect();
        let at = at.index(chars.len());
        let (head, tail) = (&chars[..at], &chars[(at + cut).min(chars.len())..]);
        head.iter().chain(&piece.chars().collect::<Vec<_>>()).chain(tail).collect()
    })
}

fn never_panics(text: &str, sets: &[String]) {
    let mut overrides = Overrides::default();
    for set in sets {
        let _ = overrides.push_set(set);
    }
    let problems = match Config::read("proxy.toml", text, &overrides) {
        Ok(checked) => checked.warnings,
        Err(errors) => errors,
    };
    let shown = problems.to_string();
    assert!(!shown.chars().any(|char| char.is_control() && char != '\n'), "{shown:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn no_text_makes_the_reader_panic_or_reaches_the_terminal_raw(text in "(?s).{0,200}") {
        never_panics(&text, &[]);
    }

    #[test]
    fn no_nearly_right_text_does(text in nearly_right()) {
        never_panics(&text, &[]);
    }

    #[test]
    fn no_override_does(sets in prop::collection::vec("(admission.queue_max|target.slo|listener|\\PC{0,9})=(?s).{0,30}", 0..4)) {
        never_panics(PROXY_TOML, &sets);
    }
}
