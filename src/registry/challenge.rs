//! `WWW-Authenticate`: the authentication schemes that a server offers.
//!
//! Source: RFC 9110, sections 5.6 and 11.3.

/// An authentication scheme with its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// Scheme in lower case: `basic`, `bearer`, ….
    pub scheme: String,
    /// Parameters with their names in lower case, in order.
    parameters: Vec<(String, String)>,
}

impl Challenge {
    /// Returns the first parameter with this name.
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut parameters = self.parameters.iter();
        let (_, value) = parameters.find(|(own, _)| own == name)?;
        Some(value)
    }
}

/// Parses the challenges of a header; `None` if it does not follow the RFC.
pub fn parse(header: &str) -> Option<Vec<Challenge>> {
    let mut rest = Rest(header);
    let mut challenges: Vec<Challenge> = Vec::new();
    loop {
        rest.skip(|c| matches!(c, ' ' | '\t' | ','));
        if rest.0.is_empty() {
            return Some(challenges);
        }
        let word = rest.token()?.to_ascii_lowercase();
        rest.skip(is_space);
        if !rest.0.starts_with('=') {
            challenges.push(Challenge {
                scheme: word,
                parameters: Vec::new(),
            });
            continue;
        }
        let last = challenges.last_mut()?;
        if let Some(value) = rest.value()? {
            last.parameters.push((word, value));
        }
    }
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t')
}

/// The unread part of the header.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    fn skip(&mut self, what: impl Fn(char) -> bool) {
        self.0 = self.0.trim_start_matches(what);
    }

    /// Reads a token, or the beginning of a token68, which may contain slashes.
    fn token(&mut self) -> Option<&'a str> {
        let part = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~/".contains(c);
        let (token, rest) = self
            .0
            .split_at(self.0.find(|c| !part(c)).unwrap_or(self.0.len()));
        self.0 = rest;
        Some(token).filter(|token| !token.is_empty())
    }

    /// Reads the value after an equals sign; the inner `None` is the end of a token68.
    fn value(&mut self) -> Option<Option<String>> {
        self.0 = self.0.strip_prefix('=')?;
        self.skip(is_space);
        match self.0.chars().next() {
            Some('"') => self.quoted().map(Some),
            None | Some('=' | ',') => {
                self.skip(|c| c == '=');
                Some(None)
            }
            Some(_) => self.token().map(|token| Some(token.to_string())),
        }
    }

    fn quoted(&mut self) -> Option<String> {
        let mut text = String::new();
        let mut characters = self.0.char_indices().skip(1);
        while let Some((at, c)) = characters.next() {
            match c {
                '"' => {
                    self.0 = &self.0[at + 1..];
                    return Some(text);
                }
                '\\' => text.push(characters.next()?.1),
                c => text.push(c),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn challenge(scheme: &str, parameters: &[(&str, &str)]) -> Challenge {
        let owned = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
        Challenge {
            scheme: scheme.into(),
            parameters: parameters.iter().map(owned).collect(),
        }
    }

    #[test]
    fn challenges_of_real_registries_are_read() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/redis:pull,push""#;
        let expected = challenge(
            "bearer",
            &[
                ("realm", "https://auth.docker.io/token"),
                ("service", "registry.docker.io"),
                ("scope", "repository:library/redis:pull,push"),
            ],
        );
        assert_eq!(parse(hub), Some(vec![expected]));
        let several = r#"Negotiate, BASIC  Realm = "a \"b\" c" , charset=UTF-8,, Digest a=b"#;
        assert_eq!(
            parse(several),
            Some(vec![
                challenge("negotiate", &[]),
                challenge("basic", &[("realm", "a \"b\" c"), ("charset", "UTF-8")]),
                challenge("digest", &[("a", "b")]),
            ])
        );
        let token68 = "Negotiate a87/42+8bc==, Basic realm=x";
        let expected = challenge("basic", &[("realm", "x")]);
        assert_eq!(parse(token68).unwrap().last(), Some(&expected));
        assert_eq!(parse(""), Some(Vec::new()));
    }

    #[test]
    fn invalid_challenges_are_refused() {
        for wrong in [
            "realm=\"x\"",
            "Basic realm=\"x",
            "Basic realm=\"x\\",
            "\"x\"",
            "=",
            "é",
        ] {
            assert_eq!(parse(wrong), None, "{wrong:?} was taken");
        }
    }

    proptest! {
        #[test]
        fn every_quoted_value_is_read_back(value in "\\PC{0,40}") {
            let quoted = value.replace('\\', "\\\\").replace('"', "\\\"");
            let header = format!("Bearer realm=\"{quoted}\"");
            let challenges = parse(&header).unwrap();
            prop_assert_eq!(challenges[0].get("realm"), Some(&value[..]));
        }

        #[test]
        fn arbitrary_text_never_panics(text in "[a-z=\", \\\\/é]{0,40}") {
            let _ = parse(&text);
        }
    }
}
