//! What an operator is told of values that are each fine and not together, and of wrong overrides.

use rime_gate::config::{Config, Overrides};

use super::{config, errors};

fn warnings(text: &str) -> String {
    format!("\n{}", Config::read("proxy.toml", text, &Overrides::default()).unwrap().warnings)
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
    let expected = r#"
error: at most 64 listeners are served
   --> proxy.toml:129:1
    |
129 | [[listener]]
    | ^^^^^^^^^^^^
"#;
    assert_eq!(errors(&listeners(66), &[]), expected);
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
