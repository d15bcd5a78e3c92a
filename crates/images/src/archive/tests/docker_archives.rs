use super::*;

fn docker(images: &Value) -> Tar {
    Tar::default().file("manifest.json", images.to_string())
}

/// One image of one layer.
fn simple(config_name: &str, layer: &str) -> Tar {
    docker(&json!([{"Config": config_name, "RepoTags": ["app:1"], "Layers": [layer]}])).file("config", config(&["one"]))
}

#[test]
fn images_of_old_and_new_archives_are_read_and_share_layers_by_links() {
    let (a, b) = (config(&["one", "two"]), config(&["one"]));
    let images = json!([
        {"Config": format!("{}.json", hex(&a)), "RepoTags": ["app", "app:2"],
         "Layers": ["A/layer.tar", "./B/layer.tar"]},
        {"Config": "old", "RepoTags": null, "Layers": ["C/layer.tar"]},
        {"Config": blob(config(&[])), "RepoTags": [], "Layers": null},
        {"Config": "old", "RepoTags": ["b:x"], "Layers": [blob("one")]},
    ]);
    let archive = docker(&images)
        .entry(EntryType::Directory, "A/", "", &[])
        .file("./A/layer.tar", "one")
        .file("B/layer.tar", "two")
        .link("C/layer.tar", "../A/layer.tar")
        .file("old", &b)
        .file(&format!("{}.json", hex(&a)), &a)
        .file(&blob(config(&[])), config(&[]))
        .file(&blob("one"), "one")
        .open()
        .unwrap();
    let images = archive.images(&platform("linux/arm64")).unwrap();
    let names: Vec<Vec<_>> =
        images.iter().map(|image| image.names.iter().map(ImageReference::familiar).collect()).collect();
    assert_eq!(names, [vec!["app:latest", "app:2"], vec!["b:x"], vec![]]);
    let contents: Vec<Vec<_>> =
        images.iter().map(|image| image.layers.iter().map(|layer| content(&archive, layer)).collect()).collect();
    assert_eq!(contents, [vec!["one", "two"], vec!["one"], vec![]]);
    assert_eq!((images[0].config.as_slice(), images[0].config_digest), (a.as_bytes(), digest_of(a.as_bytes())));
    assert_eq!((images[1].layers[0].blob, images[1].layers[0].size, &images[1].manifest), (None, 3, &None));
    assert_eq!(images[1].layers[0].diff_id, digest_of(b"one"));
}

#[test]
fn layers_are_read_side_by_side() {
    let layers = ["one".repeat(50_000), "two".repeat(50_000)];
    let layers = layers.each_ref().map(String::as_str);
    let images = json!([{"Config": "c", "Layers": ["1", "2"]}]);
    let archive = docker(&images).file("c", config(&layers)).file("1", layers[0]).file("2", layers[1]).open().unwrap();
    let image = archive.images(&platform("linux/amd64")).unwrap().remove(0);
    assert_eq!(image.layers[0].blob, None);
    std::thread::scope(|scope| {
        for (layer, expected) in image.layers.iter().zip(layers).cycle().take(6) {
            let mut reader = archive.open_layer(layer).unwrap();
            scope.spawn(move || assert_eq!(io::read_to_string(&mut reader).unwrap(), expected));
        }
    });
}

