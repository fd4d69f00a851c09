//! Starts the gate, an engine and other programs as a user would, and ends them as a supervisor would.

#![allow(dead_code, reason = "every test uses its part of this")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::Duration;

/// How long anything may take that should take an instant, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at something that is to come.
const LOOK: Duration = Duration::from_millis(50);
/// Lines of a program that may wait to be read.
const LINES_MAX: usize = 10_000;
/// What an engine can serve at further addresses, in the order in which it says so.
const DOORS: [&str; 3] = ["grpc", "ws-json", "ws-binary"];

/// Where each of [`DOORS`] is, of those that are served.
pub(crate) type Doors = BTreeMap<&'static str, SocketAddr>;

/// A program that runs; killed when dropped.
pub(crate) struct Running {
    name: String,
    child: Child,
    /// What it says, line by line.
    lines: Receiver<String>,
    /// The lines read so far, for when something goes wrong.
    heard: String,
}

impl Running {
    /// Starts a program. Its standard output and standard error are read together.
    #[track_caller]
    pub(crate) fn start(command: &mut Command) -> Self {
        let name = format!("{command:?}");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}; tests/install brings what the tests need"));
        let (sender, lines) = sync_channel(LINES_MAX);
        let outputs: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for output in outputs {
            let sender = sender.clone();
            thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    // A program that is not listened to any more must not block on a full pipe.
                    let _ = sender.try_send(line);
                }
            });
        }
        Self { name, child, lines, heard: String::new() }
    }

    /// The next line that has `mark`, whole.
    #[track_caller]
    pub(crate) fn says(&mut self, mark: &str) -> String {
        loop {
            let Ok(line) = self.lines.recv_timeout(PATIENCE) else {
                panic!("{} did not say {mark:?}, but:\n{}", self.name, self.heard)
            };
            self.heard.push_str(&line);
            self.heard.push('\n');
            if line.contains(mark) {
                return line;
            }
        }
    }

    /// Writes a line to its standard input.
    #[track_caller]
    pub(crate) fn hears(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// Waits for its end, which comes by itself once nobody speaks to it any more. Its exit code.
    #[track_caller]
    pub(crate) fn ends(mut self) -> Option<i32> {
        drop(self.child.stdin.take());
        self.child.wait().unwrap().code()
    }

    /// Ends it by SIGTERM. Its exit code.
    #[track_caller]
    pub(crate) fn terminate(mut self) -> Option<i32> {
        let done = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(done.success(), "{} had ended before:\n{}", self.name, self.heard);
        self.child.wait().unwrap().code()
    }

    /// Ends it at once, as a caller who hangs up.
    pub(crate) fn kill(self) {
        drop(self);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A simulated engine.
pub(crate) struct Engine {
    pub(crate) process: Running,
    pub(crate) address: SocketAddr,
    /// Those that its arguments ask for.
    pub(crate) doors: Doors,
}

impl Engine {
    #[track_caller]
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::start_on(SocketAddr::from(([127, 0, 0, 1], 0)), arguments)
    }

    #[track_caller]
    pub(crate) fn start_on(listen: SocketAddr, arguments: &[&str]) -> Self {
        let mut command = program();
        command.args(["engine", "--listen", &listen.to_string()]).args(arguments);
        let mut process = Running::start(&mut command);
        let line = process.says("listening on http://");
        let address = line.rsplit_once('/').unwrap().1.parse().unwrap();
        let asked = DOORS.into_iter().filter(|door| arguments.contains(&format!("--{door}").as_str()));
        let doors = asked.map(|door| {
            let line = process.says(&format!("listening for {door} on "));
            (door, line.rsplit_once(' ').unwrap().1.parse().unwrap())
        });
        let doors = doors.collect();
        Self { process, address, doors }
    }

    /// A number of `/statusz`, as in `/syntheses/peak`.
    #[track_caller]
    pub(crate) fn count(&self, pointer: &str) -> u64 {
        let status: serde_json::Value = serde_json::from_str(&get(self.address, "/statusz")).unwrap();
        status.pointer(pointer).unwrap().as_u64().unwrap()
    }
}

/// A gate.
pub(crate) struct Gate {
    pub(crate) process: Running,
    /// Where callers come in.
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) metrics: SocketAddr,
    /// The engine's.
    pub(crate) doors: Doors,
}

