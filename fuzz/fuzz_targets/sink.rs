//! URLs of sinks from arbitrary text: what is shown of one has no credentials, and is a URL again.
#![no_main]

use imrun::logs::SinkUrl;
use libfuzzer_sys::fuzz_target;

const SECRET: &str = "hunter2";

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let _ = text.parse::<SinkUrl>();
    if text.contains(SECRET) {
        return;
    }
    // Whatever the rest of the URL is, a password in it is not shown.
    for text in [
        format!("es+http://user:{SECRET}@{text}"),
        format!("es+https://{text}?api_key={SECRET}"),
    ] {
        let shown = match text.parse::<SinkUrl>() {
            Ok(url) => format!("{url} {url:?}"),
            Err(error) => format!("{error:?}"),
        };
        assert!(!shown.contains(SECRET), "{text:?} is shown as {shown:?}");
    }
});
