//! Targets of redirects and uploads: resolves `Location` and compares servers.
//!
//! Source: RFC 3986, section 5.2; RFC 9110, section 10.2.2.

use ureq::http::Uri;

/// Resolves `location` against `base`; `None` if the result is not a usable HTTP URL.
pub fn resolve(base: &Uri, location: &str) -> Option<Uri> {
    let location = escaped(location.split('#').next()?.trim());
    let (scheme, authority) = (base.scheme_str()?, base.authority()?);
    let text = match (split_scheme(&location), &location[..]) {
        (_, "") => return None,
        (Some((scheme, rest)), _) => format!("{}:{rest}", scheme.to_ascii_lowercase()),
        (None, other) if other.starts_with("//") => format!("{scheme}:{other}"),
        (None, query) if query.starts_with('?') => {
            format!("{scheme}://{authority}{}{query}", base.path())
        }
        (None, relative) => {
            let (path, query) = relative.split_at(relative.find('?').unwrap_or(relative.len()));
            let path = without_dots(base.path(), path);
            format!("{scheme}://{authority}{path}{query}")
        }
    };
    text.parse().ok().filter(is_usable)
}

/// Splits an absolute URL into its scheme and the rest after the colon.
fn split_scheme(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once(':')?;
    let first = scheme.starts_with(|c: char| c.is_ascii_alphabetic());
    let is_scheme = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    (first && scheme.chars().all(is_scheme)).then_some((scheme, rest))
}

/// Resolves a relative path against `base` and removes the segments `.` and `..` (RFC 3986, section 5.2.4).
fn without_dots(base: &str, path: &str) -> String {
    let directory = if path.starts_with('/') {
        ""
    } else {
        base.rsplit_once('/').map_or("", |(directory, _)| directory)
    };
    let whole = format!("{directory}/{}", path.strip_prefix('/').unwrap_or(path));
    let mut segments: Vec<&str> = Vec::new();
    for segment in whole.split('/').skip(1) {
        match segment {
            "." => {}
            ".." => drop(segments.pop()),
            other => segments.push(other),
        }
    }
    if whole.ends_with("/.") || whole.ends_with("/..") {
        segments.push("");
    }
    format!("/{}", segments.join("/"))
}

/// Escapes characters that are not allowed in URLs, as browsers do. Control characters remain and are
/// refused later.
fn escaped(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b' ' | b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | 0x80.. => {
            format!("%{byte:02X}")
        }
        other => char::from(other).to_string(),
    };
    text.bytes().map(escape).collect()
}

/// Formats a location for errors, without its query, which may be a signature, and without user and password.
pub fn shown(location: &str) -> String {
    const LONGEST: usize = 200;
    let plain = location.split(['?', '#']).next().unwrap_or_default();
    let shown = match plain.split_once("//") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let host = authority.rsplit('@').next().unwrap_or_default();
            format!("{scheme}//{host}{path}")
        }
        None => plain.to_string(),
    };
    shown.chars().take(LONGEST).collect()
}

/// Returns true for an HTTP URL without credentials.
fn is_usable(uri: &Uri) -> bool {
    let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    is_http && uri.host().is_some_and(|host| !host.is_empty()) && !authority.contains('@')
}

/// Returns true if both URLs have the same server, which may then receive the same secrets.
pub fn same_origin(a: &Uri, b: &Uri) -> bool {
    let host = |uri: &Uri| uri.host().map(str::to_ascii_lowercase);
    a.scheme_str() == b.scheme_str() && host(a) == host(b) && port(a) == port(b)
}

fn port(uri: &Uri) -> Option<u16> {
    let usual = match uri.scheme_str() {
        Some("http") => Some(80),
        Some("https") => Some(443),
        _ => None,
    };
    uri.port_u16().or(usual)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn uri(text: &str) -> Uri {
        text.parse().unwrap()
    }

    #[test]
    fn locations_are_resolved_against_their_base() {
        let base = uri("https://r.example:5000/v2/app/blobs/x?y=1");
        for (location, target) in [
            ("https://cdn.example/a?b=c", "https://cdn.example/a?b=c"),
            ("http://cdn.example/a#part", "http://cdn.example/a"),
            ("//cdn.example/a", "https://cdn.example/a"),
            ("/v2/a?state=x", "https://r.example:5000/v2/a?state=x"),
            ("?z=2", "https://r.example:5000/v2/app/blobs/x?z=2"),
            ("other", "https://r.example:5000/v2/app/blobs/other"),
            ("/a?to=http://x", "https://r.example:5000/a?to=http://x"),
            (
                "a?to=http://x",
                "https://r.example:5000/v2/app/blobs/a?to=http://x",
            ),
            ("../../b/./c?d=..", "https://r.example:5000/v2/b/c?d=.."),
            ("/../../b/..", "https://r.example:5000/"),
            ("./", "https://r.example:5000/v2/app/blobs/"),
            ("HTTPS://cdn.example/a", "https://cdn.example/a"),
            ("/a b?c=\u{e9}|", "https://r.example:5000/a%20b?c=%C3%A9%7C"),
            (" /a ", "https://r.example:5000/a"),
        ] {
            assert_eq!(resolve(&base, location), Some(uri(target)), "{location:?}");
        }
        for wrong in [
            "",
            "#x",
            "file:///etc/passwd",
            "ftp://x/y",
            "https://",
            "https://u:p@x/",
            "localhost:5000/a",
            "/a\nb",
        ] {
            assert_eq!(resolve(&base, wrong), None, "{wrong:?} was taken");
        }
    }

    #[test]
    fn a_shown_location_contains_no_secret() {
        for (location, expected) in [
            (
                "https://u:secret@x.example/a?sig=secret#b",
                "https://x.example/a",
            ),
            ("//u:secret@x.example", "//x.example"),
            ("/a?_state=secret", "/a"),
            ("", ""),
        ] {
            assert_eq!(shown(location), expected);
        }
    }

    proptest! {
        #[test]
        fn arbitrary_locations_never_panic(text in "\\PC{0,40}", close in "[a-z./:?#@%\\[\\] ]{0,30}") {
            let base = uri("https://r.example/v2/app/blobs/uploads/");
            for location in [text, close] {
                let _ = (resolve(&base, &location), shown(&location));
            }
        }
    }

    #[test]
    fn another_port_scheme_or_host_is_another_server() {
        let one = uri("https://r.example/a");
        assert!(same_origin(&one, &uri("https://R.example:443/b?c")));
        for other in [
            "http://r.example/a",
            "https://r.example:444/a",
            "https://x.r.example/a",
        ] {
            assert!(!same_origin(&one, &uri(other)), "{other:?}");
        }
    }
}
