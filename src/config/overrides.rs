//! What an operator says outside the file: single keys from flags, the environment and `--set`.
//! Decides which key each means. Reads no environment itself.

/// One key set from outside the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Override {
    /// The dotted key, in full: `engine.0.concurrency_max`.
    pub(super) key: String,
    /// The value as written: TOML, or a text without quotes.
    pub(super) value: String,
    /// What an operator would look at: the value, or `key=value`, in which `value` comes last.
    pub(super) text: String,
    /// Where it was said.
    pub(super) origin: String,
}

/// Every key set from outside the file. Of a key set twice, the later counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    pub(super) list: Vec<Override>,
    pub(super) one_listener: bool,
}

impl Overrides {
    /// Sets `key` from a flag or a variable that stands for it; `origin` names that, as in `flag --queue-max`.
    pub fn push(&mut self, key: &str, value: &str, origin: &str) {
        let (key, value, origin) = (full_key(key), value.to_owned(), origin.to_owned());
        self.list.push(Override { key, text: value.clone(), value, origin });
    }

    /// Sets a key from `KEY=VALUE`.
    ///
    /// # Errors
    /// One line for a person if there is no `=`.
    pub fn push_set(&mut self, assignment: &str) -> Result<(), String> {
        let Some((key, value)) = assignment.split_once('=') else {
            return Err("expected KEY=VALUE, as in `admission.queue_max=64`".to_owned());
        };
        let value = value.trim().to_owned();
        let text = format!("{}={value}", key.trim());
        self.list.push(Override { key: full_key(key.trim()), value, text, origin: "--set".to_owned() });
        Ok(())
    }

    /// Forgets the file's listeners: one listener with defaults takes their place.
    pub fn replace_listeners(&mut self) {
        self.one_listener = true;
    }
}

/// `listener.surface` means the first listener's: `listener.0.surface`; likewise for `engine`.
fn full_key(key: &str) -> String {
    let Some((list @ ("listener" | "engine"), rest)) = key.split_once('.') else {
        return key.to_owned();
    };
    let numbered = rest.split('.').next().is_some_and(|first| first.parse::<usize>().is_ok());
    if numbered { key.to_owned() } else { format!("{list}.0.{rest}") }
}
