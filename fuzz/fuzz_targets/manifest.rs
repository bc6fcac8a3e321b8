//! Every document of an image from arbitrary bytes: no panic, and JSON that is taken survives its
//! canonical form.
#![no_main]

use imrun::json;
use imrun::manifest::{Choice, Config, Document, Platform, archive, layout};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

/// Whether all numbers are integers, the only ones that the canonical form is for.
fn is_whole(value: &Value) -> bool {
    match value {
        Value::Number(number) => !number.is_f64(),
        Value::Array(list) => list.iter().all(is_whole),
        Value::Object(object) => object.values().all(is_whole),
        _ => true,
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(value) = json::parse("fuzz", bytes) else {
        assert!(Document::parse("fuzz", bytes, None).is_err());
        return;
    };
    let canonical = json::canonical(&value);
    let again = json::parse("fuzz", canonical.as_bytes()).expect("the canonical form is JSON");
    assert!(again == value || !is_whole(&value));

    if let Ok(Document::Index(index)) = Document::parse("fuzz", bytes, None) {
        let _ = index.select(&Platform::new("linux", "arm64", Some("v9")));
        let _ = index.chosen(&Choice::Name("latest".into()));
        let entries = index.chosen(&Choice::Only).unwrap_or_default();
        let _ = index.ambiguous(&Choice::Only, &entries);
    }
    for layers in 0..3 {
        let _ = Config::parse("fuzz", bytes, layers);
    }
    let _ = layout::check("fuzz", bytes);
    if let Ok(entries) = archive::parse("fuzz", bytes) {
        let _ = archive::select("fuzz", &entries, &Choice::Only);
    }
});
