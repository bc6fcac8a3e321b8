//! Requirements of an image on its environment: the label `dev.imrun.env`.

use super::Environment;
use crate::base::error::{Error, Result};
use crate::base::json::{self, Node};
use regex_lite::{Regex, RegexBuilder};
use std::collections::BTreeMap;
use std::ffi::OsStr;

/// Name of the label.
const LABEL: &str = "dev.imrun.env";
/// Maximum size of a compiled pattern, in bytes: a hostile one must not cost memory or, with a long
/// value, time.
const MAX_PATTERN: usize = 64 << 10;

/// Variables that an image declares, by name.
#[derive(Debug, Clone, Default)]
pub struct Contract {
    requirements: BTreeMap<String, Requirement>,
}

/// Requirement on one variable.
#[derive(Debug, Clone)]
pub struct Requirement {
    /// True if the image cannot run without it.
    pub required: bool,
    /// True if the image declares the value secret.
    pub secret: bool,
    pattern: Option<Pattern>,
}

#[derive(Debug, Clone)]
struct Pattern {
    text: String,
    whole: Regex,
}

impl Contract {
    /// Name of the label in the image config.
    pub const LABEL: &str = LABEL;

    /// Parses the label: `{"NAME": {"required": BOOL, "pattern": REGEX, "secret": BOOL}, …}`.
    pub fn parse(label: &str) -> Result<Contract> {
        let what = format!("label {LABEL}");
        let value = json::parse(&what, label.as_bytes())?;
        let mut requirements = BTreeMap::new();
        for (name, node) in Node::root(&what, &value).members()? {
            super::check_name(&what, OsStr::new(name))?;
            requirements.insert(name.to_string(), Requirement::read(&node)?);
        }
        Ok(Contract { requirements })
    }

    /// Returns all requirements, by name.
    pub fn requirements(&self) -> impl Iterator<Item = (&str, &Requirement)> {
        self.requirements
            .iter()
            .map(|(name, requirement)| (name.as_str(), requirement))
    }

    /// Refuses an environment that lacks a variable or has a malformed one; the error names all of them.
    pub fn check(&self, environment: &Environment) -> Result<()> {
        let wrong: Vec<String> = self
            .requirements()
            .filter_map(|(name, requirement)| {
                let why = requirement.refusal(environment.get(name))?;
                Some(format!("{name} {why}"))
            })
            .collect();
        if wrong.is_empty() {
            return Ok(());
        }
        let error = Error::usage("environment", wrong.join("; "));
        Err(error.hint(format_args!(
            "set it with -e NAME=VALUE or --env-file; the image declares it in the label {LABEL}"
        )))
    }
}

impl Requirement {
    fn read(node: &Node) -> Result<Requirement> {
        let mut requirement = Requirement {
            required: false,
            secret: false,
            pattern: None,
        };
        for (key, member) in node.members()? {
            match key {
                "required" => requirement.required = member.truth()?,
                "secret" => requirement.secret = member.truth()?,
                "pattern" => requirement.pattern = Some(Pattern::read(&member)?),
                _ => {
                    return Err(member.error("is unknown; expected required, pattern or secret"));
                }
            }
        }
        Ok(requirement)
    }

    /// Returns the reason to refuse the value, without the value.
    fn refusal(&self, value: Option<&OsStr>) -> Option<String> {
        match (value, &self.pattern) {
            (None, _) if self.required => Some("is required".to_string()),
            (Some(value), Some(pattern)) if !pattern.matches(value) => {
                Some(format!("does not match {}", pattern.text))
            }
            _ => None,
        }
    }
}

impl Pattern {
    fn read(node: &Node) -> Result<Pattern> {
        let text = node.text()?.to_string();
        let compile = |text: &str| {
            let regex = RegexBuilder::new(text).size_limit(MAX_PATTERN).build();
            regex.map_err(|e| node.error(format_args!("is not a valid pattern: {e}")))
        };
        // Compiled by itself first: `a)|(b` would be a valid pattern once wrapped, but not anchored.
        compile(&text)?;
        let whole = compile(&format!(r"\A(?:{text})\z"))?;
        Ok(Pattern { text, whole })
    }

    fn matches(&self, value: &OsStr) -> bool {
        value
            .to_str()
            .is_some_and(|value| self.whole.is_match(value))
    }
}
