//! Pairs by hand: people compare images or answers on a page in the browser, without knowing whose they are.
//!
//! `sources` finds what is compared, `items` groups it, `session` keeps what is said and knows what comes next (`order`),
//! `figures` says how far it can be believed, `outcome` writes pairs to train on, `server` shows the page. Nothing but `http`
//! and `server` knows of a network.

pub mod figures;
mod http;
pub mod items;
pub mod order;
pub mod outcome;
pub mod records;
pub mod said;
pub mod server;
pub mod session;
pub mod sources;