#[test]
fn paths_that_lead_out_or_nowhere_are_refused() {
    for path in ["../../etc/passwd", "/etc/passwd", "a/../b", "", "a//b", "\0", "a/"] {
        assert!(simple("config", path).refused().contains("leads out of the archive"), "{path:?}");
        assert!(simple(path, "one").file("one", "one").refused().contains("leads out of the archive"), "{path:?}");
    }
    for (target, expected) in [
        ("../../one", "the name \"../../one\" leads out"),
        ("/one", "the name \"/one\" leads out"),
        ("../none", "\"none\" is not in the archive"),
        ("layer.tar", "is a link to a link"),
        ("..", "\"\" is not in the archive"),
    ] {
        let error = simple("config", "a/layer.tar").file("one", "one").link("a/layer.tar", target).refused();
        assert!(error.starts_with("image \"app:1\": ") && error.contains(expected), "{target}: {error}");
    }
    for (kind, expected) in [
        (EntryType::Link, "is a hard link and not a file"),
        (EntryType::Directory, "is a directory and not a file"),
        (EntryType::Char, "is a device or a pipe and not a file"),
    ] {
        let error = simple("config", "one").entry(kind, "one", "config", &[]).refused();
        assert!(error.contains(expected), "{error}");
    }
    let error = simple("config", "one").file("one", "one").file("./one", "two").refused();
    assert!(error.contains("\"one\" is in the archive twice"), "{error}");
    let twice = docker(&json!([])).file("manifest.json", "[]").refused();
    assert!(twice.contains("\"manifest.json\" is in the archive twice"), "{twice}");
    assert!(simple("config", "one").file("other", "1").file("other", "2").file("one", "one").images().is_ok());
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let name = format!("{}.json", hex("other"));
    let lying = simple(&name, "one").file(&name, config(&["one"])).file("one", "one").refused();
    assert!(lying.contains("has another digest, sha256:"), "{lying}");
    let count = docker(&json!([{"Config": "c", "Layers": ["one", "one"]}]));
    let count = count.file("c", config(&["one"])).file("one", "one").refused();
    let expected = "image number 1, without a name: its configuration names 1 layers, but the archive has 2 for it";
    assert_eq!(count, expected);
    let many = docker(&json!([{"Config": "c", "Layers": vec!["x"; 128]}])).refused();
    assert!(many.contains("[0].Layers is wrong: a list of more than 127"), "{many}");
    let tag = |tag: &str| {
        let tags = json!([{"Config": "c", "RepoTags": [tag], "Layers": []}]);
        docker(&tags).file("c", config(&[])).refused()
    };
    assert!(tag("Up\u{1b}per").contains("\"Up\\u{1b}per\" is no name of an image"), "{}", tag("Up\u{1b}per"));
    assert!(tag(&format!("a@sha256:{}", "00".repeat(32))).contains("has not the digest in that name"));
    let same = json!([{"Config": "c", "RepoTags": ["a"]}, {"Config": "d", "RepoTags": ["docker.io/library/a:latest"]}]);
    let same = docker(&same).file("c", config(&[])).file("d", format!("{} ", config(&[]))).refused();
    assert_eq!(
        same,
        "two images in it are called \"docker.io/library/a:latest\", and nothing says which of them counts"
    );
}

#[test]
fn what_is_no_archive_of_images_says_what_it_is() {
    assert!(Tar::default().file("etc/passwd", "root").refused().contains("docker export does not"));
    assert!(Tar::default().file("repositories", "{}").refused().contains("Docker before 1.10"));
    assert!(docker(&json!([])).refused().contains("without an image"));
    let html = Tar::default().file("manifest.json", "<html>").refused();
    assert_eq!(html, "\"manifest.json\" cannot be read: it is no JSON object or list: it begins with \"<html>\"");
    let object = docker(&json!({})).refused();
    assert!(object.contains("the document is wrong: invalid type: map, expected a list"), "{object}");
    let large = Tar::default().file("manifest.json", vec![b' '; 5 << 20]).refused();
    assert!(large.contains("\"manifest.json\" has 5242880 bytes, and at most 4194304"), "{large}");
    let images: Vec<_> = (0..1025).map(|_| json!({"Config": "c"})).collect();
    assert!(docker(&images.into()).refused().contains("a list of more than 1024"));
    // Each of them is short enough.
    let images: Vec<_> = (0..10).map(|n| json!({"Config": n.to_string()})).collect();
    let config = |n: i32| format!("{}{}", config(&[]), " ".repeat(4_000_000 + usize::try_from(n).unwrap()));
    let many = (0..10).fold(docker(&images.into()), |tar, n| tar.file(&n.to_string(), config(n))).refused();
    assert!(many.contains("have more than 33554432 bytes together"), "{many}");
}
