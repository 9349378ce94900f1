//! The `preftune` command.

fn main() {}
