//! Environment files, contracts and users from arbitrary bytes: what is taken suits execve(2).
//!
//! The first line is a contract, the second one a user, the rest a file.
#![no_main]

use imrun::runtime::env::{Contract, Environment, MAX_ENTRY};
use imrun::runtime::user::{NO_ID, User};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut parts = data.splitn(3, |byte| *byte == b'\n');
    let mut text = || String::from_utf8_lossy(parts.next().unwrap_or_default());
    let (label, user) = (text(), text());
    let bytes = parts.next().unwrap_or_default();
    let mut environment = Environment::new();
    let _ = environment.add_file("fuzz", bytes, |_| Some("of the caller".into()));
    let names: Vec<_> = environment.iter().map(|(name, _)| name).collect();
    for (place, name) in names.iter().enumerate() {
        assert!(!names[..place].contains(name), "a name stands twice");
    }
    assert!(
        environment
            .to_strings()
            .iter()
            .all(|entry| entry.as_bytes().len() <= MAX_ENTRY)
    );
    if let Ok(contract) = Contract::parse(&label) {
        let _ = contract.check(&environment);
    }
    if let Ok(user) = User::resolve(&user, Some(bytes), Some(bytes)) {
        assert!(user.uid != NO_ID && user.gid != NO_ID && user.groups.contains(&user.gid));
    }
});
