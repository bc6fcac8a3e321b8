//! Credentials for a registry, from the files and helpers of `docker login` and `podman login`.
//!
//! Source: containers-auth.json(5); config.json of the Docker CLI. docker_credential reads fields and
//! helpers; this module chooses the file and the entry.

use crate::base::error::{Error, Result};
use crate::base::files;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use docker_credential::{CredentialRetrievalError as Failure, DockerCredential};
use serde_json::Value;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Docker Hub, and its key in Docker's files.
const HUB: (&str, &str) = ("docker.io", "https://index.docker.io/v1/");
/// Maximum bytes of a file of credentials.
const MAX_FILE: usize = 1 << 20;

/// Credentials for a registry or its token server.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// User name and password.
    Password(String, String),
    /// An OAuth 2 refresh token.
    IdentityToken(String),
}

/// Returns the credentials for a repository from the first file that has any.
///
/// # Errors
/// A file cannot be read, or a helper fails: then imrun cannot determine if there are credentials.
pub fn find(registry: &str, repository: &str) -> Result<Option<Credentials>> {
    let uid = nix::unistd::getuid().as_raw();
    for file in files(|name| std::env::var_os(name), uid) {
        let Some(bytes) = files::read_if_there(&file, MAX_FILE as u64)? else {
            continue;
        };
        if let Some(found) = in_file(&file, &bytes, registry, repository)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Returns the files to search; only `REGISTRY_AUTH_FILE` if it is set.
fn files(variable: impl Fn(&str) -> Option<OsString>, uid: u32) -> Vec<PathBuf> {
    let path = |name: &str| {
        variable(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    if let Some(file) = path("REGISTRY_AUTH_FILE") {
        return vec![file];
    }
    let home = path("HOME");
    let runtime = path("XDG_RUNTIME_DIR").map(|directory| directory.join("containers/auth.json"));
    let config = path("XDG_CONFIG_HOME").or_else(|| Some(home.as_ref()?.join(".config")));
    let places = [
        path("DOCKER_CONFIG").map(|directory| directory.join("config.json")),
        runtime.or_else(|| Some(format!("/run/containers/{uid}/auth.json").into())),
        config.map(|directory| directory.join("containers/auth.json")),
        home.map(|directory| directory.join(".docker/config.json")),
    ];
    places.into_iter().flatten().collect()
}

/// Returns a file's credentials for a repository, if any; asks the helper that the file names.
pub fn in_file(
    file: &Path,
    bytes: &[u8],
    registry: &str,
    repository: &str,
) -> Result<Option<Credentials>> {
    let wrong = |why: String| Error::usage(file.display(), why);
    let config: Value = match bytes.len() {
        0 => return Ok(None),
        1..=MAX_FILE => serde_json::from_slice(bytes)
            .map_err(|e| wrong(format!("is not JSON: line {}", e.line())))?,
        _ => return Err(wrong(format!("is longer than {MAX_FILE} bytes"))),
    };
    let key = key(&config, registry, repository);
    let text = normalised(config).to_string();
    match docker_credential::get_credential_from_reader(text.as_bytes(), &key) {
        Ok(DockerCredential::UsernamePassword(user, password)) => {
            Ok(Some(Credentials::Password(user, password)))
        }
        Ok(DockerCredential::IdentityToken(token)) => Ok(Some(Credentials::IdentityToken(token))),
        Err(Failure::NoCredentialConfigured) => Ok(None),
        // Message of docker-credential-helpers, errors.go.
        Err(Failure::HelperFailure { stdout, .. }) if stdout.contains("credentials not found") => {
            Ok(None)
        }
        Err(error) => Err(wrong(explain(&error, &key))),
    }
}

/// Describes an error of the library without its text, which may contain a helper's output.
fn explain(error: &Failure, key: &str) -> String {
    match error {
        Failure::HelperCommunicationError => {
            format!("its credential helper for {key} cannot be run")
        }
        Failure::MalformedHelperResponse => {
            format!("its credential helper for {key} does not answer in JSON")
        }
        Failure::HelperFailure { helper, .. } => format!("{helper} failed for {key}"),
        Failure::ConfigReadError => "is not a file of credentials".to_string(),
        _ => format!("its entry for {key} has no user name and password"),
    }
}

/// Returns the key of the most specific entry for a repository: Podman's entries may be for namespaces.
fn key(config: &Value, registry: &str, repository: &str) -> String {
    let full = format!("{registry}/{repository}");
    let mut candidate = &full[..];
    loop {
        let has = |map: &str| config[map].get(candidate).is_some();
        if has("auths") || has("credHelpers") {
            return candidate.to_string();
        }
        match candidate.rsplit_once('/') {
            Some((parent, _)) => candidate = parent,
            None if registry == HUB.0 => return HUB.1.to_string(),
            None => return registry.to_string(),
        }
    }
}

/// Returns the file in the form that the library reads. Removes empty fields, which Docker writes for
/// absent ones, and decodes `auth` as Docker does.
fn normalised(mut config: Value) -> Value {
    let entries = config.get_mut("auths").and_then(Value::as_object_mut);
    for entry in entries.into_iter().flat_map(|map| map.values_mut()) {
        let Some(fields) = entry.as_object_mut() else {
            continue;
        };
        fields.retain(|_, value| value.as_str() != Some(""));
        let auth = fields.get("auth").and_then(Value::as_str);
        if let Some((user, password)) = auth.and_then(decode_auth) {
            let auth = BASE64_STANDARD.encode(format!("{user}:{password}"));
            fields.insert("auth".into(), auth.into());
            fields.remove("username");
            fields.remove("password");
        }
    }
    config
}

/// Returns user and password of an `auth`: base64 with line ends anywhere. Old clients pad the password
/// with NULs. Source: decodeAuth in the Docker CLI, cli/config/configfile/file.go.
fn decode_auth(auth: &str) -> Option<(String, String)> {
    let text: String = auth.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    let decoded = String::from_utf8(BASE64_STANDARD.decode(text).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    Some((user.to_string(), password.trim_matches('\0').to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn found(config: &Value, registry: &str, repository: &str) -> Option<String> {
        let found = in_file(
            Path::new("auth.json"),
            config.to_string().as_bytes(),
            registry,
            repository,
        );
        found.unwrap().map(|credentials| match credentials {
            Credentials::Password(user, password) => format!("{user}:{password}"),
            Credentials::IdentityToken(token) => format!("token {token}"),
        })
    }

    /// The base64 form of "a:1"; [`TWO`] is that of "b:2".
    const ONE: &str = "YTox";
    const TWO: &str = "Yjoy";

    #[test]
    fn the_entry_of_the_most_specific_namespace_counts() {
        let config = json!({ "auths": {
            "r.example": { "auth": ONE },
            "r.example/team": { "auth": TWO },
            "https://index.docker.io/v1/": { "auth": TWO },
            "https://other.example/v2/": { "auth": ONE },
        } });
        for (registry, repository, expected) in [
            ("r.example", "app", Some("a:1")),
            ("r.example", "teams/app", Some("a:1")),
            ("r.example", "team/app/x", Some("b:2")),
            ("docker.io", "library/redis", Some("b:2")),
            ("other.example", "app", Some("a:1")),
            ("r.example:5000", "app", None),
            ("example", "app", None),
        ] {
            assert_eq!(
                found(&config, registry, repository).as_deref(),
                expected,
                "{registry}/{repository}"
            );
        }
    }

    #[test]
    fn empty_fields_are_ignored_and_an_identity_token_is_read() {
        let config = json!({ "auths": {
            "a.example": { "auth": ONE, "identitytoken": "" },
            "b.example": { "auth": "", "identitytoken": "secret" },
            "c.example": {},
            "d.example": { "username": "u", "password": "p:q" },
        } });
        assert_eq!(found(&config, "a.example", "app").as_deref(), Some("a:1"));
        assert_eq!(
            found(&config, "b.example", "app").as_deref(),
            Some("token secret")
        );
        assert_eq!(found(&config, "c.example", "app"), None);
        assert_eq!(found(&config, "d.example", "app").as_deref(), Some("u:p:q"));
        assert_eq!(found(&json!({}), "a.example", "app"), None);
    }

    #[test]
    fn line_ends_and_padding_in_an_auth_are_ignored_as_in_docker() {
        for auth in ["YTox\n", "YT\r\nox", "YToxAA==", "YToxAAAA"] {
            let config = json!({ "auths": { "r.example": { "auth": auth } } });
            assert_eq!(
                found(&config, "r.example", "app").as_deref(),
                Some("a:1"),
                "{auth:?}"
            );
        }
        let both =
            json!({ "auths": { "r.example": { "auth": ONE, "username": "b", "password": "2" } } });
        assert_eq!(found(&both, "r.example", "app").as_deref(), Some("a:1"));
    }

    #[test]
    fn an_invalid_file_of_credentials_is_refused_without_showing_its_text() {
        for wrong in [
            "{",
            "secret",
            r#"{"auths":"secret"}"#,
            r#"{"auths":{"r.example":{"auth":"secret!"}}}"#,
            r#"{"credHelpers":{"r.example":"no-such-helper-secret"}}"#,
        ] {
            let error = in_file(
                Path::new("/x/auth.json"),
                wrong.as_bytes(),
                "r.example",
                "app",
            )
            .err()
            .unwrap();
            assert!(error.to_string().starts_with("/x/auth.json: "), "{error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn the_files_of_podman_and_docker_are_searched() {
        let in_home = |name: &str| match name {
            "HOME" => Some("/root".into()),
            _ => None,
        };
        let expected = [
            "/run/containers/0/auth.json",
            "/root/.config/containers/auth.json",
            "/root/.docker/config.json",
        ];
        assert_eq!(files(in_home, 0), expected.map(PathBuf::from));
        let set = |name: &str| Some(OsString::from(format!("/{name}")));
        assert_eq!(files(set, 0), [PathBuf::from("/REGISTRY_AUTH_FILE")]);
        let all_but_one = |name: &str| set(name).filter(|_| name != "REGISTRY_AUTH_FILE");
        let expected = [
            "/DOCKER_CONFIG/config.json",
            "/XDG_RUNTIME_DIR/containers/auth.json",
            "/XDG_CONFIG_HOME/containers/auth.json",
            "/HOME/.docker/config.json",
        ];
        assert_eq!(files(all_but_one, 0), expected.map(PathBuf::from));
    }

    proptest! {
        #[test]
        fn arbitrary_files_never_panic(text in "\\PC{0,60}", auth in "[A-Za-z0-9+/=:]{0,20}") {
            let _ = in_file(Path::new("x"), text.as_bytes(), "r.example", "app");
            let config = json!({ "auths": { "r.example": { "auth": auth } } }).to_string();
            let _ = in_file(Path::new("x"), config.as_bytes(), "r.example", "app");
        }
    }
}
