//! Starts the engine with an operator's own command, waits until it is ready, tells why it is not, and ends it. Decides
//! what counts as out of memory; knows no search.

use std::io;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::search::{Outcome, Short, Variables};

/// How often readiness is asked for.
const ASK_EVERY: Duration = Duration::from_millis(200);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// From SIGTERM to SIGKILL.
const END_TIMEOUT: Duration = Duration::from_secs(20);
/// Marks the processes of a search, so that no other is ever ended by mistake.
const MARK: &str = "RIME_GATE_TUNE";
/// Lines of an engine's output that are kept for an error.
const LINES_MAX: usize = 20;

/// How the engine is started.
#[derive(Clone, Debug)]
pub enum How {
    /// It is a child, for as long as it is measured.
    Child(String),
    /// Somebody else runs it: this command makes them restart it.
    Apply(String),
}

/// What a start needs to know.
#[derive(Clone, Debug)]
pub struct Starter {
    /// The command.
    pub how: How,
    /// Where a GET says 2xx once the engine is ready.
    pub ready: Uri,
    /// How long a start may take.
    pub start_timeout: Duration,
    /// What else the command's environment holds.
    pub extra: Vec<(String, String)>,
}

/// A running engine.
#[derive(Debug)]
pub struct Running {
    child: Option<Child>,
    group: Option<i32>,
}

/// What is known of a start that is still under way.
#[derive(Clone, Debug, Default)]
struct Seen(Arc<Mutex<(Vec<String>, Option<Short>)>>);

impl Seen {
    fn line(&self, line: String) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.1 = seen.1.or(out_of_memory(&line));
        if seen.0.len() == LINES_MAX {
            seen.0.remove(0);
        }
        seen.0.push(line);
    }

    fn short(&self) -> Option<Short> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    fn last(&self) -> String {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.0.iter().rev().find(|line| !line.trim().is_empty()).cloned().unwrap_or_default()
    }
}

/// Whether a line of an engine's output says that memory ran out, and whose.
#[must_use]
pub fn out_of_memory(line: &str) -> Option<Short> {
    // vLLM's words for a share that is too small.
    const GENERATOR: [&str; 3] = [
        "no available memory for the cache blocks",
        "larger than the available kv cache memory",
        "to increase gpu_memory_utilization",
    ];
    const REST: [&str; 6] = [
        "out of memory",
        "outofmemoryerror",
        "cuda_error_out_of_memory",
        "cannot allocate memory",
        "std::bad_alloc",
        "failed to allocate memory",
    ];
    let line = line.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| line.contains(word));
    match (says(&GENERATOR), says(&REST)) {
        (true, _) => Some(Short::Generator),
        (_, true) => Some(Short::Rest),
        _ => None,
    }
}

impl Starter {
    /// Starts the engine with these variables and waits until it is ready. `running` holds it from its first moment on, so that
    /// it can be ended whenever this is dropped. `started` hears of its process group.
    ///
    /// # Errors
    /// What came of a start that failed; nothing of it runs any more.
    ///
    /// # Cancel safety
    /// What was begun is in `running`.
    pub async fn start(
        &self,
        variables: &Variables,
        running: &mut Option<Running>,
        started: &mut dyn FnMut(i32),
    ) -> Result<(), Outcome> {
        let deadline = Instant::now() + self.start_timeout;
        let is_child = matches!(self.how, How::Child(_));
        if is_child && matches!(timeout(ANSWER_TIMEOUT, is_ready(&self.ready)).await, Ok(Ok(true))) {
            return Err(Outcome::Failed(format!("something else answers at {} already", self.ready)));
        }
        let seen = Seen::default();
        let child = self.spawn(variables, &seen).map_err(|error| Outcome::Failed(error.to_string()))?;
        let group = child.id().and_then(|id| i32::try_from(id).ok());
        let begun = running.insert(Running { child: Some(child), group });
        if let (true, Some(group)) = (is_child, group) {
            started(group);
        }
        let mut came = Ok(());
        if !is_child {
            came = self.applied(begun, &seen).await;
        }
        if came.is_ok() {
            came = self.until_ready(begun, deadline, &seen).await;
        }
        if came.is_err()
            && let Some(mut failed) = running.take()
        {
            failed.end().await;
        }
        came
    }

