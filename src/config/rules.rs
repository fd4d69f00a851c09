//! Decides whether values that are each fine are fine together. Errors are what cannot work; warnings are what
//! works and is probably not meant.

use std::net::{IpAddr, SocketAddr};

use super::bounds::LIST_MAX;
use super::problem::{Place, Problem};
use super::read::{Reader, plain};
use super::sections::Config;
use super::values::{EngineUrl, QueueWaitMax, Surface, WhenFull};

/// What the rules find.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) errors: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
    pub(super) provenance: Vec<Problem>,
}

/// How many tables a list may have: a second engine is not served yet.
pub(super) fn counts(reader: &mut Reader<'_>) {
    let places = &reader.places;
    if let Some(second) = places.get("engine.1") {
        let title = "one engine is served, and the file names more".to_owned();
        let first = places.get("engine.0").map(|place| (place.clone(), "the first".to_owned()));
        let help = Some("run one gate for each engine".to_owned());
        let problem = Problem { title, place: second.clone(), label: "the second".into(), also: first, help };
        reader.problems.push(problem);
    }
    if let Some(place) = places.get(&format!("listener.{LIST_MAX}")) {
        let title = format!("at most {LIST_MAX} listeners are served");
        let problem = Problem { title, place: place.clone(), label: String::new(), also: None, help: None };
        reader.problems.push(problem);
    }
}

/// The rules between keys. A key whose own value is wrong takes part in none of them.
pub(super) fn check(config: &Config, reader: &Reader<'_>) -> Findings {
    let mut rules = Rules { reader, findings: Findings::default() };
    rules.addresses(config);
    rules.engine_is_not_the_gate(config);
    rules.waiting(config);
    rules.patience(config);
    rules.admin_is_local(config);
    rules.limit_is_proved(config);
    rules.findings
}

struct Rules<'r, 'a> {
    reader: &'r Reader<'a>,
    findings: Findings,
}

impl Rules<'_, '_> {
    /// A problem between two keys, shown where either is set; `None` if neither is, or one of them is broken.
    fn problem(&self, title: String, keys: [(&str, &str); 2], help: &str) -> Option<Problem> {
        if keys.iter().any(|(key, _)| self.reader.broken.contains(*key)) {
            return None;
        }
        let place = |(key, label): (&str, &str)| {
            let table = key.rsplit_once('.').map_or(key, |(table, _)| table);
            let place = self.reader.places.get(key).or_else(|| self.reader.places.get(table));
            place.map(|place: &Place| (place.clone(), label.to_owned()))
        };
        let mut set = keys.into_iter().filter_map(place);
        let (place, label) = set.next()?;
        let also = set.next().filter(|(other, _)| *other != place);
        Some(Problem { title, place, label, also, help: Some(help.to_owned()) })
    }

    fn addresses(&mut self, config: &Config) {
        let listeners = config.listeners.iter().enumerate();
        let mut all: Vec<_> =
            listeners.map(|(index, one)| (format!("listener.{index}.address"), one.address)).collect();
        all.push(("metrics.address".to_owned(), config.metrics.address));
        all.push(("admin.address".to_owned(), config.admin.address));
        let only = config.listeners.len() == 1;
        let name = |key: &str| if only { plain(key) } else { key.to_owned() };
        for (index, (key, address)) in all.iter().enumerate() {
            for (other_key, other) in &all[..index] {
                if overlap(*address, *other) {
                    let title = format!("`{}` and `{}` claim the same address", name(other_key), name(key));
                    let (taken, first) = (format!("{address}"), format!("{other} is taken here"));
                    let keys = [(key.as_str(), taken.as_str()), (other_key.as_str(), first.as_str())];
                    let problem = self.problem(title, keys, "give each its own port");
                    self.findings.errors.extend(problem);
                }
            }
        }
    }

    fn engine_is_not_the_gate(&mut self, config: &Config) {
        for listener in 0..config.listeners.len() {
            let (key, engine) = match config.listeners[listener].surface {
                Surface::Http => ("engine.0.http", &config.engine.http),
                Surface::Grpc => ("engine.0.grpc", &config.engine.grpc),
                Surface::WsJson => ("engine.0.ws_json", &config.engine.ws_json),
                Surface::WsBinary => ("engine.0.ws_binary", &config.engine.ws_binary),
            };
            self.is_not_the_gate(config, key, engine);
        }
    }

