//! Launches by `imrun run` of an image from `imrun bake`.
//!
//! They need root, cgroup2 and EROFS. Without them each test is skipped with a message.
#![allow(clippy::unwrap_used)]

mod configuration;
mod exit_codes;
mod given;
mod isolation;
mod logs;
mod record;
mod refused;
mod side_effects;
mod status;
mod supervision;
mod unacknowledged;
mod user;

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../support"]
mod support {
    pub mod bulk;
    pub mod host;
    pub mod launch;
    pub mod layout;
    pub mod outcome;
    pub mod server;
    pub mod skip;
}
