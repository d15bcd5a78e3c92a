//! What clients do with images.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use crate::support::dice::Dice;

/// How many images there are.
pub const IMAGES: usize = 6;
/// The name of the one that is made of a directory.
pub const IMPORTED: &str = "chaos/imported:1";
/// One name more, which images take from one another.
pub const MORE: &str = "chaos/more:1";

/// The name of the image of this number.
pub fn name(number: usize) -> String {
    format!("chaos/image-{number}:1")
}

/// What a client is asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deed {
    Load(usize),
    LoadStream(usize),
    Import,
    Save(usize),
    Tag(usize),
    Remove(usize),
    RemoveImported,
    Prune,
    PruneAll,
}

impl Deed {
    pub fn any(dice: &mut Dice) -> Self {
        let number = usize::try_from(dice.below(IMAGES as u64)).unwrap();
        match dice.below(26) {
            0..=6 => Self::Load(number),
            7..=10 => Self::LoadStream(number),
            11..=13 => Self::Import,
            14..=17 => Self::Save(number),
            18 => Self::Tag(number),
            19..=21 => Self::Remove(number),
            22 => Self::RemoveImported,
            23..=24 => Self::Prune,
            _ => Self::PruneAll,
        }
    }

    /// Whether it brings an image of this name.
    pub fn brings(&self, of: &str) -> bool {
        match self {
            Self::Load(number) | Self::LoadStream(number) => name(*number) == of,
            Self::Import => of == IMPORTED,
            _ => false,
        }
    }

    /// Whether it takes this name away.
    pub fn removes(&self, of: &str) -> bool {
        match self {
            Self::Remove(number) => name(*number) == of,
            Self::RemoveImported => of == IMPORTED,
            Self::PruneAll => true,
            _ => false,
        }
    }

    /// The client that does it: `sandpen` makes a command of arguments, `shared` is where archives are.
    pub fn command(&self, sandpen: impl FnOnce(&[&str]) -> Command, shared: &Path) -> Command {
        let path = |below: &str| shared.join(below).to_str().unwrap().to_owned();
        let (root, saved) = (path("root"), path("saved/archive.tar"));
        let (archive, name) = match self {
            Self::Load(number)
            | Self::LoadStream(number)
            | Self::Save(number)
            | Self::Tag(number)
            | Self::Remove(number) => (path(&number.to_string()), name(*number)),
            _ => (String::new(), String::new()),
        };
        let args: &[&str] = match self {
            Self::Load(_) => &["load", &archive],
            Self::LoadStream(_) => &["load", "-"],
            Self::Import => &["import", &root, IMPORTED],
            Self::Save(_) => &["save", "-o", &saved, &name],
            Self::Tag(_) => &["tag", &name, MORE],
            Self::Remove(_) => &["rm", &name],
            Self::RemoveImported => &["rm", IMPORTED],
            Self::Prune => &["prune", "-f"],
            Self::PruneAll => &["prune", "-f", "-a"],
        };
        let mut command = sandpen(&[&["image"], args].concat());
        if matches!(self, Self::LoadStream(_)) {
            command.stdin(File::open(&archive).unwrap());
        }
        command
    }
}
