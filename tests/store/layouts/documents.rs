//! Faults in documents: indexes, manifests and configs.

use super::*;

#[test]
fn a_ref_that_is_missing_or_names_two_images_is_refused() {
    let host = host!();
    let layout = Layout::new(host.path("layout"));
    let one = layout.add_image(&[&small()], Packing::Plain);
    let two = layout.add_image(&[&tar(&[("a", "2")])], Packing::Plain);
    let import =
        |reference: &str| host.imrun(["import", &format!("{}{reference}", layout.source())]);
    layout.publish(&[named(one.clone(), "v1"), named(two.clone(), "v2")]);
    import(":v3").refused("has no ref \"v3\", only v1, v2");
    import("")
        .refused("has several images: v1, v2")
        .hints(":NAME");
    layout.publish(&[named(one.clone(), "v1"), named(two, "v1")]);
    import(":v1")
        .refused("\"v1\" names several images: @0 (sha256:")
        .hints("@DIGEST");
    layout.publish(&[named(one.clone(), "v1"), named(one, "v1")]);
    import(":v1").exits(0);
}

#[test]
fn an_index_without_a_suitable_image_or_nested_too_deeply_is_refused() {
    let arch = Platform::host().architecture;
    let here = |descriptor| on(descriptor, "linux", &arch);
    let image = |layout: &Layout| layout.add_image(&[&small()], Packing::Plain);
    let nested = |layout: &Layout, depth: usize| {
        let deeper = |inner, _| here(layout.add_index(&[inner]));
        publish(layout, (0..depth).fold(here(image(layout)), deeper));
    };
    if let Some(outcome) = import(|layout| nested(layout, 4)) {
        outcome.exits(0);
    }
    let other = |layout: &Layout| {
        publish(
            layout,
            layout.add_index(&[on(image(layout), "linux", "s390x")]),
        )
    };
    let attestation = |layout: &Layout| {
        publish(
            layout,
            layout.add_index(&[on(image(layout), "unknown", "unknown")]),
        );
    };
    refuse(&[
        (
            "deep",
            &|l| nested(l, 5),
            "leads through more than 4 nested indexes",
        ),
        (
            "deeper",
            &|l| nested(l, 50),
            "leads through more than 4 nested indexes",
        ),
        ("other platform", &other, "has no image for linux/"),
        (
            "attestations alone",
            &attestation,
            "has no image for linux/",
        ),
    ]);
}

#[test]
fn every_document_that_is_not_an_image_for_this_host_is_refused_with_the_reason() {
    let artifact = |l: &Layout| {
        let config = l.add("application/vnd.oci.empty.v1+json", b"{}");
        let mut manifest = layout::manifest(&config, &[]);
        manifest["artifactType"] = json!("application/vnd.example.sbom");
        publish(l, l.add_json(MANIFEST, &manifest));
    };
    let schema_1 = |l: &Layout| {
        let manifest = json!({ "schemaVersion": 1, "fsLayers": [], "signatures": [] });
        publish(l, l.add_json(MANIFEST, &manifest));
    };
    refuse(&[
        (
            "artifact",
            &artifact,
            "is an artifact (application/vnd.example.sbom)",
        ),
        (
            "windows",
            &|l| with_config(l, |c| c["os"] = json!("windows")),
            "runs only linux images",
        ),
        (
            "other",
            &|l| with_config(l, |c| c["architecture"] = json!("s390x")),
            "is an image for linux/s390x",
        ),
        ("schema 1", &schema_1, "schema 1"),
        (
            "encrypted",
            &|l| {
                with_layer(l, |d| {
                    d["mediaType"] = json!(format!("{LAYER}+gzip+encrypted"))
                })
            },
            "encrypted",
        ),
        (
            "unknown",
            &|l| with_layer(l, |d| d["mediaType"] = json!("text/plain")),
            "text/plain",
        ),
    ]);
}

