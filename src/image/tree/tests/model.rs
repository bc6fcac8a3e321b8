//! An independent, simple merge that shares nothing with the real one: a map from paths to numbered inodes.

use super::*;
use crate::image::layer::{Entry, Kind, Layer};
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq)]
enum Node {
    Directory,
    Symlink(String),
    Other(&'static str),
    Device,
}

#[derive(Debug, Clone, PartialEq)]
struct Named {
    node: Node,
    number: usize,
    layer: u16,
}

#[derive(Default)]
struct Model {
    names: BTreeMap<String, Named>,
    inodes: usize,
}

fn join(parent: &[String], name: &str) -> String {
    [parent, &[name.to_string()]].concat().join("/")
}

impl Model {
    /// Returns the directory of a path. For a layer, it creates the directory and follows only the layer's
    /// own symlinks.
    fn walk(&mut self, path: &str, make: Option<u16>) -> Option<String> {
        let words = |text: &str| -> Vec<String> {
            let words = text.split('/').filter(|word| !word.is_empty());
            words.map(str::to_string).collect()
        };
        let mut pending = words(path);
        pending.reverse();
        let (mut here, mut links) = (Vec::<String>::new(), 0);
        while let Some(word) = pending.pop() {
            match &word[..] {
                "." => continue,
                ".." => {
                    here.pop();
                    continue;
                }
                _ => {}
            }
            let at = join(&here, &word);
            match self.names.get(&at).cloned() {
                Some(Named {
                    node: Node::Directory,
                    ..
                }) => here.push(word),
                Some(Named {
                    node: Node::Symlink(target),
                    layer,
                    ..
                }) if make.is_none_or(|own| own == layer) => {
                    links += 1;
                    if links > 40 {
                        return None;
                    }
                    if target.starts_with('/') {
                        here.clear();
                    }
                    pending.extend(words(&target).into_iter().rev());
                }
                other => {
                    let layer = make?;
                    if other.is_some_and(|other| other.layer == layer) {
                        return None;
                    }
                    self.insert(&at, Node::Directory, layer);
                    here.push(word);
                }
            }
        }
        Some(here.join("/"))
    }

    /// Returns the lower directory that contains a marker; a directory replaces anything else in its path.
    fn hiding(&mut self, path: &str, layer: u16) -> Option<String> {
        let mut here = Vec::new();
        for word in path.split('/').filter(|word| !matches!(*word, "" | ".")) {
            let at = join(&here, word);
            if self.names.get(&at)?.node != Node::Directory {
                self.walk(path, Some(layer));
                return None;
            }
            here.push(word.to_string());
        }
        Some(here.join("/"))
    }

    fn remove(&mut self, path: &str, itself: bool) {
        let below = if path.is_empty() {
            String::new()
        } else {
            format!("{path}/")
        };
        self.names
            .retain(|name, _| !(name.starts_with(&below) || itself && name == path));
    }

    fn insert(&mut self, path: &str, node: Node, layer: u16) {
        self.inodes += 1;
        self.remove(path, true);
        self.names.insert(
            path.to_string(),
            Named {
                node,
                number: self.inodes,
                layer,
            },
        );
    }

    fn apply(&mut self, entries: &[Entry], layer: u16) -> Option<()> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let cut = |path: &str| {
            path.rsplit_once('/')
                .map_or(("".into(), path.to_string()), |(a, b)| {
                    (a.to_string(), b.to_string())
                })
        };
        for entry in entries {
            let path = text(&entry.path);
            if entry.kind == Kind::Opaque {
                if let Some(directory) = self.hiding(&path, layer) {
                    self.remove(&directory, false);
                }
            } else if entry.kind == Kind::Whiteout {
                let (parent, name) = cut(&path);
                if let Some(directory) = self.hiding(&parent, layer) {
                    self.remove(format!("{directory}/{name}").trim_start_matches('/'), true);
                }
            }
        }
        for entry in entries {
            if entry.path.is_empty() || matches!(entry.kind, Kind::Opaque | Kind::Whiteout) {
                continue;
            }
            let (parent, name) = cut(&text(&entry.path));
            let parent = self.walk(&parent, Some(layer))?;
            let at = format!("{parent}/{name}")
                .trim_start_matches('/')
                .to_string();
            let old = self.names.get(&at).cloned();
            let node = match &entry.kind {
                Kind::Directory => {
                    if let Some(Named {
                        node: Node::Directory,
                        number,
                        ..
                    }) = old
                    {
                        self.names.insert(
                            at,
                            Named {
                                node: Node::Directory,
                                number,
                                layer,
                            },
                        );
                        continue;
                    }
                    Node::Directory
                }
                Kind::HardLink(target) => {
                    let (parent, name) = cut(&text(target));
                    let parent = self.walk(&parent, None)?;
                    let target = format!("{parent}/{name}")
                        .trim_start_matches('/')
                        .to_string();
                    let Named { node, number, .. } = self.names.get(&target)?.clone();
                    if node == Node::Directory {
                        return None;
                    }
                    self.remove(&at, true);
                    self.names.insert(
                        at,
                        Named {
                            node,
                            number,
                            layer,
                        },
                    );
                    continue;
                }
                Kind::Symlink(target) => Node::Symlink(text(target)),
                Kind::Fifo => Node::Other("fifo"),
                Kind::Device => Node::Device,
                _ => Node::Other("file"),
            };
            self.insert(&at, node, layer);
        }
        Some(())
    }
}

