//! Chaos by seed: microVMs and processes write numbered lines at full rate, while daemons, waiters, VMMs and an
//! embedding service are killed, actors panic, the disk is filled, and sandboxes come and go. After each round
//! everything that must be true is checked (see `checks`).
//!
//! ```text
//!   plan (seed, round) ─▶ steps ─▶ actions ─▶ the real thing
//!                                     │             │
//!                                     ▼             ▼
//!                          world: what must be ─▶ settle, checks ─▶ report
//! ```
//!
//! Beside it, the store of images (see `images`), pulling them over a bad line (see `pulls`), commands beside the workload
//! (see `sessions`), and files that come and go (see `copies`).
//!
//! `CHAOS_ROUNDS` and `CHAOS_SEED` say how long and which; `make chaos` passes them. What a seed repeats
//! are the steps and their pauses; how far the system is at each of them depends on the machine.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod actions;
mod checks;
mod control;
mod copies;
mod daemon;
mod images;
mod lines;
mod pair;
mod plan;
mod pulls;
mod report;
mod service;
mod sessions;
mod settle;
#[path = "../support/mod.rs"]
mod support;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Instant;

use actions::Chaos;

/// Rounds and seed of a run that nobody chose: a part of all tests.
const ROUNDS: u64 = 4;
const SEED: u64 = 1;

fn number(variable: &str, otherwise: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) if !text.is_empty() => text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")),
        _ => otherwise,
    }
}

#[test]
fn nothing_is_lost_doubled_stale_or_left() {
    let (rounds, seed) = (number("CHAOS_ROUNDS", ROUNDS), number("CHAOS_SEED", SEED));
    println!("make chaos ROUNDS={rounds} SEED={seed}");
    let started = Instant::now();
    let mut chaos = Chaos::new(seed);
    for round in 1..=rounds {
        let done = catch_unwind(AssertUnwindSafe(|| chaos.round(round)));
        if let Err(panic) = done {
            chaos.explain(round);
            resume_unwind(panic);
        }
    }
    let mut report = chaos.end();
    report.print(seed, rounds, started.elapsed());
}

#[test]
fn images_are_whole_or_not_there_whoever_dies() {
    let (rounds, seed) = (number("CHAOS_ROUNDS", ROUNDS), number("CHAOS_SEED", SEED));
    println!("make chaos ROUNDS={rounds} SEED={seed}, images");
    let started = Instant::now();
    let mut images = images::Images::new(seed);
    (1..=rounds).for_each(|round| images.round(round));
    images.end();
    println!(
        "images, seed {seed}: {rounds} rounds in {:.0} s; nothing half, lost or left",
        started.elapsed().as_secs_f64()
    );
    for (what, count) in &images.counts {
        println!("  {count:>6} {what}");
    }
}

#[test]
fn pulls_go_on_whoever_dies() {
    if !support::registry::has_all() {
        return;
    }
    let (rounds, seed) = (number("CHAOS_ROUNDS", ROUNDS), number("CHAOS_SEED", SEED));
    println!("make chaos ROUNDS={rounds} SEED={seed}, pulls");
    let started = Instant::now();
    let mut pulls = pulls::Pulls::new(seed);
    (1..=rounds).for_each(|round| pulls.round(round));
    let report = pulls.end();
    println!("pulls, seed {seed}: {rounds} rounds in {:.0} s; {report}", started.elapsed().as_secs_f64());
}

#[test]
fn sessions_lose_nothing_whoever_dies() {
    let (rounds, seed) = (number("CHAOS_ROUNDS", ROUNDS), number("CHAOS_SEED", SEED));
    println!("make chaos ROUNDS={rounds} SEED={seed}, sessions");
    let started = Instant::now();
    let mut sessions = sessions::Sessions::new(seed);
    (1..=rounds).for_each(|round| sessions.round(round));
    let report = sessions.end();
    println!("sessions, seed {seed}: {rounds} rounds in {:.0} s; {report}", started.elapsed().as_secs_f64());
}

#[test]
fn files_are_whole_or_not_there_whoever_dies() {
    let (rounds, seed) = (number("CHAOS_ROUNDS", ROUNDS), number("CHAOS_SEED", SEED));
    println!("make chaos ROUNDS={rounds} SEED={seed}, copies");
    let started = Instant::now();
    let mut copies = copies::Copies::new(seed);
    (1..=rounds).for_each(|round| copies.round(round));
    let report = copies.end();
    println!("copies, seed {seed}: {rounds} rounds in {:.0} s; {report}", started.elapsed().as_secs_f64());
}

#[test]
fn a_seed_repeats_its_steps_and_others_differ() {
    for round in 1..50 {
        assert_eq!(plan::round(7, round), plan::round(7, round));
        assert_ne!(plan::round(7, round), plan::round(8, round));
        assert_ne!(plan::round(7, round), plan::round(7, round + 1));
    }
}