impl Gate {
    /// A gate in front of `engine`, which it knows to be up.
    #[track_caller]
    pub(crate) fn start(engine: &Engine, arguments: &[&str]) -> Self {
        let mut command = program();
        command.args(["run", "--engine", &format!("http://{}", engine.address)]);
        command.args(["--admin-address", "127.0.0.1:0", "--metrics-address", "127.0.0.1:0"]).args(arguments);
        // One listener needs no file.
        let directory = tempfile::tempdir().unwrap();
        if engine.doors.is_empty() {
            command.args(["--listen", "127.0.0.1:0"]);
        } else {
            let file = directory.path().join("proxy.toml");
            fs::write(&file, listeners(&engine.doors)).unwrap();
            command.arg("--config").arg(file);
        }
        let mut process = Running::start(&mut command);
        let field = |line: &str, name: &str| -> SocketAddr {
            let found = line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            found.and_then(|address| address.parse().ok()).unwrap_or_else(|| panic!("no {name} in {line}"))
        };
        let mut listening = || field(&process.says(": listening address="), "address");
        let address = listening();
        let doors = engine.doors.keys().map(|door| (*door, listening())).collect();
        let operators = process.says("listening for operators");
        let (admin, metrics) = (field(&operators, "admin"), field(&operators, "metrics"));
        let gate = Self { process, address, admin, metrics, doors };
        eventually("the gate is ready", || get(gate.metrics, "/readyz").starts_with("ok"));
        gate
    }

    /// A number of `rime-gate status --json`.
    #[track_caller]
    pub(crate) fn status(&self, name: &str) -> f64 {
        let admin = self.admin.to_string();
        let said = output(program().args(["status", "--json", "--admin-address", &admin]));
        let status: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
        status[name].as_f64().unwrap_or_else(|| panic!("no {name} in {status}"))
    }
}

/// A configuration with a listener for HTTP, and one for each of the engine's doors.
fn listeners(doors: &Doors) -> String {
    let (mut listeners, mut engine) =
        ("[[listener]]\naddress = \"127.0.0.1:0\"\n".to_owned(), "[[engine]]\n".to_owned());
    for (door, address) in doors {
        listeners.push_str(&format!("[[listener]]\naddress = \"127.0.0.1:0\"\nsurface = \"{door}\"\n"));
        engine.push_str(&format!("{} = \"http://{address}\"\n", door.replace('-', "_")));
    }
    listeners + &engine
}

/// The binary under test.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rime-gate"));
    // Settings of whoever runs the tests are none of theirs.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("RIME_GATE_")) {
        command.env_remove(name);
    }
    command
}

/// A file that `tests/install` makes.
#[track_caller]
pub(crate) fn installed(path: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/callers").join(path);
    assert!(path.exists(), "{} is missing: run tests/install", path.display());
    path
}

/// Runs a program to its end.
#[track_caller]
pub(crate) fn output(command: &mut Command) -> Output {
    let name = format!("{command:?}");
    command
        .output()
        .unwrap_or_else(|error| panic!("{name}: {error}; tests/install brings what the tests need"))
}

/// The body of a GET, whatever its status; empty when nobody answers.
#[track_caller]
pub(crate) fn get(address: SocketAddr, path: &str) -> String {
    let url = format!("http://{address}{path}");
    let said = output(Command::new("curl").args(["--silent", "--max-time", "10", "--globoff", &url]));
    String::from_utf8(said.stdout).unwrap()
}

/// Waits until it is so. A count of another process sends no event: as `until` does for a gate in the test's own process, this
/// looks again at every tick of a clock.
#[track_caller]
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let clock = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let looked = clock.block_on(async {
        let mut looks = tokio::time::interval(LOOK);
        let looking = async {
            while !is_so() {
                looks.tick().await;
            }
        };
        tokio::time::timeout(PATIENCE, looking).await
    });
    assert!(looked.is_ok(), "in {PATIENCE:?} it did not come to be that {what}");
}
