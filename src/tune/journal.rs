//! What was tried, one JSON object a line, so that a search that was killed goes on where it was. Decides which lines still count.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::callers::Protocol;

use super::search::{Bounds, Outcome, Variables};

/// What a search was begun with. A journal of another one is not gone on with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Begun {
    /// Where the engine is called.
    pub url: String,
    /// On which protocol.
    #[serde(default)]
    pub protocol: Protocol,
    /// What a level has to keep.
    pub target: String,
    /// The variables of the start.
    pub start: Variables,
    /// How far it may go.
    pub bounds: Bounds,
    /// What the env file held before, if there was one.
    pub env_file_before: Option<String>,
}

/// One try and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Try {
    /// With what.
    pub variables: Variables,
    /// Why.
    pub why: String,
    /// What came of it.
    pub outcome: Outcome,
    /// The 99th percentile of TTFB at the level found, in seconds.
    pub ttfb_p99_seconds: Option<f64>,
    /// The 99th percentile of RTF at the level found.
    pub rtf_p99: Option<f64>,
    /// Syntheses that the level rests on.
    pub samples: u64,
    /// How long start and measuring took.
    pub seconds: f64,
}

impl Try {
    /// One of which nothing came yet.
    #[must_use]
    pub const fn new(variables: Variables, why: String) -> Self {
        let outcome = Outcome::Level(0);
        Self { variables, why, outcome, ttfb_p99_seconds: None, rtf_p99: None, samples: 0, seconds: 0.0 }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Begun(Begun),
    /// An engine was started as the leader of this process group, to be ended if the search is killed.
    Engine(i32),
    Tried(Try),
}

/// The journal of one search.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    /// Every try so far.
    pub tries: Vec<Try>,
    /// What the search was begun with.
    pub begun: Begun,
    /// The process group of the engine that was started last.
    pub engine: Option<i32>,
}

impl Journal {
    /// Opens the journal at `path`: that of the same search is gone on with, and there is no other.
    ///
    /// # Errors
    /// It cannot be read or written, or is that of another search.
    pub fn open(path: &Path, begun: Begun) -> io::Result<Self> {
        let (mut tries, mut engine, mut before) = (Vec::new(), None, None);
        match File::open(path) {
            Ok(file) => {
                for line in BufReader::new(file).lines() {
                    // The last line of a search that was killed may be half a line.
                    match serde_json::from_str(&line?) {
                        Ok(Line::Begun(begun)) => before = Some(begun),
                        Ok(Line::Engine(group)) => engine = Some(group),
                        Ok(Line::Tried(one)) => tries.push(one),
                        Err(_) => {}
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let same =
            |before: &Begun| Begun { env_file_before: begun.env_file_before.clone(), ..before.clone() };
        if before.as_ref().is_some_and(|before| same(before) != begun) {
            let why = "it is the journal of another search (URL, protocol, target, variables or bounds differ): move it away";
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        let begun = match before {
            // After half a line.
            Some(before) => {
                writeln!(file)?;
                before
            }
            None => {
                write(&mut file, &Line::Begun(begun.clone()))?;
                begun
            }
        };
        Ok(Self { path: path.to_owned(), file, tries, begun, engine })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the env file held before the search.
    #[must_use]
    pub fn env_file_before(&self) -> &str {
        self.begun.env_file_before.as_deref().unwrap_or_default()
    }

    /// Notes the engine that was started.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn started(&mut self, group: i32) -> io::Result<()> {
        write(&mut self.file, &Line::Engine(group))
    }

    /// Notes a try.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn tried(&mut self, one: Try) -> io::Result<()> {
        write(&mut self.file, &Line::Tried(one.clone()))?;
        self.tries.push(one);
        Ok(())
    }

    /// What came of a try with these variables.
    #[must_use]
    pub fn known(&self, variables: &Variables) -> Option<&Try> {
        self.tries.iter().find(|one| one.variables == *variables)
    }
}

fn write(file: &mut File, line: &Line) -> io::Result<()> {
    let mut text = serde_json::to_string(line)?;
    text.push('\n');
    file.write_all(text.as_bytes())?;
    file.sync_data()
}
