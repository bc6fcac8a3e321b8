//! Selecting one image of several by platform, name or tag.

use super::*;

/// Returns an index entry for a platform, with a digest made from `seed`.
fn entry(platform: &str, seed: &str) -> Value {
    let mut entry = descriptor(OCI_MANIFEST);
    entry["digest"] = Digest::sha256(seed.as_bytes()).to_string().into();
    let parts: Vec<&str> = platform.split('/').collect();
    if let [os, architecture, ..] = parts[..] {
        entry["platform"] = json!({"os": os, "architecture": architecture});
    }
    if let Some(variant) = parts.get(2) {
        entry["platform"]["variant"] = (*variant).into();
    }
    entry
}

#[test]
fn an_entry_with_an_unsupported_algorithm_matters_only_if_it_is_the_selected_one() {
    const MD5: &str = "md5:d41d8cd98f00b204e9800998ecf8427e";
    let wanted: Platform = "linux/amd64".parse().unwrap();
    let right = entry("linux/amd64", "right");
    let md5 = |platform: &str| with(entry(platform, ""), "/digest", MD5.into());
    let sbom = with(md5(""), "/mediaType", "application/spdx+json".into());
    for other in [
        md5("linux/arm64"),
        md5("unknown/unknown"),
        sbom,
        md5("linux/amd64"),
    ] {
        let index = parse_index(json!([other, right]));
        let selected = index.select(&wanted).unwrap();
        assert_eq!(selected.digest, Digest::sha256(b"right"), "{other}");
        let chosen = index.chosen(&Choice::Only).unwrap();
        assert_eq!(chosen, [selected], "{other}");
    }
    let index = parse_index(json!([md5("linux/amd64"), entry("linux/arm64", "other")]));
    let named = |error: Error| error.why.contains(MD5) && error.why.contains("neither sha256");
    assert!(named(index.select(&wanted).unwrap_err()));
    assert!(named(index.chosen(&Choice::Number(0)).unwrap_err()));
    let missing = index.chosen(&Choice::Name("x".into())).unwrap_err();
    assert!(missing.why.contains(MD5), "{missing}");
    for malformed in ["md5:", "md5", "MD5:00", ":00", "md5:../x", "sha256:00"] {
        let list = json!([right, with(right.clone(), "/digest", malformed.into())]);
        refused(&super::index(list), "digest");
    }
}

#[test]
fn the_entry_of_the_platform_is_selected_as_containerd_does() {
    for (wanted, entries, expected) in [
        (
            "linux/arm64/v8",
            &["linux/amd64", "linux/arm64"][..],
            Some(1),
        ),
        ("linux/arm64", &["linux/arm64/v8", "linux/arm64"], Some(0)),
        ("linux/arm64", &["linux/arm64/v9"], None),
        ("linux/arm64/v9", &["linux/arm64/v8"], Some(0)),
        ("linux/arm64", &["linux/arm/v7"], None),
        (
            "linux/amd64",
            &["linux/amd64/v2", "linux/amd64/v1"],
            Some(1),
        ),
        (
            "linux/amd64/v3",
            &["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"],
            Some(1),
        ),
        (
            "linux/amd64/v3",
            &["linux/amd64", "linux/amd64/v3"],
            Some(1),
        ),
        ("linux/amd64", &["linux/386", "windows/amd64"], None),
        (
            "linux/arm/v7",
            &["linux/arm/v5", "linux/arm/v6", "linux/arm/v8"],
            Some(1),
        ),
        ("linux/arm", &["linux/arm/v7"], Some(0)),
        ("linux/x86_64", &["linux/amd64", "linux/amd64"], Some(0)),
        ("linux/amd64", &["unknown/unknown", "linux/amd64"], Some(1)),
        ("linux/riscv64", &["linux/riscv64"], Some(0)),
        ("linux/amd64", &[""], Some(0)),
        ("linux/amd64", &["unknown/unknown", ""], Some(1)),
        ("linux/amd64", &["", ""], None),
    ] {
        let list: Vec<_> = entries
            .iter()
            .enumerate()
            .map(|(i, p)| entry(p, &i.to_string()))
            .collect();
        let index = parse_index(list.clone().into());
        let selected = index.select(&wanted.parse().unwrap());
        match expected {
            Some(place) => assert_eq!(
                selected.unwrap().digest.to_string(),
                list[place]["digest"],
                "{wanted}"
            ),
            None => assert!(selected.is_err(), "{wanted} of {entries:?}"),
        }
    }
}

