//! System calls that nix has no safe wrapper for: the only place with `unsafe`.
#![allow(unsafe_code)]

pub mod socket;
