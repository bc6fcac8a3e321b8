//! Proxies in the environment: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, each also in
//! lower case.

use crate::base::error::{Error, Result};
use ureq::Proxy;
use ureq::http::Uri;

/// Returns the proxy for requests to `target`; `None` for this machine itself.
///
/// # Errors
/// A variable is not the URL of a proxy: a request without the proxy could reach a server that it must not.
pub fn of(target: &Uri, variable: impl Fn(&str) -> Option<String>) -> Result<Option<Proxy>> {
    let host = target.host().unwrap_or_default();
    if super::endpoint::is_loopback(host) {
        return Ok(None);
    }
    let either = |name: &str| {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        set(name)
            .or_else(|| set(&name.to_lowercase()))
            .map(|value| (name.to_string(), value))
    };
    let own = match target.scheme_str() {
        Some("https") => either("HTTPS_PROXY"),
        _ => either("HTTP_PROXY"),
    };
    let Some((name, url)) = own.or_else(|| either("ALL_PROXY")) else {
        return Ok(None);
    };
    let exceptions = either("NO_PROXY").map_or(String::new(), |(_, list)| list);
    if exceptions
        .split(',')
        .any(|exception| excepts(exception.trim(), host))
    {
        return Ok(None);
    }
    // The value may contain a password.
    let proxy = Proxy::new(&url).map_err(|_| Error::usage(&name, "is not the URL of a proxy"))?;
    match proxy.protocol() {
        ureq::ProxyProtocol::Http | ureq::ProxyProtocol::Https => Ok(Some(proxy)),
        _ => Err(Error::unsupported(name, "is not an HTTP proxy")),
    }
}

/// Returns true if an exception matches: `*`, a host, or a domain with or without a leading dot and its
/// subdomains.
fn excepts(exception: &str, host: &str) -> bool {
    let (exception, host) = (exception.to_ascii_lowercase(), host.to_ascii_lowercase());
    let domain = exception.trim_start_matches('*').trim_start_matches('.');
    match domain {
        "" => exception == "*",
        domain => {
            host == domain
                || host
                    .strip_suffix(domain)
                    .is_some_and(|rest| rest.ends_with('.'))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(target: &str, environment: &[(&str, &str)]) -> Result<Option<String>> {
        let variable = |name: &str| {
            let mut all = environment.iter();
            all.find(|(own, _)| *own == name)
                .map(|(_, value)| value.to_string())
        };
        let proxy = of(&target.parse().unwrap(), variable)?;
        Ok(proxy.map(|proxy| format!("{}:{}", proxy.host(), proxy.port())))
    }

    #[test]
    fn each_scheme_has_its_variable_and_this_machine_needs_no_proxy() {
        let environment = [
            ("HTTPS_PROXY", "http://tls.example:1"),
            ("http_proxy", "plain.example:2"),
            ("ALL_PROXY", "http://all.example:3"),
        ];
        let to = |target, environment: &[_]| chosen(target, environment).unwrap();
        assert_eq!(
            to("https://r.example/", &environment).as_deref(),
            Some("tls.example:1")
        );
        assert_eq!(
            to("http://r.example/", &environment).as_deref(),
            Some("plain.example:2")
        );
        assert_eq!(
            to("https://r.example/", &environment[2..]).as_deref(),
            Some("all.example:3")
        );
        assert_eq!(to("https://r.example/", &[]), None);
        assert_eq!(to("http://127.0.0.1:5000/", &environment), None);
        assert_eq!(to("http://localhost:5000/", &environment), None);
    }

    #[test]
    fn exceptions_are_hosts_and_domains() {
        for (list, host, excepted) in [
            ("*", "r.example", true),
            ("r.example", "r.example", true),
            ("example", "r.example", true),
            (".example, other", "R.Example", true),
            ("*.example", "r.example", true),
            ("xample", "r.example", false),
            ("", "r.example", false),
            (",", "r.example", false),
        ] {
            let environment = [("ALL_PROXY", "p.example"), ("NO_PROXY", list)];
            let proxy = chosen(&format!("https://{host}/"), &environment).unwrap();
            assert_eq!(proxy.is_none(), excepted, "{list:?} for {host}");
        }
    }

    #[test]
    fn an_invalid_proxy_is_refused_without_showing_its_text() {
        for wrong in [
            "socks5://user:secret@x",
            "ftp://user:secret@x",
            "user:secret@",
        ] {
            let error = chosen("https://r.example/", &[("https_proxy", wrong)]).unwrap_err();
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
