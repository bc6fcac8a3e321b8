//! Authentication: turns a challenge into a header.
//!
//! Source: RFC 7617; the distribution project's "Token Authentication Specification" and "OAuth2
//! Token Authentication".

use super::challenge::{self, Challenge};
use super::client::{Client, Content, Exchange, Failure, refusal};
use super::credentials::{self, Credentials};
use super::endpoint::Endpoint;
use super::location;
use crate::base::error::{Error, Result};
use crate::base::json;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use std::sync::{Arc, PoisonError};
use ureq::Body;
use ureq::http::{Method, Response, Uri, header};

/// Maximum bytes of a token server's answer.
const MAX_ANSWER: usize = 1 << 20;

/// Schemes that a request has tried; each is tried once.
#[derive(Debug, Default)]
pub struct Tried {
    bearer: bool,
    basic: bool,
}

impl Client {
    /// Answers the challenge to a request that was sent with `used`; later requests use the result.
    /// Returns true if the request must be repeated; no scheme is tried twice.
    pub(super) fn authenticate(
        &self,
        what: &str,
        response: &Response<Body>,
        used: Option<Arc<str>>,
        tried: &mut Tried,
    ) -> std::result::Result<bool, Failure> {
        let mut held = self
            .authorization
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // Another thread has already answered the same challenge.
        if *held != used {
            return Ok(true);
        }
        let headers = response.headers().get_all(header::WWW_AUTHENTICATE);
        let texts = headers.iter().filter_map(|header| header.to_str().ok());
        let challenges: Vec<_> = texts.filter_map(challenge::parse).flatten().collect();
        let of = |scheme: &str| challenges.iter().find(|c| c.scheme == scheme);
        let refused = used.is_some_and(|used| used.starts_with("Basic "));
        let bearer = of("bearer").filter(|_| !tried.bearer);
        let offers_basic = of("basic").is_some() && !tried.basic && !refused;
        if bearer.is_none() && !offers_basic {
            return match of("bearer").or(of("basic")) {
                Some(_) => Ok(false),
                None => Err(Failure::last(self.no_scheme(what))),
            };
        }
        let Endpoint {
            registry,
            repository,
            ..
        } = &self.endpoint;
        let credentials = credentials::find(registry, repository).map_err(Failure::last)?;
        let has_password = matches!(credentials, Some(Credentials::Password(..)));
        let token = bearer.map(|bearer| {
            tried.bearer = true;
            self.token(what, bearer, credentials.as_ref())
        });
        let authorization = match token {
            Some(Ok(token)) => format!("Bearer {token}"),
            Some(Err(failure)) if !(offers_basic && has_password) => return Err(failure),
            _ => {
                tried.basic = true;
                self.basic(what, credentials.as_ref())
                    .map_err(Failure::last)?
            }
        };
        *held = Some(authorization.into());
        Ok(true)
    }

    fn no_scheme(&self, what: &str) -> Error {
        let who = self.server_name();
        let why =
            format_args!("{who} answers 401, but offers neither basic nor bearer authentication");
        Error::unsupported(what, why)
    }

    fn basic(&self, what: &str, credentials: Option<&Credentials>) -> Result<String> {
        let who = self.server_name();
        let why = match credentials {
            Some(Credentials::Password(user, password)) => return Ok(basic(user, password)),
            Some(_) => {
                format!("{who} requires a password, but only an identity token is available")
            }
            None => format!("{who} requires credentials, but none were found"),
        };
        Err(Error::system(what, why).hint(format_args!(
            "log in with podman login {0} or docker login {0}",
            self.endpoint.registry
        )))
    }

    /// Requests a token from the server that the challenge names.
    fn token(
        &self,
        what: &str,
        bearer: &Challenge,
        credentials: Option<&Credentials>,
    ) -> std::result::Result<String, Failure> {
        let realm = self.realm(what, bearer).map_err(Failure::last)?;
        let who = format!("the token server {}", location::shown(&realm.to_string()));
        let own_scope = format!("repository:{}:{}", self.endpoint.repository, self.actions);
        let mut form = vec![("scope", bearer.get("scope").unwrap_or(&own_scope))];
        form.extend(bearer.get("service").map(|service| ("service", service)));
        let what = format!("token for {}", self.endpoint.registry);
        let response = match credentials {
            Some(Credentials::IdentityToken(token)) => {
                self.post_form(&what, &who, &realm, &mut form, token)?
            }
            Some(Credentials::Password(user, password)) => {
                self.get_form(&what, &who, &realm, &form, Some(basic(user, password)))?
            }
            None => self.get_form(&what, &who, &realm, &form, None)?,
        };
        if response.status() != 200 {
            return Err(refusal(&what, &who, response));
        }
        let bytes = self.read(&what, &who, response.into_body(), MAX_ANSWER)?;
        token_of(&what, &who, &bytes).map_err(Failure::last)
    }

