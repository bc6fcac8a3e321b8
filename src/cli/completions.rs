//! Shell completions: clap's own for commands and options, and words of this host for their arguments.

use super::{Cli, Global, print};
use crate::base::error::Result;
use crate::runtime::state::Runtime;
use crate::store::refs;
use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::Shell;
use std::collections::BTreeSet;

/// Print a shell's completions
#[derive(Args)]
pub struct Completions {
    /// Shell
    shell: Shell,
}

/// Print words that complete an argument, one per line
#[derive(Args)]
pub struct Words {
    /// Kind of argument
    kind: Kind,
}

/// Kind of argument that this host knows words for.
#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    /// Images to launch: digests, with their names.
    Launch,
    /// Images: names and digests.
    Images,
    /// Names of images.
    Names,
    /// Running containers: names, or ids.
    Containers,
}

/// Commands whose arguments are of each kind.
const ARGUMENTS: [(&str, &str); 4] = [
    ("launch", "run check"),
    ("images", "inspect verify mount rm"),
    ("names", "history rollback"),
    ("containers", "stop"),
];

impl Completions {
    /// Prints the script.
    pub fn execute(self) -> Result<u8> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "imrun", &mut script);
        let script = String::from_utf8_lossy(&script);
        print(&match self.shell {
            Shell::Bash => format!("{script}\n{}", bash()),
            Shell::Zsh => zsh(&script),
            Shell::Fish => format!("{script}{}", fish()),
            _ => script.into_owned(),
        })
    }
}

/// Returns the branches of a shell's `case` that set `kind` by a command's name.
fn branches() -> String {
    let branch = |(kind, commands): (&str, &str)| {
        format!("        {}) kind={kind} ;;\n", commands.replace(' ', "|"))
    };
    ARGUMENTS.into_iter().map(branch).collect()
}

/// bash splits words at colons, which digests have: bash-completion puts them together again.
fn bash() -> String {
    let branches = branches();
    format!(
        r#"_imrun_words() {{
    _imrun "$@"
    local kind='' current=${{COMP_WORDS[COMP_CWORD]}}
    if declare -F _get_comp_words_by_ref >/dev/null; then _get_comp_words_by_ref -n : -c current; fi
    case ${{COMP_WORDS[1]}} in
{branches}    esac
    [[ -n $kind && $current != -* ]] || return 0
    mapfile -t COMPREPLY < <(compgen -W "$(imrun complete "$kind" 2>/dev/null)" -- "$current")
    if declare -F __ltrim_colon_completions >/dev/null; then __ltrim_colon_completions "$current"; fi
}}
complete -F _imrun_words -o nosort -o bashdefault -o default imrun
"#
    )
}

/// The script ends with the call that zsh makes when it loads the file: the words come in front of that.
fn zsh(script: &str) -> String {
    let at = script
        .rfind("if [ \"$funcstack[1]\"")
        .unwrap_or(script.len());
    let (functions, call) = script.split_at(at);
    let branches = branches();
    format!(
        r#"{functions}functions[_imrun_options]=$functions[_imrun]
_imrun() {{
    local kind=''
    case $words[2] in
{branches}    esac
    if [[ -n $kind && $PREFIX != -* ]]; then compadd -- ${{(f)"$(imrun complete $kind 2>/dev/null)"}}; fi
    _imrun_options "$@"
}}
{call}"#
    )
}

fn fish() -> String {
    let line = |(kind, commands): (&str, &str)| {
        format!(
            "complete -c imrun -n '__fish_seen_subcommand_from {commands}' -f \\\n    -a '(imrun complete {kind} 2>/dev/null)'\n"
        )
    };
    ARGUMENTS.into_iter().map(line).collect()
}

impl Words {
    /// Prints the words.
    pub fn execute(self, global: &Global) -> Result<u8> {
        let words = match self.kind {
            Kind::Containers => containers(global)?,
            kind => images(global, kind)?,
        };
        print(
            &words
                .iter()
                .map(|word| format!("{word}\n"))
                .collect::<String>(),
        )
    }
}

fn images(global: &Global, kind: Kind) -> Result<BTreeSet<String>> {
    let mut words = BTreeSet::new();
    for (name, (digest, _)) in refs::current(global.store().refs()?) {
        let digest = digest.to_string();
        let has_name = name != digest;
        match kind {
            Kind::Launch if has_name => {
                words.insert(format!("{name}@{digest}"));
            }
            Kind::Names if !has_name => {}
            Kind::Names => {
                words.insert(name);
            }
            _ => words.extend([name, digest]),
        }
    }
    Ok(words)
}

fn containers(global: &Global) -> Result<BTreeSet<String>> {
    let running = Runtime::open(&global.root)?.list()?.into_iter();
    let word = |one: crate::runtime::state::Status| one.name.unwrap_or(one.id);
    Ok(running.map(word).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_that_have_words_are_commands_of_imrun() {
        let command = Cli::command();
        for (kind, commands) in ARGUMENTS {
            assert!(Kind::from_str(kind, false).is_ok(), "{kind}");
            for name in commands.split(' ') {
                assert!(command.find_subcommand(name).is_some(), "{name}");
            }
        }
    }

    #[test]
    fn the_words_come_before_the_call_at_the_end_of_zshs_script() {
        let mut script = Vec::new();
        clap_complete::generate(Shell::Zsh, &mut Cli::command(), "imrun", &mut script);
        let script = zsh(&String::from_utf8(script).unwrap());
        let words = script.find("_imrun_options \"$@\"").unwrap();
        assert!(words < script.rfind("funcstack[1]").unwrap());
        assert!(script.ends_with("fi\n"));
    }
}