    /// One of the engine's URLs that is used names none of the gate's own doors.
    fn is_not_the_gate(&mut self, config: &Config, url_key: &str, engine: &EngineUrl) {
        let host = if engine.host() == "localhost" { "127.0.0.1" } else { engine.host() };
        let Ok(ip) = host.parse::<IpAddr>() else { return };
        // An address that is not this machine's for sure may have the port of a listener on any address.
        let here = ip.is_loopback() || ip.is_unspecified();
        for (index, listener) in config.listeners.iter().enumerate() {
            let same = listener.address == SocketAddr::new(ip, engine.port());
            if same || here && overlap(listener.address, SocketAddr::new(ip, engine.port())) {
                let key = format!("listener.{index}.address");
                let title = "the engine is the gate itself".to_owned();
                let keys = [(url_key, "sent to"), (key.as_str(), "where the gate listens")];
                let name = url_key.rsplit('.').next().unwrap_or(url_key);
                let help = format!("`engine.{name}` is where the engine listens");
                let problem = self.problem(title, keys, &help);
                self.findings.errors.extend(problem.filter(|new| !self.findings.errors.contains(new)));
            }
        }
    }

    fn waiting(&mut self, config: &Config) {
        if config.admission.when_full != WhenFull::Queue {
            return;
        }
        const KEYS: [&str; 2] = ["admission.queue_wait_max", "target.slo"];
        match (config.admission.queue_wait_max, config.target.slo.ttfb_max()) {
            (QueueWaitMax::Auto, None) => {
                let title =
                    "`admission.queue_wait_max` is `auto`, and the target says nothing of TTFB".to_owned();
                let keys = [(KEYS[1], "no `ttfb` clause"), (KEYS[0], "follows the target's `ttfb`")];
                let help = "add `ttfb:p99@1s` to the target, or set a duration for `queue_wait_max`";
                self.findings.errors.extend(self.problem(title, keys, help));
            }
            (QueueWaitMax::Fixed(wait), Some(ttfb)) if wait >= ttfb => {
                let title = "a synthesis may wait until it has missed the target".to_owned();
                let bound = format!("the target's TTFB is {}", humantime::format_duration(ttfb));
                let keys = [(KEYS[0], bound.as_str()), (KEYS[1], "the target")];
                let help = "a slot is then spent on a caller who is already late; `auto` follows the target";
                self.findings.warnings.extend(self.problem(title, keys, help));
            }
            _ => {}
        }
    }

    fn patience(&mut self, config: &Config) {
        if let Some(ttfb) =
            config.target.slo.ttfb_max().filter(|ttfb| config.engine.first_byte_timeout < *ttfb)
        {
            let title = "the engine is given up before the target is missed".to_owned();
            let bound = format!("the target's TTFB is {}", humantime::format_duration(ttfb));
            let keys = [("engine.0.first_byte_timeout", bound.as_str()), ("target.slo", "the target")];
            let help = "a synthesis that would still be good ends as `engine_timeout`";
            self.findings.warnings.extend(self.problem(title, keys, help));
        }
    }

    fn limit_is_proved(&mut self, config: &Config) {
        const LIMIT: &str = "engine.0.concurrency_max";
        let (tuned, limit) = (&config.engine.tuned, config.engine.concurrency_max);
        let help = "`rime-gate tune` finds the limit and writes down how, in `[engine.tuned]`";
        let Some(level) = tuned.level else {
            let title = "nothing says how the limit was found".to_owned();
            let problem = self.problem(title, [(LIMIT, ""), (LIMIT, "")], help);
            self.findings.provenance.extend(problem);
            return;
        };
        if level < limit {
            let title = format!("the limit is above what was proved: {limit} for {level}");
            let keys = [(LIMIT, "the limit"), ("engine.0.tuned.level", "what was proved")];
            let problem =
                self.problem(title, keys, "every synthesis beyond it is a guess: lower it, or tune again");
            self.findings.provenance.extend(problem);
        }
        if let Some(target) = tuned.target.filter(|target| *target != config.target.slo) {
            let title = "the limit was proved for another target".to_owned();
            let now = format!("the target is {}", config.target.slo);
            let keys = [("engine.0.tuned.target", now.as_str()), ("target.slo", "the target")];
            let problem =
                self.problem(title, keys, &format!("it says nothing about this one; {target} was proved"));
            self.findings.provenance.extend(problem);
        }
    }

    fn admin_is_local(&mut self, config: &Config) {
        if config.admin.address.ip().is_loopback() {
            return;
        }
        let title = "the admin address is open to other machines".to_owned();
        let keys = [("admin.address", ""), ("admin.address", "")];
        let help = "whoever reaches it can change the limit; `metrics.address` is the one to open";
        self.findings.warnings.extend(self.problem(title, keys, help));
    }
}

/// Whether two sockets cannot both listen: the same port, and one address that covers the other.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    // [::] takes IPv4 as well, 0.0.0.0 takes only IPv4.
    let covers = |a: IpAddr, b: IpAddr| a.is_unspecified() && (a.is_ipv6() || b.is_ipv4());
    let port = a.port() == b.port() && a.port() != 0;
    port && (a.ip() == b.ip() || covers(a.ip(), b.ip()) || covers(b.ip(), a.ip()))
}
