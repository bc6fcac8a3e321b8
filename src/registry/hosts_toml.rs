//! `hosts.toml`: mirrors of a registry, as in containerd, nerdctl and BuildKit.
//!
//! Source: containerd, docs/hosts.md and core/remotes/docker/config/hosts.go.

use super::endpoint::{self, Endpoint, Scheme, Tls};
use crate::base::error::{Error, Result};
use crate::base::tls;
use crate::image::reference::Reference;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use toml::Spanned;
use ureq::http::Uri;
use ureq::http::header::{HeaderName, HeaderValue};

#[derive(Deserialize)]
struct Document {
    server: Option<String>,
    /// Tables by URL; their order in the file matters.
    #[serde(default)]
    host: BTreeMap<Spanned<String>, Table>,
}

/// Table of a host; the top level of the file is the server's.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Table {
    capabilities: Option<Vec<Capability>>,
    ca: Texts,
    client: Option<ClientTexts>,
    override_path: bool,
    header: BTreeMap<String, Texts>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Capability {
    Pull,
    Resolve,
    Push,
    #[serde(other)]
    Other,
}

/// A string or a list of strings.
#[derive(Deserialize)]
#[serde(untagged)]
enum Texts {
    One(String),
    Many(Vec<String>),
}

impl Default for Texts {
    fn default() -> Self {
        Texts::Many(Vec::new())
    }
}

impl Texts {
    fn as_slice(&self) -> &[String] {
        match self {
            Texts::One(text) => std::slice::from_ref(text),
            Texts::Many(texts) => texts,
        }
    }
}

/// A file with certificate and key, a list of such files, or a list of pairs.
#[derive(Deserialize)]
#[serde(untagged)]
enum ClientTexts {
    One(String),
    Many(Vec<Texts>),
}

/// Use of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Reading images.
    Pull,
    /// Writing images.
    Push,
}

/// Returns the servers in `file` for `name`, in the order to ask them.
///
/// # Errors
/// An invalid file, an invalid URL, or no server for this use.
pub fn endpoints(file: &Path, text: &str, name: &Reference, to: Use) -> Result<Vec<Endpoint>> {
    let wrong = |why: String| Error::usage(file.display(), why);
    let unreadable =
        |error: toml::de::Error| wrong(format!("is not a valid hosts.toml: {}", error.message()));
    let document: Document = toml::from_str(text).map_err(unreadable)?;
    let top: Table = toml::from_str(text).map_err(unreadable)?;
    let mut hosts: Vec<_> = document.host.iter().collect();
    hosts.sort_by_key(|(url, _)| url.span().start);
    let mut all = Vec::new();
    for (url, table) in hosts {
        if table.serves(to) {
            all.push(table.endpoint(file, url.get_ref(), name)?);
        }
    }
    if top.serves(to) {
        let server = document
            .server
            .as_deref()
            .filter(|server| !server.is_empty());
        all.push(top.endpoint(file, server.unwrap_or(&name.registry), name)?);
    }
    if all.is_empty() {
        Err(wrong(format!("has no server for this use of {name}")))
    } else {
        Ok(all)
    }
}

impl Table {
    fn has(&self, capability: Capability) -> bool {
        self.capabilities
            .as_ref()
            .is_none_or(|all| all.contains(&capability))
    }

    fn serves(&self, to: Use) -> bool {
        match to {
            Use::Pull => self.has(Capability::Pull),
            Use::Push => self.has(Capability::Push),
        }
    }

    fn endpoint(&self, file: &Path, url: &str, name: &Reference) -> Result<Endpoint> {
        let wrong = |what: &str| {
            Error::usage(
                file.display(),
                format_args!("{what} {url:?} is not the URL of a server"),
            )
        };
        let (scheme, rest) = match url.split_once("://") {
            Some(("https", rest)) => (Scheme::Https, rest),
            Some(("http", rest)) => (Scheme::Http, rest),
            Some(_) => return Err(wrong("host")),
            None => (Scheme::Usual, url),
        };
        let parsed: Uri = format!("http://{rest}")
            .parse()
            .map_err(|_| wrong("host"))?;
        let authority = parsed
            .authority()
            .map_or("", |authority| authority.as_str());
        if authority.is_empty() || authority.contains('@') || parsed.query().is_some() {
            return Err(wrong("host"));
        }
        let is_own = endpoint::authority(authority) == endpoint::authority(&name.registry);
        let registry = if is_own {
            name.registry.clone()
        } else {
            authority.to_string()
        };
        Ok(Endpoint {
            scheme,
            path: self.path(parsed.path()),
            namespace: (!is_own).then(|| name.registry.clone()),
            tls: self.tls(file)?,
            headers: self.headers(file)?,
            is_mirror: !is_own,
            knows_tags: self.has(Capability::Resolve),
            title: if is_own {
                "the registry".to_string()
            } else {
                format!("the mirror {registry}")
            },
            registry,
            ..Endpoint::of(name)
        })
    }

    /// Returns the API's path: appends `/v2`, unless `override_path` is set.
    fn path(&self, path: &str) -> String {
        let path = path.trim_end_matches('/');
        if self.override_path || path.ends_with("/v2") {
            path.to_string()
        } else {
            format!("{path}/v2")
        }
    }