    /// Waits until the command has ended. What it has started by then is not ours to end.
    async fn applied(&self, running: &mut Running, seen: &Seen) -> Result<(), Outcome> {
        let Some(child) = running.child.as_mut() else { return Ok(()) };
        let Ok(ended) = timeout(self.start_timeout, child.wait()).await else {
            return Err(Outcome::Failed("the apply command did not end in time".to_owned()));
        };
        running.child = None;
        match ended {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(gone(status, seen)),
            Err(error) => Err(Outcome::Failed(error.to_string())),
        }
    }

    fn spawn(&self, variables: &Variables, seen: &Seen) -> io::Result<Child> {
        let (How::Child(command) | How::Apply(command)) = &self.how;
        let mut child = Command::new("sh")
            .args(["-c", command])
            .envs(variables.environment())
            .envs(self.extra.iter().map(|(name, value)| (name, value)))
            .env(MARK, "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own: what the command starts ends with it.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        if let Some(output) = child.stdout.take() {
            tokio::spawn(read(output, seen.clone()));
        }
        if let Some(output) = child.stderr.take() {
            tokio::spawn(read(output, seen.clone()));
        }
        Ok(child)
    }

    async fn until_ready(
        &self,
        running: &mut Running,
        deadline: Instant,
        seen: &Seen,
    ) -> Result<(), Outcome> {
        // One that was told to restart may still answer as the old one, for a moment.
        if running.child.is_none() {
            sleep(ASK_EVERY * 5).await;
        }
        loop {
            if let Some(child) = running.child.as_mut()
                && let Ok(Some(status)) = child.try_wait()
            {
                // What it said last is still on its way.
                sleep(ASK_EVERY).await;
                return Err(gone(status, seen));
            }
            if matches!(timeout(ANSWER_TIMEOUT, is_ready(&self.ready)).await, Ok(Ok(true))) {
                return Ok(());
            }
            if let Some(short) = seen.short() {
                // Some engines say so and hang.
                return Err(Outcome::OutOfMemory(short));
            }
            if Instant::now() >= deadline {
                // Out of memory on the GPU is a hang as often as an exit.
                return Err(Outcome::OutOfMemory(Short::Rest));
            }
            sleep(ASK_EVERY).await;
        }
    }
}

/// An engine that ended before it was ready.
fn gone(status: std::process::ExitStatus, seen: &Seen) -> Outcome {
    use std::os::unix::process::ExitStatusExt;
    const KILL: i32 = 9;
    // The kernel's own answer to a machine that is out of memory; a shell says it as 128 and the signal.
    let killed = status.signal() == Some(KILL) || status.code() == Some(128 + KILL);
    match seen.short() {
        Some(short) => Outcome::OutOfMemory(short),
        None if killed => Outcome::OutOfMemory(Short::Rest),
        None => Outcome::Failed(format!("{status}: {}", seen.last())),
    }
}

impl Running {
    /// Ends the engine with all that it started.
    pub async fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            end_group(self.group, &mut child).await;
        }
    }
}

async fn end_group(group: Option<i32>, child: &mut Child) {
    signal(group, Signal::TERM);
    if timeout(END_TIMEOUT, child.wait()).await.is_err() {
        signal(group, Signal::KILL);
        let _ = child.wait().await;
    }
    // The shell may have gone before what it started.
    signal(group, Signal::KILL);
}

fn signal(group: Option<i32>, signal: Signal) {
    if let Some(group) = group.and_then(Pid::from_raw) {
        // A group that has ended has nobody to tell.
        let _ = kill_process_group(group, signal);
    }
}

