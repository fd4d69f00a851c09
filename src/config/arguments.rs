//! The flags of `rime-gate run` and the variables that stand for them: which key each sets. clap reads them; the
//! values are judged with all others, when the file is read.

use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, value_parser};

use super::overrides::Overrides;

/// One flag that stands for a key.
struct Flag {
    /// `queue-max` is `--queue-max`.
    name: &'static str,
    /// `RIME_GATE_` and the flag's name.
    variable: &'static str,
    key: &'static str,
    value: &'static str,
    help: &'static str,
}

const LISTEN: &str = "listener.address";

const FLAGS: [Flag; 8] = [
    Flag {
        name: "engine",
        variable: "RIME_GATE_ENGINE",
        key: "engine.http",
        value: "URL",
        help: "Where the engine serves HTTP",
    },
    Flag {
        name: "listen",
        variable: "RIME_GATE_LISTEN",
        key: LISTEN,
        value: "ADDR",
        help: "Where callers come in, instead of the file's listeners",
    },
    Flag {
        name: "concurrency-max",
        variable: "RIME_GATE_CONCURRENCY_MAX",
        key: "engine.concurrency_max",
        value: "N",
        help: "Syntheses in the engine at once",
    },
    Flag {
        name: "queue-max",
        variable: "RIME_GATE_QUEUE_MAX",
        key: "admission.queue_max",
        value: "N",
        help: "Syntheses that may wait for a slot",
    },
    Flag {
        name: "queue-wait-max",
        variable: "RIME_GATE_QUEUE_WAIT_MAX",
        key: "admission.queue_wait_max",
        value: "DUR",
        help: "How long a synthesis may wait for a slot: a duration, or `auto`",
    },
    Flag {
        name: "threads",
        variable: "RIME_GATE_THREADS",
        key: "runtime.threads",
        value: "N",
        help: "Worker threads: a number, or `auto`",
    },
    Flag {
        name: "admin-address",
        variable: "RIME_GATE_ADMIN_ADDRESS",
        key: "admin.address",
        value: "ADDR",
        help: "Where status and the limit are served",
    },
    Flag {
        name: "metrics-address",
        variable: "RIME_GATE_METRICS_ADDRESS",
        key: "metrics.address",
        value: "ADDR",
        help: "Where metrics and probes are served",
    },
];

/// What the command line and the environment say to `rime-gate run`. A part of a clap command: `#[command(flatten)]`,
/// or the content of a subcommand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunArguments {
    /// The file to read, if one is named. None is read that is not named.
    pub config: Option<PathBuf>,
    /// What is laid over it.
    pub overrides: Overrides,
}

impl Args for RunArguments {
    fn augment_args(command: Command) -> Command {
        let config =
            Arg::new("config").long("config").value_name("FILE").value_parser(value_parser!(PathBuf));
        let config =
            config.env("RIME_GATE_CONFIG").help("Configuration file; without one, defaults and flags");
        let set = Arg::new("set").long("set").value_name("KEY=VALUE").action(ArgAction::Append);
        let set = set.value_parser(assignment).help("Set any other key, as in `admission.when_full=reject`");
        let flags = FLAGS.iter().map(|flag| {
            let arg = Arg::new(flag.name).long(flag.name).value_name(flag.value).help(flag.help);
            arg.env(flag.variable)
        });
        command.arg(config).args(flags).arg(set)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// Only the form; the key and the value are judged with the file.
fn assignment(text: &str) -> Result<String, String> {
    Overrides::default().push_set(text).map(|()| text.to_owned())
}

impl FromArgMatches for RunArguments {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut arguments = Self::default();
        arguments.update_from_arg_matches(matches)?;
        Ok(arguments)
    }

    /// Adds in the order of their weight: of a key set twice, the later counts.
    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.config = matches.get_one::<PathBuf>("config").cloned().or_else(|| self.config.take());
        self.add_flags(matches, ValueSource::EnvVariable);
        for assignment in matches.get_many::<String>("set").into_iter().flatten() {
            let added = self.overrides.push_set(assignment);
            added.map_err(|message| clap::Error::raw(clap::error::ErrorKind::ValueValidation, message))?;
        }
        self.add_flags(matches, ValueSource::CommandLine);
        Ok(())
    }
}

impl RunArguments {
    fn add_flags(&mut self, matches: &ArgMatches, source: ValueSource) {
        for flag in FLAGS.iter().filter(|flag| matches.value_source(flag.name) == Some(source)) {
            let before = match source {
                ValueSource::EnvVariable => format!("{}=", flag.variable),
                _ => format!("--{} ", flag.name),
            };
            if flag.key == LISTEN {
                self.overrides.replace_listeners();
            }
            if let Some(value) = matches.get_one::<String>(flag.name) {
                self.overrides.push(flag.key, &before, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_has_the_variable_of_its_name_and_a_key_that_exists() {
        for flag in &FLAGS {
            let name = flag.name.replace('-', "_").to_ascii_uppercase();
            assert_eq!(flag.variable, format!("RIME_GATE_{name}"));
            assert!(crate::config::Config::keys().contains(flag.key), "{}", flag.key);
        }
    }
}
