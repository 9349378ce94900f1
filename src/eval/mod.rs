//! Judging tuned models: protocols as formulas on features and plain numbers. Knows neither files nor encoders.

pub mod bootstrap;
pub mod calibration;
pub mod dreambench;
pub mod subject;
