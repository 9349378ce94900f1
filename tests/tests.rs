//! All integration tests, in one binary so that libtorch is linked once.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test may panic and show its figures"
)]

mod support;