#[test]
fn invalid_sizes_and_digests_are_refused() {
    let size = |size: Value| move |l: &Layout| with_layer(l, |d| d["size"] = size.clone());
    let digest = |make: &'static dyn Fn(&str) -> String| {
        move |l: &Layout| {
            with_layer(l, |d| {
                d["digest"] = json!(make(d["digest"].as_str().unwrap()))
            })
        }
    };
    refuse(&[
        ("smaller", &size(json!(1)), "its descriptor says 1"),
        (
            "larger",
            &size(json!(1_u64 << 40)),
            "its descriptor says 1099511627776",
        ),
        ("negative", &size(json!(-1)), "size"),
        ("fractional", &size(json!(1.5)), "size"),
        ("text", &size(json!("12")), "size"),
        ("null", &size(Value::Null), "size"),
        (
            "upper case",
            &digest(&|text| text.to_uppercase().replace("SHA", "sha")),
            "digest",
        ),
        (
            "short",
            &digest(&|text| text[..text.len() - 1].into()),
            "64 hex digits",
        ),
        (
            "md5",
            &digest(&|_| "md5:d41d8cd98f00b204e9800998ecf8427e".into()),
            "neither sha256 nor sha512",
        ),
        (
            "climbing",
            &digest(&|_| "sha256:../../../../etc/passwd".into()),
            "64 hex digits",
        ),
    ]);
}

#[test]
fn ambiguous_documents_are_refused() {
    let raw = |change: &'static dyn Fn(String) -> String| {
        move |l: &Layout| {
            let layer = l.add_layer(&small(), Packing::Gzip);
            let config = l.add_json(CONFIG, &layout::config(&[&small()]));
            let text = layout::manifest(&config, &[layer]).to_string();
            publish(l, l.add(MANIFEST, change(text).as_bytes()));
        }
    };
    let twice = raw(&|text| text.replacen('{', "{\"schemaVersion\":2,", 1));
    let as_index = |l: &Layout| {
        let mut manifest = layout::manifest(&l.add_json(CONFIG, &layout::config(&[])), &[]);
        manifest["mediaType"] = json!(INDEX);
        publish(l, l.add_json(MANIFEST, &manifest));
    };
    refuse(&[
        (
            "both",
            &|l| with_manifest(l, |m| m["manifests"] = json!([])),
            "both \"manifests\"",
        ),
        ("other type", &as_index, ", expected "),
        ("twice", &twice, "schemaVersion"),
        (
            "other case",
            &raw(&|text| text.replace("\"config\"", "\"Config\"")),
            "config",
        ),
        (
            "no version",
            &|l| with_manifest(l, |m| m["schemaVersion"] = json!(3)),
            "schemaVersion",
        ),
        ("trailing", &raw(&|text| text + "{}"), "manifest sha256:"),
        (
            "a list",
            &raw(&|text| format!("[{text}]")),
            "manifest sha256:",
        ),
        (
            "huge",
            &raw(&|text| text + &" ".repeat(5 << 20)),
            "larger than",
        ),
    ]);
}

#[test]
fn layers_that_differ_from_the_configs_diff_ids_are_refused() {
    let other = Digest::sha256(&tar(&[("etc/a", "2")]));
    let ids =
        |ids: Value| move |l: &Layout| with_config(l, |c| c["rootfs"]["diff_ids"] = ids.clone());
    let own = Digest::sha256(&small());
    refuse(&[
        ("other", &ids(json!([other])), "diff_id"),
        (
            "none",
            &ids(json!([])),
            "has 0 diff_ids, but its manifest has 1 layers",
        ),
        (
            "two",
            &ids(json!([own, own])),
            "has 2 diff_ids, but its manifest has 1 layers",
        ),
        (
            "upper case",
            &ids(json!([own.to_string().to_uppercase()])),
            "diff_ids",
        ),
        (
            "type",
            &|l| with_config(l, |c| c["rootfs"]["type"] = json!("squashfs")),
            "other than \"layers\"",
        ),
    ]);
}
