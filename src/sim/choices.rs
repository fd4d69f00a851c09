//! What the engine does where Rime's documents leave it open: whoever tests against it can choose.

/// What `clear` does to the run that is being spoken, which Rime does not document. The text that waits is
/// dropped in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OnClear {
    /// It stops, and `done` follows.
    #[default]
    StopDone,
    /// It stops, and nothing follows.
    Stop,
    /// It plays to its end, and `done` follows.
    PlayOn,
}

/// What happens when a context is started that is open already, which Rime does not document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OnDuplicateStart {
    /// The context ends with an error of kind `invalid_input`.
    #[default]
    Fail,
    /// An error without a context, and the context goes on.
    Reject,
    /// The context begins anew: another `started`, and no end of the first.
    Replace,
    /// Nothing.
    Ignore,
}
