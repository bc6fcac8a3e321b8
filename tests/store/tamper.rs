//! A changed byte in any object is found, named and refused; importing the image again repairs it.

use crate::host;
use crate::support::host::Host;
use crate::support::layout::{Layout, Packing, on, program, tar};
use imrun::image::manifest::Platform;
use std::fs;
use std::path::{Path, PathBuf};

/// A store with one image that was imported through an index, and the files of the image.
struct Victim {
    host: Host,
    layout: Layout,
    index: String,
    image: String,
    /// Kind of each object, and its file.
    objects: Vec<(&'static str, PathBuf)>,
}

impl Victim {
    fn new(host: Host) -> Victim {
        let layout = Layout::new(host.path("layout"));
        let layers = [program(), tar(&[("a", "1")])];
        let manifest = layout.add_image(&layers.each_ref().map(Vec::as_slice), Packing::Gzip);
        let index = layout.add_index(&[on(manifest, "linux", &Platform::host().architecture)]);
        layout.publish(std::slice::from_ref(&index));
        let image = host.import(layout.source());
        let manifest: serde_json::Value =
            serde_json::from_slice(&fs::read(host.blob(&image)).unwrap()).unwrap();
        let tree = fs::read_dir(host.path("store/trees"))
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        let index = index["digest"].as_str().unwrap().to_owned();
        let blob = |digest: &str| host.blob(digest);
        let objects = vec![
            ("index", blob(&index)),
            ("manifest", blob(&image)),
            (
                "config",
                blob(manifest["config"]["digest"].as_str().unwrap()),
            ),
            (
                "layer",
                blob(&imrun::base::digest::Digest::sha256(&layers[0]).to_string()),
            ),
            (
                "layer",
                blob(&imrun::base::digest::Digest::sha256(&layers[1]).to_string()),
            ),
            ("tree image", tree),
        ];
        Victim {
            host,
            layout,
            index,
            image,
            objects,
        }
    }

    /// Changes each kind of object in turn; checks that it is found, refused and repaired.
    fn suffers(&self, change: impl Fn(&Path)) {
        for (kind, path) in &self.objects {
            change(path);
            let name = path.file_stem().unwrap().to_str().unwrap();
            let found = self.host.imrun(["verify"]).exits(1);
            let differs = |line: &str| line.contains("  DIFFERS  ") && line.contains(name);
            assert!(found.out.lines().any(differs), "{kind}: {found:?}");
            self.host.imrun(["verify", &self.index]).exits(1);
            let refused = self
                .host
                .launch_of(&self.index)
                .run()
                .refused(name)
                .because("digest");
            let said = if *kind == "index" { "manifest" } else { kind };
            assert!(
                [said, "blobs/", "trees/"]
                    .iter()
                    .any(|word| refused.err.contains(word)),
                "{kind}: {refused:?}"
            );
            if *kind != "index" {
                self.host
                    .launch_of(&self.image)
                    .run()
                    .refused(name)
                    .because("digest");
                self.host.imrun(["inspect", &self.image]).refused(name);
                fs::create_dir_all(self.host.path("mnt")).unwrap();
                let directory = self.host.path("mnt");
                self.host
                    .imrun(["mount", &self.image, directory.to_str().unwrap()])
                    .refused(name);
            }
            assert_eq!(self.host.import(self.layout.source()), self.image, "{kind}");
            self.host.imrun(["verify"]).exits(0);
            self.host
                .launch_of(&self.index)
                .run()
                .exits(0)
                .prints("ran\n");
        }
    }
}

fn flip(path: &Path, position: impl Fn(usize) -> usize) {
    let mut bytes = fs::read(path).unwrap();
    let position = position(bytes.len());
    bytes[position] ^= 0x20;
    fs::write(path, bytes).unwrap();
}

#[test]
fn one_flipped_byte_in_any_object_is_refused_and_repaired() {
    let victim = Victim::new(host!());
    victim.suffers(|path| flip(path, |length| length / 2));
    victim.suffers(|path| flip(path, |_| 0));
    victim.suffers(|path| flip(path, |length| length - 1));
}

#[test]
fn a_truncated_or_extended_object_is_refused_and_repaired() {
    let victim = Victim::new(host!());
    victim.suffers(|path| {
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..bytes.len() - 1]).unwrap();
    });
    victim.suffers(|path| fs::write(path, "").unwrap());
    victim.suffers(|path| {
        let bytes = fs::read(path).unwrap();
        fs::write(path, [&bytes[..], &[0; 512]].concat()).unwrap();
    });
}

#[test]
fn a_missing_object_is_refused_and_repaired() {
    let victim = Victim::new(host!());
    for (kind, path) in &victim.objects {
        fs::remove_file(path).unwrap();
        let named = victim.host.launch_of(&victim.index).run().exits(125);
        assert!(
            named.err.contains("is not in the store"),
            "{kind}: {named:?}"
        );
        victim.host.import(victim.layout.source());
        victim.host.launch_of(&victim.index).run().exits(0);
    }
}

#[test]
fn a_link_instead_of_an_object_is_refused_even_to_the_same_bytes() {
    let victim = Victim::new(host!());
    let aside = victim.host.path("aside");
    victim.suffers(|path| {
        fs::rename(path, &aside).unwrap();
        std::os::unix::fs::symlink(&aside, path).unwrap();
    });
}

#[test]
fn a_fifo_instead_of_an_object_is_refused_without_blocking() {
    let victim = Victim::new(host!());
    victim.suffers(|path| {
        fs::remove_file(path).unwrap();
        nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRUSR).unwrap();
    });
}

#[test]
fn the_tree_image_of_another_image_is_refused() {
    let victim = Victim::new(host!());
    let own = &victim.objects.last().unwrap().1;
    let before = fs::read(own).unwrap();
    let other = victim.host.busybox();
    victim.host.imrun(["verify", other]).exits(0);
    let trees = fs::read_dir(victim.host.path("store/trees")).unwrap();
    let others = trees
        .map(|entry| entry.unwrap().path())
        .find(|path| path != own)
        .unwrap();
    fs::copy(others, own).unwrap();
    victim
        .host
        .launch_of(&victim.image)
        .run()
        .refused("tree image")
        .because("digest");
    victim.host.import(victim.layout.source());
    assert_eq!(
        fs::read(own).unwrap(),
        before,
        "the same image has the same tree, byte for byte"
    );
}

#[test]
fn a_damaged_log_of_names_is_reported_and_loses_no_image() {
    let victim = Victim::new(host!());
    victim.host.write("store/refs.log", "nonsense\n");
    victim
        .host
        .imrun(["gc"])
        .refused("refs.log")
        .hints("verify --repair");
    victim.host.imrun(["verify"]).exits(1);
    victim.host.imrun(["images"]).exits(0);
    // An image can be run by its digest without a name.
    victim
        .host
        .launch_of(&victim.image)
        .run()
        .exits(0)
        .prints("ran\n");
}

#[test]
fn an_unknown_digest_does_not_verify() {
    let victim = Victim::new(host!());
    let other = format!("sha256:{}", "0".repeat(64));
    let found = victim
        .host
        .imrun(["verify", &victim.image, &other])
        .exits(1);
    assert!(
        found
            .out
            .starts_with(&format!("{}  ok\n{other}  DIFFERS  ", victim.image)),
        "{found:?}"
    );
}
