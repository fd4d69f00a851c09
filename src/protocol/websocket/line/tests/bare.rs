//! The binary socket: bare text in, bare audio out, and no word about the end.

use super::*;

#[test]
fn a_bare_text_run_ends_in_silence_sooner_when_all_its_text_was_heard() {
    let mut bench = Bench::binary(Settings::default());
    assert!(bench.caller("Hello").is_empty());
    // 13 characters: at most 1.625 s at 8 a second, which is 3,250 bytes.
    let run = asked(&bench.caller(" world. "));
    assert_eq!(to_engine(&bench.grant(run)), ["Hello", " world. "]);
    bench.after(300).sound(2_000);
    assert_eq!(bench.session.deadline(), Some(bench.now + Duration::from_secs(2)));
    bench.after(300).sound(2_000);
    assert_eq!(bench.session.deadline(), Some(bench.now + Duration::from_millis(500)));
    let actions = bench.after(500).wants();
    let [end] = ended(&actions)[..] else { panic!("{actions:?}") };
    assert_eq!((end.run, end.measured.outcome), (run, Outcome::Ok));
    assert_eq!((end.measured.rtf, end.measured.audio), (Ok(0.15), Duration::from_secs(2)));
}

#[test]
fn a_refused_bare_text_run_closes_the_socket_to_try_again_later() {
    let mut bench = Bench::binary(Settings::default());
    bench.caller("Hello");
    let run = asked(&bench.caller("<FLUSH>"));
    let actions = bench.refuse(run, Reason::QueueFull);
    let close = Close { code: 1013, reason: "Currently at synthesis limit, queue full" };
    assert!(actions.contains(&Action::CloseCaller(close)));
    assert!(to_caller(&actions).is_empty());
}

#[test]
fn bare_tokens_flush_clear_and_end() {
    let mut bench = Bench::binary(Settings::default());
    assert_eq!(bench.caller("<CLEAR>"), [Action::ToEngine(text("<CLEAR>"))]);
    bench.caller("Hello");
    let run = asked(&bench.caller("<EOS>"));
    assert_eq!(to_engine(&bench.grant(run)), ["Hello", "<EOS>"]);
    bench.sound(2_000);
    bench.session.engine_closed(bench.now, true, &mut bench.out);
    assert_eq!(ended(&bench.wants())[0].measured.outcome, Outcome::Ok, "its own end of a run");
}