/// Returns the model's names without devices, or `None` if it refuses the layers.
fn expected(layers: &[Layer]) -> Option<Vec<(String, Named)>> {
    let mut model = Model::default();
    for (index, layer) in layers.iter().enumerate() {
        model.apply(&layer.entries, index as u16)?;
    }
    Some(
        model
            .names
            .into_iter()
            .filter(|(_, named)| named.node != Node::Device)
            .collect(),
    )
}

fn actual(tree: &Tree) -> Vec<(String, Named)> {
    let mut names: Vec<(String, Named)> = tree
        .walk()
        .skip(1)
        .map(|(path, entry)| {
            let node = match &tree.inode(entry.inode).content {
                Content::Directory(_) => Node::Directory,
                Content::Symlink(target) => {
                    Node::Symlink(String::from_utf8_lossy(target).into_owned())
                }
                Content::Fifo => Node::Other("fifo"),
                _ => Node::Other("file"),
            };
            let named = Named {
                node,
                number: entry.inode.index(),
                layer: entry.layer.unwrap(),
            };
            (String::from_utf8(path).unwrap(), named)
        })
        .collect();
    names.sort_by(|one, other| one.0.cmp(&other.0));
    names
}

/// Numbers inodes in the order of their first names, so that only sharing is compared.
fn renumber(mut names: Vec<(String, Named)>) -> Vec<(String, Named)> {
    let mut seen = Vec::new();
    for (_, named) in &mut names {
        let at = seen.iter().position(|number| *number == named.number);
        named.number = at.unwrap_or_else(|| {
            seen.push(named.number);
            seen.len() - 1
        });
    }
    names
}

fn layers() -> impl Strategy<Value = Vec<Vec<(u8, String, String)>>> {
    let name = "[abc](/[abc]){0,2}";
    let target = "/?(\\.\\./)?[abc](/[abc.])?";
    let kind = prop::sample::select(b"000555522216WOO".to_vec());
    let entry = (kind, name, target).prop_map(|(kind, name, target)| (kind, name, target));
    prop::collection::vec(prop::collection::vec(entry, 0..7), 1..5)
}

fn tar(entries: &[(u8, String, String)]) -> Tar {
    entries
        .iter()
        .fold(Tar::new(), |tar, (kind, name, target)| match kind {
            b'W' => {
                let (parent, last) = name.rsplit_once('/').unwrap_or(("", name));
                tar.file(format!("{parent}/.wh.{last}"), b"")
            }
            b'O' => tar.file(format!("{name}/.wh..wh..opq"), b""),
            b'1' => tar.hard_link(
                name,
                target.trim_start_matches("/").trim_start_matches("../"),
            ),
            b'6' if name.starts_with('c') => tar.device(name),
            kind => tar.raw(
                *kind,
                name,
                if *kind == b'2' { target } else { "" },
                b"",
                |_| (),
            ),
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn layers_merge_as_in_a_naive_model(layers in layers()) {
        let layers: Vec<Layer> = layers.iter().map(|entries| tar(entries).layer()).collect();
        let expected = expected(&layers);
        let tree = merge(layers.clone()).ok();
        prop_assert_eq!(tree.as_ref().map(|tree| renumber(actual(tree))), expected.map(renumber));
        if let Some(tree) = tree {
            for (path, entry) in tree.walk().skip(1) {
                let names = tree.walk().filter(|(_, other)| other.inode == entry.inode).count();
                if tree.children(entry.inode).is_none() {
                    prop_assert_eq!(tree.links(entry.inode) as usize, names, "{:?}", path);
                }
            }
        }
    }
}