    /// Returns the certificates; relative paths are relative to the file's directory.
    fn tls(&self, file: &Path) -> Result<Tls> {
        let directory = file.parent().unwrap_or(Path::new("/"));
        let beside = |name: &String| -> PathBuf { directory.join(name) };
        let first: Option<&[String]> = match &self.client {
            Some(ClientTexts::One(name)) => Some(std::slice::from_ref(name)),
            Some(ClientTexts::Many(all)) => all.first().map(Texts::as_slice),
            None => None,
        };
        let client = match first {
            None => None,
            Some([both]) => Some((both, both)),
            Some([cert, key]) => Some((cert, key)),
            Some(_) => {
                let why = "`client` must be a file, or a pair of a certificate and a key";
                return Err(Error::usage(file.display(), why));
            }
        };
        Ok(Tls {
            roots: self.ca.as_slice().iter().map(beside).collect(),
            client: client.map(|(cert, key)| tls::Client {
                cert: beside(cert),
                key: beside(key),
            }),
        })
    }

    fn headers(&self, file: &Path) -> Result<Vec<(String, String)>> {
        let mut headers = Vec::new();
        for (name, values) in &self.header {
            for value in values.as_slice() {
                // The error omits the value, which may be a secret.
                let fits = HeaderName::from_bytes(name.as_bytes()).is_ok()
                    && HeaderValue::from_str(value).is_ok();
                if !fits {
                    let why = format_args!("header {name:?} is not a valid HTTP header");
                    return Err(Error::usage(file.display(), why));
                }
                headers.push((name.clone(), value.clone()));
            }
        }
        Ok(headers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(text: &str, name: &str, to: Use) -> Result<Vec<Endpoint>> {
        let name = name.parse().unwrap();
        endpoints(Path::new("/certs/r.example/hosts.toml"), text, &name, to)
    }

    fn shown(endpoint: &Endpoint) -> String {
        let Endpoint {
            scheme,
            registry,
            path,
            repository,
            ..
        } = endpoint;
        format!("{scheme:?} {registry}{path}/{repository}")
    }

    #[test]
    fn hosts_are_asked_in_the_order_of_the_file_and_then_the_server() {
        let text = r#"
            server = "https://registry-1.docker.io"
            [host."https://z.example"]
            capabilities = ["pull", "resolve"]
            [host."http://localhost:5000/proxy/"]
            capabilities = ["pull"]
            [host."https://a.example/api/own"]
            override_path = true
        "#;
        let all = of(text, "redis", Use::Pull).unwrap();
        assert_eq!(
            all.iter().map(shown).collect::<Vec<_>>(),
            [
                "Https z.example/v2/library/redis",
                "Http localhost:5000/proxy/v2/library/redis",
                "Https a.example/api/own/library/redis",
                "Https docker.io/v2/library/redis",
            ]
        );
        assert_eq!(all[0].namespace.as_deref(), Some("docker.io"));
        assert_eq!(all[3].namespace, None);
        let knows_tags: Vec<bool> = all.iter().map(|endpoint| endpoint.knows_tags).collect();
        assert_eq!(knows_tags, [true, false, true, true]);
        let push = of(text, "redis", Use::Push).unwrap();
        assert_eq!(shown(&push[0]), "Https a.example/api/own/library/redis");
    }

    #[test]
    fn certificates_are_relative_to_the_file_and_headers_are_kept() {
        let text = r#"
            [host."https://m.example"]
            ca = ["own.crt", "/abs.crt"]
            client = [["c.cert", "c.key"]]
            skip_verify = true
            [host."https://m.example".header]
            x-one = "1"
            x-two = ["2", "3"]
            [host."https://n.example"]
            ca = "n.crt"
            client = "both.pem"
        "#;
        let all = of(text, "r.example/app", Use::Pull).unwrap();
        let directory = "/certs/r.example";
        assert_eq!(
            all[0].tls.roots,
            [format!("{directory}/own.crt"), "/abs.crt".to_string()].map(PathBuf::from)
        );
        let client = all[0].tls.client.as_ref().unwrap();
        assert_eq!(client.key, PathBuf::from(format!("{directory}/c.key")));
        let pairs = [("x-one", "1"), ("x-two", "2"), ("x-two", "3")];
        assert_eq!(
            all[0].headers,
            pairs.map(|(name, value)| (name.into(), value.into()))
        );
        let both = all[1].tls.client.as_ref().unwrap();
        assert_eq!(both.cert, both.key);
        assert_eq!(shown(&all[2]), "Usual r.example/v2/app");
    }

    #[test]
    fn an_invalid_hosts_toml_is_refused_and_named_without_its_secrets() {
        for wrong in [
            "[host",
            "server = 1",
            "[host.\"ftp://x\"]",
            "[host.\"https://u:secret@x\"]",
            "[host.\"https://\"]",
            "[host.\"https://x\".header]\n\"a b\" = \"secret\"",
            "[host.\"https://x\".header]\na = \"secret\\n\"",
            "[host.\"https://x\"]\nclient = [[\"a\", \"b\", \"c\"]]",
            "capabilities = [\"push\"]",
        ] {
            let error = of(wrong, "r.example/app", Use::Pull)
                .unwrap_err()
                .to_string();
            assert!(
                error.starts_with("/certs/r.example/hosts.toml: "),
                "{wrong:?}: {error}"
            );
            let shows = error.contains("secret") && !wrong.contains('@');
            assert!(!shows, "{error}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_files_never_panic(text in "\\PC{0,80}", url in "[a-z0-9.:/@?\\[\\]]{0,20}") {
            let _ = of(&text, "r.example/app", Use::Pull);
            let _ = of(&format!("server = {url:?}\n[host.{url:?}]"), "r.example/app", Use::Pull);
        }
    }
}
