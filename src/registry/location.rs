//! Where an answer sends its client: `Location`, and whether that is the same server.
//!
//! Source: RFC 3986, section 5.2; RFC 9110, section 10.2.2.

use ureq::http::Uri;

/// The absolute form of `location`, which came from `base`; none where it is nothing that a
/// request can be sent to.
pub fn resolve(base: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next()?;
    let (scheme, authority) = (base.scheme_str()?, base.authority()?);
    let path = base.path();
    let directory = &path[..=path.rfind('/')?];
    let text = match location {
        "" => return None,
        absolute if absolute.contains("://") && !absolute.starts_with('/') => absolute.to_string(),
        authority if authority.starts_with("//") => format!("{scheme}:{authority}"),
        path if path.starts_with('/') => format!("{scheme}://{authority}{path}"),
        query if query.starts_with('?') => format!("{scheme}://{authority}{path}{query}"),
        relative => format!("{scheme}://{authority}{directory}{relative}"),
    };
    text.parse().ok().filter(is_usable)
}

/// Whether it is HTTP, and has no credentials in it.
fn is_usable(uri: &Uri) -> bool {
    let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    is_http && uri.host().is_some_and(|host| !host.is_empty()) && !authority.contains('@')
}

/// Whether both are of one server: what is a secret between us and the one, the other may know.
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

    fn uri(text: &str) -> Uri {
        text.parse().unwrap()
    }

    #[test]
    fn locations_are_resolved_against_where_they_came_from() {
        let base = uri("https://r.example:5000/v2/app/blobs/x?y=1");
        for (location, target) in [
            ("https://cdn.example/a?b=c", "https://cdn.example/a?b=c"),
            ("http://cdn.example/a#part", "http://cdn.example/a"),
            ("//cdn.example/a", "https://cdn.example/a"),
            ("/v2/a?state=x", "https://r.example:5000/v2/a?state=x"),
            ("?z=2", "https://r.example:5000/v2/app/blobs/x?z=2"),
            ("other", "https://r.example:5000/v2/app/blobs/other"),
            ("/a?to=http://x", "https://r.example:5000/a?to=http://x"),
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
            "/a b",
        ] {
            assert_eq!(resolve(&base, wrong), None, "{wrong:?} was taken");
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
