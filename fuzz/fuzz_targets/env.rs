//! Environment files, contracts and users from arbitrary bytes: what is taken suits execve(2).
#![no_main]

use imrun::env::{Contract, Environment, MAX_ENTRY};
use imrun::user::{IDS, User};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&[u8], &str, &str)| {
    let (bytes, label, user) = input;
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
    if let Ok(contract) = Contract::parse(label) {
        let _ = contract.check(&environment);
    }
    if let Ok(user) = User::resolve(user, Some(bytes), Some(bytes)) {
        assert!(user.uid < IDS && user.gid < IDS && user.groups.contains(&user.gid));
    }
});
