//! The explanation of an error in a server's answer.
//!
//! Source: OCI distribution specification, "Error Codes"; RFC 6749, section 5.2, for token servers.

use std::io::Read;
use ureq::Body;
use ureq::http::Response;

/// Maximum bytes read of an error's body.
const MAX_BODY: u64 = 8 << 10;
/// Maximum number of characters shown.
const MAX_SHOWN: usize = 300;

/// Returns the explanation in an error's body on one line; `None` for a web page or an empty body.
pub fn of(response: Response<Body>) -> Option<String> {
    let is_page = super::client::is_page(&response);
    let mut bytes = Vec::new();
    let body = response.into_body().into_reader();
    // If the connection breaks, the part received so far may suffice.
    let _cut_off = body.take(MAX_BODY).read_to_end(&mut bytes);
    if is_page {
        return None;
    }
    words(&bytes)
}

/// Returns the explanation in `body`: from its JSON, or its first line.
pub fn words(body: &[u8]) -> Option<String> {
    let text = match serde_json::from_slice::<serde_json::Value>(body) {
        Ok(value) => of_json(&value),
        Err(_) => of_text(&String::from_utf8_lossy(body)),
    };
    let text: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let shown = text.chars().filter(|c| !c.is_control()).take(MAX_SHOWN);
    Some(shown.collect::<String>()).filter(|text| !text.is_empty())
}

/// Reads `{"errors":[{"code", "message", "detail"}]}`, or the fields that other servers use.
fn of_json(value: &serde_json::Value) -> String {
    let of = |value: &serde_json::Value, names: &[&str]| {
        let texts = names.iter().filter_map(|name| value[*name].as_str());
        texts
            .filter(|text| !text.is_empty())
            .collect::<Vec<_>>()
            .join(" ")
    };
    if let Some(errors) = value["errors"].as_array() {
        let each = errors.iter().map(|error| match error.as_str() {
            Some(text) => text.to_string(),
            None => of(error, &["code", "message", "detail"]),
        });
        return each.collect::<Vec<_>>().join("; ");
    }
    match value.as_str() {
        Some(text) => text.to_string(),
        None => of(
            value,
            &["error", "error_description", "message", "details", "detail"],
        ),
    }
}

/// Returns the first line that is not empty, unless it is markup.
fn of_text(text: &str) -> String {
    let line = text.lines().map(str::trim).find(|line| !line.is_empty());
    line.filter(|line| !line.starts_with('<'))
        .unwrap_or_default()
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_explanation_is_the_readable_text_of_the_body() {
        for (body, expected) in [
            (
                r#"{"errors":[{"code":"DENIED","message":"no pull for you","detail":{"a":1}}]}"#,
                Some("DENIED no pull for you"),
            ),
            (
                r#"{"errors":[{"code":"A"},{"code":"B","message":"x","detail":"why"}]}"#,
                Some("A; B x why"),
            ),
            (r#"{"errors":["plain"]}"#, Some("plain")),
            (
                r#"{"error":"invalid_grant","error_description":"expired"}"#,
                Some("invalid_grant expired"),
            ),
            (
                r#"{"details":"incorrect username or password"}"#,
                Some("incorrect username or password"),
            ),
            (r#"{"message":"rate\r\nlimited"}"#, Some("rate limited")),
            (
                "\n denied: your address\u{7} is blocked \nmore",
                Some("denied: your address is blocked"),
            ),
            ("<html>no</html>", None),
            ("{}", None),
            ("", None),
        ] {
            assert_eq!(words(body.as_bytes()).as_deref(), expected, "{body:?}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bodies_give_one_short_line(body: Vec<u8>) {
            let text = words(&body).unwrap_or_default();
            prop_assert!(text.chars().count() <= MAX_SHOWN && !text.contains('\n'));
        }
    }
}
