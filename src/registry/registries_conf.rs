//! `registries.conf`: mirrors, other locations and blocked registries, as in Podman, skopeo and CRI-O.
//!
//! Source: containers-registries.conf(5), version 2. imrun ignores short names: a name without a
//! registry belongs to Docker Hub.

use super::endpoint::{Endpoint, Scheme};
use crate::base::error::{Error, Result};
use crate::image::reference::Reference;
use serde::Deserialize;
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    registry: Vec<Table>,
    /// Table of version 1, which is not supported.
    registries: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Table {
    prefix: Option<String>,
    location: Option<String>,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror_by_digest_only: bool,
    #[serde(default)]
    mirror: Vec<MirrorTable>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct MirrorTable {
    location: String,
    #[serde(default)]
    insecure: bool,
    pull_from_mirror: Option<PullFromMirror>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum PullFromMirror {
    All,
    DigestOnly,
    TagOnly,
}

/// Rules of one or more files.
#[derive(Default)]
pub struct Rules(Vec<Rule>);

/// Rule for the names that begin with a prefix.
struct Rule {
    /// File that contains the rule.
    file: PathBuf,
    prefix: String,
    table: Table,
}

impl Rules {
    /// Adds the rules of a file. A rule replaces an earlier one with the same prefix.
    ///
    /// # Errors
    /// A file of version 1, or one that is not TOML: imrun cannot determine what it blocks.
    pub fn add(&mut self, file: &Path, text: &str) -> Result<()> {
        let wrong = |why: String| Error::usage(file.display(), why);
        let document: Document = toml::from_str(text).map_err(|error| {
            wrong(format!(
                "is not a valid registries.conf: {}",
                error.message()
            ))
        })?;
        if document.registries.is_some() {
            let error =
                wrong("has a table [registries], which is version 1 of registries.conf".into());
            return Err(
                error.hint("use [[registry]] tables of version 2: containers-registries.conf(5)")
            );
        }
        for table in document.registry {
            let prefix = table.prefix.as_ref().or(table.location.as_ref());
            let prefix = prefix.filter(|text| !text.is_empty()).cloned();
            let prefix = prefix.ok_or_else(|| {
                wrong("has a [[registry]] with neither prefix nor location".into())
            })?;
            self.0.retain(|rule| rule.prefix != prefix);
            self.0.push(Rule {
                file: file.to_path_buf(),
                prefix,
                table,
            });
        }
        Ok(())
    }

    /// Returns the servers of `name`, in the order to ask them; `None` if no rule applies.
    ///
    /// # Errors
    /// A blocked registry, or an invalid location.
    pub fn endpoints(&self, name: &Reference) -> Result<Option<Vec<Endpoint>>> {
        let whole = name.name();
        let fitting = self.0.iter().filter_map(|rule| {
            let matched = matched(&rule.prefix, &whole)?;
            Some((rule, matched))
        });
        let Some((rule, matched)) = fitting.max_by_key(|(rule, _)| rule.prefix.len()) else {
            return Ok(None);
        };
        rule.endpoints(name, &whole[matched..]).map(Some)
    }
}

impl Rule {
    /// Returns the servers; `rest` is the part of the name after the prefix.
    fn endpoints(&self, name: &Reference, rest: &str) -> Result<Vec<Endpoint>> {
        if self.table.blocked {
            let why = format_args!("its registry is blocked by {}", self.file.display());
            return Err(Error::policy(format_args!("image {name}"), why));
        }
        let mut endpoints = Vec::new();
        for mirror in &self.table.mirror {
            if self.serves(mirror, name) {
                let mut endpoint = self.at(name, &mirror.location, rest, mirror.insecure)?;
                endpoint.is_mirror = true;
                endpoint.title = format!("the mirror {}", endpoint.registry);
                endpoints.push(endpoint);
            }
        }
        endpoints.push(match &self.table.location {
            Some(location) if !location.is_empty() => {
                self.at(name, location, rest, self.table.insecure)?
            }
            _ => Endpoint {
                scheme: scheme(self.table.insecure),
                ..Endpoint::of(name)
            },
        });
        Ok(endpoints)
    }

    /// Returns true if a mirror serves this kind of name: with a digest, or with only a tag.
    fn serves(&self, mirror: &MirrorTable, name: &Reference) -> bool {
        let digest_only = self.table.mirror_by_digest_only;
        match mirror.pull_from_mirror {
            Some(PullFromMirror::TagOnly) => name.digest.is_none(),
            Some(PullFromMirror::DigestOnly) => name.digest.is_some(),
            Some(PullFromMirror::All) => true,
            None => name.digest.is_some() || !digest_only,
        }
    }

    /// Returns the endpoint of `location` and the part of the name after the prefix.
    fn at(&self, name: &Reference, location: &str, rest: &str, insecure: bool) -> Result<Endpoint> {
        let wrong = || {
            let why =
                format_args!("its location {location:?} is not HOST[:PORT][/PATH] for {name}");
            Error::usage(self.file.display(), why)
        };
        let moved: Reference = format!("{location}{rest}").parse().map_err(|_| wrong())?;
        // A first word that does not look like a host would be a repository of Docker Hub.
        let host = location.split('/').next().unwrap_or_default();
        if host != moved.registry && moved.registry != "docker.io" {
            return Err(wrong());
        }
        let mut endpoint = Endpoint::of(&moved);
        if moved.registry == "docker.io" && !host.ends_with("docker.io") {
            return Err(wrong());
        }
        endpoint.scheme = scheme(insecure);
        if moved.registry != name.registry {
            endpoint.title = format!("the registry {}", moved.registry);
        }
        Ok(endpoint)
    }
}

/// Returns the scheme. imrun always checks certificates; an insecure registry may lack TLS, and imrun
/// determines that.
fn scheme(insecure: bool) -> Scheme {
    if insecure {
        Scheme::Either
    } else {
        Scheme::Usual
    }
}

/// Returns the number of bytes of `name` that a prefix matches; `None` if it does not match.
/// `*.example.org` matches the whole host.
fn matched(prefix: &str, name: &str) -> Option<usize> {
    let end = match prefix.strip_prefix('*') {
        Some(domain) if domain.starts_with('.') => {
            let host = name.split('/').next()?;
            let host = host.split(':').next()?;
            host.ends_with(domain).then_some(host.len())?
        }
        Some(_) => return None,
        None => name.starts_with(prefix).then_some(prefix.len())?,
    };
    let ends = name[end..].is_empty() || name[end..].starts_with(['/', ':']);
    ends.then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn asked(text: &str, name: &str) -> Result<Option<Vec<String>>> {
        let mut rules = Rules::default();
        rules.add(Path::new("/x/registries.conf"), text)?;
        let endpoints = rules.endpoints(&name.parse().unwrap())?;
        let shown = |e: &Endpoint| format!("{:?} {}/{}", e.scheme, e.registry, e.repository);
        Ok(endpoints.map(|all| all.iter().map(shown).collect()))
    }

    fn is_asked(text: &str, name: &str, expected: &[&str]) {
        let found = asked(text, name).unwrap().unwrap_or_default();
        assert_eq!(found, expected, "{name}");
    }

    #[test]
    fn mirrors_are_asked_in_their_order_and_then_the_location() {
        let text = r#"
            unqualified-search-registries = ["docker.io"]
            [[registry]]
            prefix = "docker.io"
            location = "docker.io"
            [[registry.mirror]]
            location = "mirror.example/hub"
            [[registry.mirror]]
            location = "localhost:5000"
            insecure = true
            [[registry]]
            prefix = "docker.io/team"
            location = "own.example/moved"
        "#;
        is_asked(
            text,
            "redis:7",
            &[
                "Usual mirror.example/hub/library/redis",
                "Either localhost:5000/library/redis",
                "Usual docker.io/library/redis",
            ],
        );
        is_asked(text, "team/app", &["Usual own.example/moved/app"]);
        is_asked(
            text,
            "teams/app",
            &[
                "Usual mirror.example/hub/teams/app",
                "Either localhost:5000/teams/app",
                "Usual docker.io/teams/app",
            ],
        );
        is_asked(text, "r.example/app", &[]);
    }

    #[test]
    fn a_mirror_may_serve_only_digests_or_only_tags() {
        let text = r#"
            [[registry]]
            location = "r.example"
            [[registry.mirror]]
            location = "d.example"
            pull-from-mirror = "digest-only"
            [[registry.mirror]]
            location = "t.example"
            pull-from-mirror = "tag-only"
        "#;
        let pinned = format!("r.example/app@{DIGEST}");
        is_asked(
            text,
            "r.example/app:1",
            &["Usual t.example/app", "Usual r.example/app"],
        );
        is_asked(
            text,
            &pinned,
            &["Usual d.example/app", "Usual r.example/app"],
        );
        let all = r#"
            [[registry]]
            location = "r.example"
            mirror-by-digest-only = true
            [[registry.mirror]]
            location = "d.example"
        "#;
        is_asked(all, "r.example/app:1", &["Usual r.example/app"]);
        is_asked(
            all,
            &pinned,
            &["Usual d.example/app", "Usual r.example/app"],
        );
    }

    #[test]
    fn a_wildcard_matches_the_whole_host() {
        let text = r#"
            [[registry]]
            prefix = "*.example.org"
            [[registry.mirror]]
            location = "mirror.example/all"
        "#;
        is_asked(
            text,
            "a.b.example.org/team/app",
            &[
                "Usual mirror.example/all/team/app",
                "Usual a.b.example.org/team/app",
            ],
        );
        is_asked(text, "example.org/app", &[]);
        is_asked(text, "other/example.org/app", &[]);
    }

    #[test]
    fn blocked_registries_and_invalid_files_are_refused_and_the_file_is_named() {
        for (text, why) in [
            (
                "[[registry]]\nlocation = \"r.example\"\nblocked = true",
                "is blocked by /x/registries.conf",
            ),
            ("[registries.search]\nregistries = []", "version 1"),
            ("[[registry]]", "neither prefix nor location"),
            ("[[registry", "is not a valid registries.conf"),
            (
                "[[registry]]\nlocation = 1",
                "is not a valid registries.conf",
            ),
            (
                "[[registry]]\nprefix = \"r.example\"\nlocation = \"mirror\"",
                "is not HOST[:PORT]",
            ),
            (
                "[[registry]]\nprefix = \"r.example\"\nlocation = \"http://x\"",
                "is not HOST[:PORT]",
            ),
        ] {
            let error = asked(text, "r.example/app").unwrap_err();
            assert!(error.to_string().contains(why), "{text}: {error}");
            assert!(error.to_string().contains("/x/registries.conf"), "{error}");
        }
    }

    #[test]
    fn a_later_file_replaces_the_rule_of_a_prefix() {
        let mut rules = Rules::default();
        let rule =
            |location| format!("[[registry]]\nprefix = \"r.example\"\nlocation = \"{location}\"");
        rules.add(Path::new("a"), &rule("a.example")).unwrap();
        rules.add(Path::new("b"), &rule("b.example")).unwrap();
        let endpoints = rules
            .endpoints(&"r.example/app".parse().unwrap())
            .unwrap()
            .unwrap();
        assert_eq!(endpoints.len(), 1);
        assert_eq!(endpoints[0].registry, "b.example");
    }

    proptest! {
        #[test]
        fn arbitrary_files_never_panic(text in "\\PC{0,80}", prefix in "[a-z.*/:]{0,12}", location in "[a-z.*/:]{0,12}") {
            let _ = asked(&text, "r.example/app");
            let rule = format!("[[registry]]\nprefix = {prefix:?}\nlocation = {location:?}");
            let _ = asked(&rule, "a.b/c");
        }
    }
}