/// Ends the engine that a killed search left behind, if there still is one: only processes that carry the search's mark.
pub async fn end_left_behind(group: i32) {
    let marked = || {
        let environment = std::fs::read(format!("/proc/{group}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| entry.starts_with(MARK.as_bytes()))
    };
    if group <= 1 || !marked() {
        return;
    }
    signal(Some(group), Signal::TERM);
    let deadline = Instant::now() + END_TIMEOUT;
    while marked() && Instant::now() < deadline {
        sleep(ASK_EVERY).await;
    }
    if marked() {
        signal(Some(group), Signal::KILL);
    }
}

async fn read(output: impl AsyncRead + Unpin, seen: Seen) {
    let mut lines = BufReader::new(output).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        seen.line(line);
    }
}

async fn is_ready(uri: &Uri) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let addresses: Vec<SocketAddr> =
        tokio::net::lookup_host((host, uri.port_u16().unwrap_or(80))).await?.collect();
    let stream = TcpStream::connect(&addresses[..]).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let request = Request::get(path).header(header::HOST, authority).body(Empty::<Bytes>::new())?;
    Ok(sender.send_request(request).await?.status().is_success())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starter(command: &str) -> Starter {
        Starter {
            how: How::Child(command.to_owned()),
            // The discard port: nobody is there.
            ready: Uri::from_static("http://127.0.0.1:9/readyz"),
            start_timeout: Duration::from_secs(1),
            extra: Vec::new(),
        }
    }

    async fn outcome(command: &str) -> Outcome {
        let variables = Variables {
            decoder_max_batch: 32,
            decoder_num_sessions: 6,
            generator_max_batch: 32,
            utilization_percent: 80,
        };
        starter(command).start(&variables, &mut None, &mut |_| {}).await.unwrap_err()
    }

    #[tokio::test]
    async fn out_of_memory_is_known_by_what_the_log_says_before_the_engine_exits() {
        let generator =
            "echo 'ValueError: No available memory for the cache blocks. Try increasing it'; exit 1";
        assert_eq!(outcome(generator).await, Outcome::OutOfMemory(Short::Generator));
        let rest = "echo 'torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB' >&2; exit 1";
        assert_eq!(outcome(rest).await, Outcome::OutOfMemory(Short::Rest));
    }

    #[tokio::test]
    async fn out_of_memory_is_known_by_what_the_log_says_though_the_engine_hangs() {
        let started = Instant::now();
        let hangs = "echo 'RuntimeError: CUDA error: out of memory'; exec sleep 60";
        assert_eq!(outcome(hangs).await, Outcome::OutOfMemory(Short::Rest));
        assert!(started.elapsed() < Duration::from_secs(30));
    }

    #[tokio::test]
    async fn out_of_memory_is_known_by_the_kernels_kill_and_by_a_start_without_end() {
        assert_eq!(outcome("kill -9 $$").await, Outcome::OutOfMemory(Short::Rest));
        assert_eq!(outcome("exit 137").await, Outcome::OutOfMemory(Short::Rest));
        assert_eq!(outcome("exec sleep 60").await, Outcome::OutOfMemory(Short::Rest));
    }

    #[tokio::test]
    async fn an_engine_that_ends_for_another_reason_has_failed_and_its_last_line_says_why() {
        let Outcome::Failed(why) = outcome("echo 'no licence'; exit 3").await else { panic!("it failed") };
        assert!(why.contains("no licence") && why.contains('3'), "{why}");
    }

    #[tokio::test]
    async fn the_variables_are_in_the_commands_environment() {
        let said = "echo \"$DECODER_MAX_BATCH $DECODER_NUM_SESSIONS $GENERATOR_MAX_BATCH \
                    $GENERATOR_GPU_MEMORY_UTILIZATION\"; exit 1";
        let Outcome::Failed(why) = outcome(said).await else { panic!("it failed") };
        assert!(why.ends_with("32 6 32 0.80"), "{why}");
    }
}
