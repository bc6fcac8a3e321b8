//! Image names and platforms from arbitrary text: what is taken is its own normal form.
#![no_main]

use imrun::image::manifest::Platform;
use imrun::image::reference::{ImageArgument, Reference};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let _ = text.parse::<ImageArgument>();
    if let Ok(reference) = text.parse::<Reference>() {
        let normal = reference.to_string();
        assert_eq!(
            normal
                .parse::<Reference>()
                .expect("a normal form is a name"),
            reference
        );
    }
    if let Ok(platform) = text.parse::<Platform>() {
        let normal = platform.to_string();
        assert_eq!(
            normal
                .parse::<Platform>()
                .expect("a normal form is a platform"),
            platform
        );
    }
});
