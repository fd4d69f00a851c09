//! What came of a turn on a line. Knows no line.

use super::call::Heard;

/// What came of a turn, and whether the line can carry another.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) heard: Heard,
    pub(super) reusable: bool,
}

impl Turn {
    /// The line is not to be trusted any more.
    pub(super) fn broken(heard: Heard) -> Self {
        Self { heard, reusable: false }
    }

    pub(super) fn ended(heard: Heard) -> Self {
        Self { heard, reusable: true }
    }
}
