use super::*;
use crate::bake;
use crate::image::verity::Hasher;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Makes a store with an image of two layers, with or without verity annotations.
fn baked(directory: &Path, verity: bool) -> (Store, Image) {
    let store = Store::new(directory.join("store"));
    store.create().unwrap();
    let bake = |definition: &str| {
        let file = directory.join("image.toml");
        std::fs::write(&file, definition).unwrap();
        bake::into_store(&store, &file, None, verity).unwrap()
    };
    std::fs::write(directory.join("a"), "lower").unwrap();
    std::fs::write(directory.join("b"), "upper").unwrap();
    let lower = bake("[[file]]\nsource = \"a\"\npath = \"/a\"");
    let upper = format!("base = \"{lower}\"\n[[file]]\nsource = \"b\"\npath = \"/b\"");
    let image = Image::load(&store, &bake(&upper)).unwrap();
    (store, image)
}

/// Computes the fs-verity digests of these files: this kernel may have no fs-verity.
fn measured(sources: &Sources) -> Vec<Digest> {
    let digest = |(_, mut file): (String, &File)| {
        let (mut hasher, mut bytes) = (Hasher::default(), Vec::new());
        file.read_to_end(&mut bytes).unwrap();
        hasher.update(&bytes);
        hasher.finish()
    };
    watch::named(sources).map(digest).collect()
}

#[test]
fn an_annotated_image_has_the_level_verity_only_with_its_annotated_digests() {
    let directory = tempfile::tempdir().unwrap();
    let (store, image) = baked(directory.path(), true);
    let sources = || image.open(&store).unwrap();
    let good = measured(&sources());
    assert_eq!(good.len(), 3);
    let checked = by_verity(&image, &store, sources(), good.clone()).unwrap();
    assert_eq!(
        (checked.level, checked.memo),
        (Level::Verity, Memo::NotNeeded)
    );
    let tree = image.verify(&store, &sources(), false).unwrap().tree_digest;
    assert_eq!(checked.tree_digest, tree);
    for (place, name) in ["tree image", "layer 1", "layer 2"].into_iter().enumerate() {
        let mut other = good.clone();
        other[place] = Digest::sha256(b"another file");
        let refused = by_verity(&image, &store, sources(), other).err().unwrap();
        assert_eq!(refused.what, name);
        assert!(
            refused.why.contains("the manifest's verity annotation is"),
            "{refused}"
        );
    }
    let mut swapped = good;
    swapped.swap(1, 2);
    assert!(by_verity(&image, &store, sources(), swapped).is_err());
}

#[test]
fn the_measured_digests_must_be_those_of_the_hashed_bytes() {
    let directory = tempfile::tempdir().unwrap();
    for verity in [false, true] {
        let (store, image) = baked(directory.path(), verity);
        let good = measured(&image.open(&store).unwrap());
        for place in 0..good.len() {
            let mut other = good.clone();
            other[place] = Digest::sha256(b"another file");
            let sources = image.open(&store).unwrap();
            let refused = hash_measured(&image, &store, &sources, other)
                .err()
                .unwrap();
            assert!(refused.why.contains("its bytes give"), "{place}: {refused}");
        }
    }
}

#[test]
fn a_file_without_verity_is_named_and_cannot_have_that_level() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let (store, image) = baked(directory.path(), true);
    let why = measures(&image.open(&store).unwrap()).unwrap().unwrap_err();
    assert_eq!(why, "fs-verity is not turned on for tree image");
    let refused = check(&image, &store, Demand::Verity).err().unwrap();
    assert_eq!(refused.what, "--integrity verity");
}