    fn get_form(
        &self,
        what: &str,
        who: &str,
        realm: &Uri,
        form: &[(&str, &str)],
        authorization: Option<String>,
    ) -> std::result::Result<Response<Body>, Failure> {
        let mut url = with_query(realm, form).map_err(Failure::last)?;
        let exchange = Exchange::new(what, Method::GET, url.clone(), &[]);
        for redirects in 1.. {
            // Only the server that the registry named may receive the password.
            let ours = location::same_origin(&url, realm);
            let authorization = authorization.as_deref().filter(|_| ours);
            let response = self.once(&exchange, &url, who, authorization)?;
            match response.status().as_u16() {
                301 | 302 | 303 | 307 | 308 => {
                    url = self.redirected(what, &url, &response, redirects)?;
                }
                _ => return Ok(response),
            }
        }
        unreachable!("redirects are counted")
    }

    fn post_form<'f>(
        &self,
        what: &str,
        who: &str,
        realm: &Uri,
        form: &mut Vec<(&'f str, &'f str)>,
        refresh: &'f str,
    ) -> std::result::Result<Response<Body>, Failure> {
        form.push(("grant_type", "refresh_token"));
        form.push(("refresh_token", refresh));
        form.push(("client_id", "imrun"));
        let text = encoded(form);
        let media_type = "application/x-www-form-urlencoded".to_string();
        let exchange = Exchange {
            headers: vec![(header::CONTENT_TYPE, media_type)],
            body: Content::Bytes(text.as_bytes()),
            ..Exchange::new(what, Method::POST, realm.clone(), &[])
        };
        self.once(&exchange, realm, who, None)
    }

    /// Returns the URL of the token server. The registry chooses the server that receives its users'
    /// passwords, but no other server may receive them.
    fn realm(&self, what: &str, bearer: &Challenge) -> Result<Uri> {
        let named = bearer.get("realm").unwrap_or_default();
        let who = self.server_name();
        let realm = location::resolve(&self.base, named).ok_or_else(|| {
            let shown = location::shown(named);
            let why = format_args!("{who} names no token server: its realm is {shown:?}");
            Error::digest(what, why)
        })?;
        if self.may_speak_to(&realm) {
            Ok(realm)
        } else {
            let shown = location::shown(named);
            let why = format_args!("{who}'s token server {shown} has no TLS");
            Err(Error::policy(what, why))
        }
    }
}

fn basic(user: &str, password: &str) -> String {
    format!(
        "Basic {}",
        BASE64_STANDARD.encode(format!("{user}:{password}"))
    )
}

fn with_query(url: &Uri, form: &[(&str, &str)]) -> Result<Uri> {
    let separator = if url.query().is_some() { '&' } else { '?' };
    let text = format!("{url}{separator}{}", encoded(form));
    text.parse().map_err(|error| Error::usage(url, error))
}

/// Encodes `application/x-www-form-urlencoded`.
fn encoded(form: &[(&str, &str)]) -> String {
    let part = |text: &str| {
        let byte = |byte: u8| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        };
        text.bytes().map(byte).collect::<String>()
    };
    let pairs = form
        .iter()
        .map(|(name, value)| format!("{}={}", part(name), part(value)));
    pairs.collect::<Vec<_>>().join("&")
}

/// Returns `token` or `access_token`; the specification allows both.
fn token_of(what: &str, who: &str, bytes: &[u8]) -> Result<String> {
    let answer = json::parse(what, bytes).map_err(|error| {
        Error::digest(
            what,
            format_args!("{who} sends an answer that is {}", error.why),
        )
    })?;
    let texts = ["token", "access_token"].map(|name| answer[name].as_str());
    let token = texts.into_iter().flatten().find(|token| !token.is_empty());
    let token =
        token.ok_or_else(|| Error::digest(what, format_args!("{who} answers without a token")))?;
    if token.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(token.to_string())
    } else {
        Err(Error::digest(
            what,
            format_args!(
                "{who} answers with a token that contains characters not allowed in a header"
            ),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_one_of_two_names_and_only_header_characters() {
        let token = |text: &str| token_of("token", "the token server", text.as_bytes());
        assert_eq!(token(r#"{"token":"a"}"#).unwrap(), "a");
        assert_eq!(token(r#"{"token":"","access_token":"b"}"#).unwrap(), "b");
        for wrong in [
            "",
            "<html>",
            "[]",
            "{}",
            r#"{"token":1}"#,
            r#"{"token":"a\r\nx: y"}"#,
        ] {
            assert!(token(wrong).is_err(), "{wrong:?} was taken");
        }
    }

    #[test]
    fn a_query_is_encoded_and_added() {
        let url = with_query(
            &"https://a.example/t?x=1".parse().unwrap(),
            &[("scope", "repository:a/b:pull,push"), ("é", "&")],
        );
        assert_eq!(
            url.unwrap().to_string(),
            "https://a.example/t?x=1&scope=repository%3Aa%2Fb%3Apull%2Cpush&%C3%A9=%26"
        );
        assert_eq!(
            basic("Aladdin", "open sesame"),
            "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
        );
    }
}
