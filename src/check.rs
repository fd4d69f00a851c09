//! Reads a configuration from disk, for `rime-gate run`, and says what is wrong with one, for `rime-gate check`.
//! Decides no rule: `config` does.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use crate::config::{Checked, Config, FILE_BYTES_MAX, Overrides, Problems, RunArguments};

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file, or what was laid over it, is wrong. `Display` shows everything that is.
    #[error(transparent)]
    Invalid(Problems),
}

impl LoadError {
    /// The exit code of a command that ends on this error: 2 for a file that cannot be read, 1 for one that is wrong.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Unreadable { .. } => 2,
            Self::Invalid(_) => 1,
        }
    }

    /// The error for a terminal, with its cause; ends with a line end.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        match self {
            Self::Unreadable { source, .. } => format!("error: {self}: {source}\n"),
            Self::Invalid(problems) => problems.render(colour),
        }
    }
}

/// The configuration that `arguments` ask for. A file is read only if they name one.
///
/// # Errors
/// If the file cannot be read or anything in it, or in the arguments, is wrong.
pub fn load(arguments: &RunArguments) -> Result<Checked, LoadError> {
    let Some(path) = &arguments.config else {
        return Config::read("", "", &arguments.overrides).map_err(LoadError::Invalid);
    };
    load_file(path, &arguments.overrides)
}

fn load_file(path: &Path, overrides: &Overrides) -> Result<Checked, LoadError> {
    let text = read(path).map_err(|source| LoadError::Unreadable { path: path.to_owned(), source })?;
    Config::read(&path.display().to_string(), &text, overrides).map_err(LoadError::Invalid)
}

fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    // One byte more than allowed tells a file that is too long from one that just fits.
    let bound = FILE_BYTES_MAX as u64 + 1;
    File::open(path)?.take(bound).read_to_end(&mut bytes)?;
    if bytes.len() > FILE_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("longer than {FILE_BYTES_MAX} bytes"),
        ));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..valid].iter().filter(|byte| **byte == b'\n').count() + 1;
        io::Error::new(io::ErrorKind::InvalidData, format!("line {line} is not UTF-8"))
    })
}

/// `rime-gate check`: reads the file at `path` and says everything that is wrong with it on `stderr`, or that it is
/// fine on `stdout`.
///
/// Returns the exit code: 0 fine, 1 wrong, 2 not to be read.
///
/// # Errors
/// If `stdout` or `stderr` cannot be written.
pub fn check(path: &Path, colour: bool, stdout: &mut dyn Write, stderr: &mut dyn Write) -> io::Result<u8> {
    let name = path.display();
    match load_file(path, &Overrides::default()) {
        Ok(Checked { warnings, provenance, .. }) => {
            for warnings in [&warnings, &provenance] {
                stderr.write_all(warnings.render(colour).as_bytes())?;
            }
            match warnings.count() + provenance.count() {
                0 => writeln!(stdout, "{name}: ok")?,
                count => writeln!(stdout, "{name}: ok, with {}", counted(count, "warning"))?,
            }
            Ok(0)
        }
        Err(error) => {
            stderr.write_all(error.render(colour).as_bytes())?;
            if let LoadError::Invalid(problems) = &error {
                writeln!(stderr, "\n{name}: {}", counted(problems.count(), "error"))?;
            }
            Ok(error.exit_code())
        }
    }
}

fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// [`check`] on the process's own standard output and error; in colour if the latter is a terminal.
/// The exit code is 2 as well if they cannot be written.
#[must_use]
pub fn run(path: &Path) -> u8 {
    let colour = io::stderr().is_terminal();
    check(path, colour, &mut io::stdout().lock(), &mut io::stderr().lock()).unwrap_or(2)
}
