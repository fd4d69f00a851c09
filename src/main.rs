//! The binary's door.

fn main() {}
