//! All integration tests, in one binary so that libtorch is linked once.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;