#[test]
fn an_index_without_the_platform_lists_those_it_has() {
    let entries = json!([
        entry("linux/arm/v7", "a"),
        entry("unknown/unknown", "b"),
        entry("linux/s390x", "c")
    ]);
    let error = parse_index(entries)
        .select(&"linux/amd64".parse().unwrap())
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "doc: has no image for linux/amd64, only for linux/arm/v7, linux/s390x"
    );
}

#[test]
fn attestations_and_artifacts_in_an_index_are_skipped() {
    let mut attestation = entry("linux/amd64", "a");
    attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
    let mut artifact = entry("linux/amd64", "b");
    artifact["artifactType"] = "text/spdx".into();
    let mut other = entry("linux/amd64", "c");
    other["mediaType"] = "text/plain".into();
    let image = entry("linux/amd64", "d");
    let index = parse_index(json!([attestation, artifact, other, image]));
    let selected = index.select(&"linux/amd64".parse().unwrap()).unwrap();
    assert_eq!(selected.digest, Digest::sha256(b"d"));
    assert_eq!(index.images().count(), 1);
}

#[test]
fn platforms_are_read_and_written_normalised() {
    for (text, normal) in [
        ("linux/amd64", "linux/amd64"),
        ("Linux/AMD64/v1", "linux/amd64"),
        ("linux/x86_64/v3", "linux/amd64/v3"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm64/v8.2", "linux/arm64/v8.2"),
        ("linux/armhf", "linux/arm/v7"),
        ("linux/arm/6", "linux/arm/v6"),
        ("linux/i386", "linux/386"),
    ] {
        assert_eq!(text.parse::<Platform>().unwrap().to_string(), normal);
    }
    for wrong in [
        "",
        "linux",
        "linux/",
        "/amd64",
        "linux/a/b/c",
        "linux/a b",
        "linux/\u{e9}",
    ] {
        assert!(wrong.parse::<Platform>().is_err(), "{wrong:?} was taken");
    }
    assert_eq!(Platform::host().os, "linux");
}

#[test]
fn a_layout_of_another_version_is_refused() {
    assert!(layout::check("l", br#"{"imageLayoutVersion": "1.0.0"}"#).is_ok());
    for wrong in [
        r#"{"imageLayoutVersion": "2.0.0"}"#,
        r#"{"imageLayoutVersion": 1}"#,
        "{}",
        "",
    ] {
        assert!(
            layout::check("l", wrong.as_bytes()).is_err(),
            "{wrong:?} was taken"
        );
    }
}

fn named(name: &str, digest: &str) -> Value {
    let mut entry = descriptor(OCI_MANIFEST);
    entry["digest"] = digest.into();
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
    entry
}

fn layout_index(entries: Value) -> Index {
    let bytes = json!({"schemaVersion": 2, "manifests": entries}).to_string();
    layout::index("l", bytes.as_bytes()).unwrap()
}

fn name(name: &str) -> Choice {
    Choice::Name(name.into())
}

fn chosen(index: &Index, choice: &Choice) -> Vec<String> {
    let entries = index.chosen(choice).unwrap();
    entries
        .iter()
        .map(|entry| entry.digest.to_string())
        .collect()
}

#[test]
fn a_ref_of_a_layout_is_found_by_its_annotation() {
    let index = layout_index(json!([named("a", DIGEST), named("b", OTHER)]));
    assert_eq!(chosen(&index, &name("b")), [OTHER]);
    let missing = index.chosen(&name("c")).unwrap_err();
    assert_eq!(missing.to_string(), "l: has no ref \"c\", only a, b");
    let several = index.ambiguous(&Choice::Only, &index.chosen(&Choice::Only).unwrap());
    assert_eq!(several.to_string(), "l: has several images: a, b");
}

#[test]
fn images_with_the_same_short_ref_are_distinguished_by_their_full_names() {
    let whole = |name: &str, digest: &str| {
        let mut entry = named("latest", digest);
        entry["annotations"]["io.containerd.image.name"] = name.into();
        entry
    };
    let index = layout_index(json!([
        whole("docker.io/library/redis:latest", DIGEST),
        whole("ghcr.io/a/b:latest", OTHER)
    ]));
    for spelled in ["redis", "redis:latest", "docker.io/library/redis:latest"] {
        assert_eq!(chosen(&index, &name(spelled)), [DIGEST]);
    }
    assert_eq!(chosen(&index, &name("ghcr.io/a/b:latest")), [OTHER]);
    let both = index.chosen(&name("latest")).unwrap();
    assert_eq!(
        index.ambiguous(&name("latest"), &both).to_string(),
        "l: the ref \"latest\" names several images: docker.io/library/redis:latest, ghcr.io/a/b:latest"
    );
}

#[test]
fn images_without_a_name_are_chosen_by_position_or_digest() {
    let mut other = entry("linux/arm64", "x");
    other["digest"] = OTHER.into();
    let index = layout_index(json!([descriptor(OCI_MANIFEST), other]));
    assert_eq!(chosen(&index, &Choice::Number(1)), [OTHER]);
    assert_eq!(
        chosen(&index, &Choice::Digest(DIGEST.parse().unwrap())),
        [DIGEST]
    );
    let several = index.ambiguous(&Choice::Only, &index.chosen(&Choice::Only).unwrap());
    let labels = format!("@0 ({DIGEST}), @1 ({OTHER} for linux/arm64)");
    assert_eq!(
        several.to_string(),
        format!("l: has several images: {labels}")
    );
    assert!(several.hint.unwrap().contains(":@NUMBER"));
    let missing = index.chosen(&Choice::Number(2)).unwrap_err().to_string();
    assert_eq!(missing, format!("l: has no image @2, only {labels}"));
}

#[test]
fn a_ref_of_two_manifests_is_ambiguous_and_a_manifest_listed_twice_is_not() {
    let index = layout_index(json!([named("a", DIGEST), named("a", OTHER)]));
    assert_eq!(chosen(&index, &name("a")), [DIGEST, OTHER]);
    let twice = layout_index(json!([
        named("a", DIGEST),
        named("a", DIGEST),
        named("b", DIGEST)
    ]));
    assert_eq!(chosen(&twice, &name("a")), [DIGEST]);
    assert_eq!(chosen(&twice, &Choice::Only), [DIGEST]);
}

#[test]
fn the_only_image_of_a_layout_needs_no_ref() {
    let unknown = entry("unknown/unknown", "x");
    let index = layout_index(json!([unknown, descriptor(OCI_MANIFEST)]));
    assert_eq!(chosen(&index, &Choice::Only), [DIGEST]);
    for none in [json!([]), Value::Null] {
        let error = layout_index(none).chosen(&Choice::Only).unwrap_err();
        assert_eq!(error.to_string(), "l: has no image");
    }
}

#[test]
fn an_entry_whose_artifact_type_is_the_image_configs_is_an_image() {
    for config in [OCI_CONFIG, DOCKER_CONFIG] {
        let mut image = entry("linux/amd64", "a");
        image["artifactType"] = config.into();
        let mut sbom = entry("linux/amd64", "b");
        sbom["artifactType"] = "text/spdx".into();
        let index = layout_index(json!([sbom, image]));
        let expected = Digest::sha256(b"a");
        assert_eq!(chosen(&index, &Choice::Only), [expected.to_string()]);
        let selected = index.select(&"linux/amd64".parse().unwrap()).unwrap();
        assert_eq!(selected.digest, expected);
    }
}

/// Only the manifest itself has the final type.
#[test]
fn an_entry_of_another_artifact_type_is_followed_if_it_is_the_only_one() {
    let mut image = entry("linux/amd64", "a");
    image["artifactType"] = "application/vnd.example+json".into();
    let index = layout_index(json!([image]));
    assert_eq!(chosen(&index, &Choice::Only).len(), 1);
    assert!(index.select(&"linux/amd64".parse().unwrap()).is_ok());
}

fn archive(tags: Value) -> Value {
    json!({"Config": "c.json", "RepoTags": tags, "Layers": ["a/layer.tar", "blobs/sha256/b"]})
}

#[test]
fn a_docker_archive_is_read_and_its_only_image_needs_no_tag() {
    let bytes = json!([archive(Value::Null)]).to_string();
    let entries = archive::parse("a", bytes.as_bytes()).unwrap();
    let entry = archive::select("a", &entries, &Choice::Only).unwrap();
    assert_eq!(
        (entry.config.as_str(), entry.layers.len(), entry.tags.len()),
        ("c.json", 2, 0)
    );
}

#[test]
fn one_of_several_images_in_a_docker_archive_must_be_chosen_by_tag() {
    let bytes = json!([archive(json!(["x:1", "y:1"])), archive(json!(["x:2"]))]).to_string();
    let entries = archive::parse("a", bytes.as_bytes()).unwrap();
    assert_eq!(
        archive::select("a", &entries, &name("x:2")).unwrap(),
        &entries[1]
    );
    let several = archive::select("a", &entries, &Choice::Only).unwrap_err();
    assert_eq!(several.to_string(), "a: has several images: x:1, y:1, x:2");
    let missing = archive::select("a", &entries, &name("z")).unwrap_err();
    assert_eq!(
        missing.to_string(),
        "a: has no ref \"z\", only x:1, y:1, x:2"
    );
    assert_eq!(
        archive::select("a", &[], &Choice::Only)
            .unwrap_err()
            .to_string(),
        "a: has no image"
    );
}

#[test]
fn a_leading_slash_or_dot_slash_is_removed_from_a_members_name() {
    for name in ["a.tar", "/a.tar", "./a.tar", "././/a.tar"] {
        let bytes = json!([{"Config": name, "Layers": [name]}]).to_string();
        let entry = &archive::parse("a", bytes.as_bytes()).unwrap()[0];
        assert_eq!(
            (&*entry.config, &*entry.layers[0]),
            ("a.tar", "a.tar"),
            "{name}"
        );
    }
}

#[test]
fn images_of_a_docker_archive_without_tags_are_chosen_by_position_or_config() {
    let entries = archive::parse(
        "a",
        json!([
            {"Config": format!("{}.json", "1".repeat(64)), "Layers": []},
            {"Config": format!("blobs/sha256/{}", "2".repeat(64)), "Layers": []},
        ])
        .to_string()
        .as_bytes(),
    )
    .unwrap();
    let digest = format!("sha256:{}", "2".repeat(64)).parse().unwrap();
    for choice in [Choice::Number(1), Choice::Digest(digest)] {
        assert_eq!(
            archive::select("a", &entries, &choice).unwrap(),
            &entries[1]
        );
    }
    let several = archive::select("a", &entries, &Choice::Only).unwrap_err();
    assert!(several.to_string().contains("@0 (1111"), "{several}");
    assert!(several.hint.unwrap().contains(":@NUMBER"));
}

#[test]
fn member_names_that_leave_a_docker_archive_are_refused() {
    for name in ["", "/", ".", "../x", "/../x", "a/../../x", "a\0b"] {
        let bytes = json!([{"Config": name, "Layers": []}]).to_string();
        let error = archive::parse("a", bytes.as_bytes()).unwrap_err();
        assert!(
            error.why.contains("cannot name a member"),
            "{name:?}: {error}"
        );
    }
}
