//! What an operator says outside the file: single keys from flags, the environment and `--set`.
//! Decides which key each means. Reads no environment itself.

/// One key set from outside the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Override {
    /// The dotted key, in full: `engine.0.concurrency_max`.
    pub(super) key: String,
    /// The key as an operator wrote it.
    pub(super) written: String,
    /// The value as written: TOML, or a text without quotes.
    pub(super) value: String,
    /// What stands before key (after `--set`) or value, so that an operator finds it again: `--queue-max `.
    pub(super) before: String,
}

impl Override {
    /// As it was said: `--queue-max 64`, `RIME_GATE_QUEUE_MAX=64`, `--set admission.queue_max=64`.
    /// The value comes last.
    pub(super) fn text(&self) -> String {
        format!("{}{}", self.before, self.value)
    }
}

/// Every key set from outside the file. Of a key set twice, the later counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    pub(super) list: Vec<Override>,
    pub(super) one_listener: bool,
}

impl Overrides {
    /// Sets `key` from a flag or a variable that stands for it. `before` is what an operator wrote before the value:
    /// `--queue-max ` or `RIME_GATE_QUEUE_MAX=`.
    pub fn push(&mut self, key: &str, before: &str, value: &str) {
        let (written, value, before) = (key.to_owned(), value.to_owned(), before.to_owned());
        self.list.push(Override { key: full_key(key), written, value, before });
    }

    /// Sets a key from `KEY=VALUE`, the argument of `--set`.
    ///
    /// # Errors
    /// One line for a person if there is no `=`.
    pub fn push_set(&mut self, assignment: &str) -> Result<(), String> {
        let Some((key, value)) = assignment.split_once('=') else {
            return Err("expected KEY=VALUE, as in `admission.queue_max=64`".to_owned());
        };
        let (key, value) = (key.trim(), value.trim());
        self.push(key, &format!("--set {key}="), value);
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
