//! Layers over one another.

use super::*;
use crate::tree::{Tree, TreeError};

/// The paths of all names, with the number of names of what they lead to.
fn names(tree: &Tree) -> Vec<String> {
    let mut names = tree.paths();
    names.sort();
    names
}

fn merged(layers: Vec<Archive>) -> Result<Vec<String>, TreeError> {
    let mut tree = Tree::new();
    for layer in layers {
        tree.apply(&layer.unpack().unwrap().list())?;
    }
    Ok(names(&tree))
}

#[test]
fn layers_are_put_over_one_another() {
    let archive = Archive::default;
    let base =
        || archive().directory("d/").file("d/a", b"1").file("d/b", b"2").link(b'1', "d/c", "d/a").file("e/f/g", b"");
    assert_eq!(merged(vec![base()]).unwrap(), ["d", "d/a", "d/b", "d/c", "e", "e/f", "e/f/g"]);
    let hidden = archive().file("d/.wh.a", b"").file(".wh.e", b"");
    assert_eq!(merged(vec![base(), hidden]).unwrap(), ["d", "d/b", "d/c"]);
    // In whatever order, what hides is of the layers below.
    let opaque = archive().file("d/new", b"").file("d/.wh..wh..opq", b"").file("d/a", b"");
    assert_eq!(merged(vec![base(), opaque]).unwrap(), ["d", "d/a", "d/new", "e", "e/f", "e/f/g"]);
    let replaced = archive().file("d", b"now a file").directory("e/").directory("d2/");
    assert_eq!(merged(vec![base(), replaced]).unwrap(), ["d", "d2", "e", "e/f", "e/f/g"]);
    // A directory that comes again has nothing of what was in it.
    let (gone, again) = (archive().file(".wh.d", b""), archive().directory("d/").file("d/z", b""));
    assert_eq!(merged(vec![base(), gone.clone(), again]).unwrap(), ["d", "d/z", "e", "e/f", "e/f/g"]);
    // Links on the way lead inside, also those that would lead out; a link to a file below is one.
    let linked = || archive().link(b'2', "l", "../../d").link(b'2', "abs", "/e");
    let through = archive().file("l/x", b"").file("abs/y", b"").link(b'1', "hard", "d/b").file("l/.wh.a", b"");
    let all = ["abs", "d", "d/b", "d/c", "d/x", "e", "e/f", "e/f/g", "e/y", "hard", "l"];
    assert_eq!(merged(vec![base(), linked(), through]).unwrap(), all);
    for (layer, what) in [
        (archive().link(b'1', "h", "nothing"), TreeProblem::LinkToNothing),
        (archive().file("d/.wh.a", b"").link(b'1', "h", "d/a"), TreeProblem::LinkToNothing),
        (archive().file("d/a/below", b""), TreeProblem::BelowFile),
        (archive().link(b'1', "h", "d"), TreeProblem::LinkToDirectory),
    ] {
        let error = merged(vec![base(), layer]).unwrap_err();
        assert!(matches!(error, TreeError::Entry { problem, .. } if problem == what), "{error:?}");
    }
}

/// What a directory has taken the place of is not followed to what its marks hide.
#[test]
fn marks_are_not_followed_over_links_that_their_layer_replaces() {
    let archive = Archive::default;
    let base = || {
        let base = archive().directory("b/").directory("b/sub/").file("b/sub/kept", b"").file("b/kept", b"");
        base.link(b'2', "a", "b").link(b'2', "to a", "a").link(b'2', "round", "round")
    };
    let kept = ["b", "b/kept", "b/sub", "b/sub/kept"];
    let with = |more: &[&str]| {
        let mut names: Vec<String> = kept.iter().chain(more).map(|name| (*name).to_owned()).collect();
        names.sort();
        names
    };
    let replaced = || archive().directory("a/").directory("a/sub/");
    for layer in [
        replaced().file("a/.wh..wh..opq", b"").file("a/sub/.wh..wh..opq", b""),
        archive().file("a/sub/.wh..wh..opq", b"").file("a/.wh.kept", b"").directory("a/").directory("a/sub/"),
        replaced().file(".wh.a", b"").file("a/sub/.wh.kept", b""),
    ] {
        let names = merged(vec![base(), layer]).unwrap();
        assert_eq!(names, with(&["a", "a/sub", "round", "to a"]));
    }
    // Nor over one that leads there, and not round in circles.
    let others = archive().file("a", b"").file("to a/sub/.wh.kept", b"").directory("round/").file("round/.wh.x", b"");
    let names = merged(vec![base(), others]).unwrap();
    assert_eq!(names, with(&["a", "round", "to a"]));
    // One that stays leads where it did.
    let stays = archive().file("a/sub/.wh.kept", b"").link(b'2', "a", "b");
    assert_eq!(merged(vec![base(), stays]).unwrap(), ["a", "b", "b/kept", "b/sub", "round", "to a"]);
    let stays = archive().file("to a/sub/.wh..wh..opq", b"");
    assert_eq!(merged(vec![base(), stays]).unwrap(), ["a", "b", "b/kept", "b/sub", "round", "to a"]);
}

/// What was hidden once is not looked at by each mark that comes.
#[test]
fn marks_of_a_directory_do_not_look_at_what_has_gone() {
    let archive = Archive::default;
    let base = (0..1000).fold(archive().directory("d/"), |base, n| base.file(&format!("d/{n}"), b""));
    let marks = archive().file("d/.wh.1", b"").file("d/.wh..wh..opq", b"").file("d/new", b"");
    let mut tree = Tree::new();
    for layer in [base, marks.clone(), marks] {
        tree.apply(&layer.unpack().unwrap().list()).unwrap();
    }
    assert_eq!((names(&tree), tree.linked()), (vec!["d".to_owned(), "d/new".to_owned()], 2));
}

/// Long ways over links, each of which is allowed.
#[test]
fn ways_that_are_too_long_together_are_refused() {
    let archive = Archive::default;
    let target = format!("{}0", "./".repeat(40));
    let link =
        |archive: Archive, n: u32| archive.link(b'2', &format!("l{n}"), &target.replace('0', &format!("l{}", n - 1)));
    let links = || (1..30).fold(archive().directory("l0/"), link);
    let (few, many) = (100, 1000);
    let files = |archive, count| (0..count).fold(archive, |archive: Archive, n| archive.file(&format!("l29/{n}"), b""));
    assert!(files(links(), few).unpack().is_ok());
    assert_eq!(tree_problem(files(links(), many)).1, TreeProblem::Steps);
    let marks = (0..many).fold(archive(), |archive, n| archive.file(&format!("l29/.wh.{n}"), b""));
    let error = merged(vec![links(), marks]).unwrap_err();
    assert!(matches!(error, TreeError::Entry { problem: TreeProblem::Steps, .. }), "{error:?}");
}
