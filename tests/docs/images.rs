//! What is told of work with images.

use std::collections::BTreeSet;

use sandpen::api::ImageStep;

use super::{Words, code_words, read, section};

#[test]
fn the_steps_of_layers_and_images() {
    let page = read("docs/http-api.md");
    let section = section(&page, "### Images");
    let documented: Words = code_words(section)
        .into_iter()
        .filter(|word| word.starts_with("layer_") || word.starts_with("image_done"))
        .collect();
    let word = |step: &ImageStep| serde_json::to_value(step).unwrap().as_str().unwrap().to_owned();
    assert_eq!(documented, ImageStep::ALL.iter().map(word).collect::<BTreeSet<_>>());
}
