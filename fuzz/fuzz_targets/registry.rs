//! What a registry sends in headers, and files of credentials, from arbitrary text: nothing but what
//! can be sent comes out.
//!
//! The first line is a header, the rest a file.
#![no_main]

use imrun::registry::{challenge, credentials, hosts_toml, location, range, registries_conf};
use libfuzzer_sys::fuzz_target;
use std::path::Path;

fuzz_target!(|data: &[u8]| {
    let end = data.iter().position(|byte| *byte == b'\n');
    let (line, file) = data.split_at(end.unwrap_or(data.len()));
    let Ok(text) = std::str::from_utf8(line) else {
        return;
    };
    for challenge in challenge::parse(text).unwrap_or_default() {
        assert!(!challenge.scheme.is_empty());
        assert_eq!(challenge.scheme, challenge.scheme.to_ascii_lowercase());
    }
    if let Some(range) = range::parse(text) {
        assert!(range.first <= range.last);
        assert!(range.total.is_none_or(|total| range.last < total));
    }
    let base = "https://r.example:5000/v2/app/blobs/x".parse().expect("it is a URL");
    if let Some(target) = location::resolve(&base, text) {
        assert!(matches!(target.scheme_str(), Some("http" | "https")));
        assert!(!target.authority().expect("it has a host").as_str().contains('@'));
    }
    let name = "r.example/app".parse().expect("it is a name");
    if let Ok(file) = std::str::from_utf8(file) {
        let to = hosts_toml::Use::Pull;
        for endpoint in hosts_toml::endpoints(Path::new("fuzz"), file, &name, to).unwrap_or_default() {
            assert!(!endpoint.registry.is_empty() && !endpoint.registry.contains(['@', '/']));
        }
        let mut rules = registries_conf::Rules::default();
        if rules.add(Path::new("fuzz"), file).is_ok()
            && let Ok(Some(endpoints)) = rules.endpoints(&name)
        {
            assert!(!endpoints.last().expect("the registry is the last one").is_mirror);
        }
    }
    // A file that names a helper has it run: none of those here may.
    if !String::from_utf8_lossy(file).to_lowercase().contains("cred") && !file.contains(&b'\\') {
        let _ = credentials::in_file(Path::new("fuzz"), file, "r.example", "app");
    }
});
