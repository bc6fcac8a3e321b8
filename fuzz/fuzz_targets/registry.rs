//! What a registry sends in headers, and files of credentials, from arbitrary text: nothing but what
//! can be sent comes out.
#![no_main]

use imrun::registry::{challenge, credentials, location, range};
use libfuzzer_sys::fuzz_target;
use std::path::Path;

fuzz_target!(|input: (&str, &[u8])| {
    let (text, file) = input;
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
    // A file that names a helper has it run: none of those here may.
    if !String::from_utf8_lossy(file).to_lowercase().contains("cred") && !file.contains(&b'\\') {
        let _ = credentials::in_file(Path::new("fuzz"), file, "r.example", "app");
    }
});
