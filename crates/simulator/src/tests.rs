//! Fresh schedules hold, one seed is one schedule, and every planted breakage is caught.

use super::*;

/// Schedules of one test run.
const FRESH: u64 = 500;
/// Within so many schedules each breakage must show.
const CAUGHT_WITHIN: u64 = 2_000;

#[test]
fn fresh_schedules_hold() {
    let given = std::env::var("PAYSTREAM_SEED").ok().and_then(|seed| seed.parse().ok());
    let first = given.unwrap_or_else(fresh_seed);
    eprintln!("schedules from seed {first} on");
    for seed in (0..FRESH).map(|number| first.wrapping_add(number)) {
        let wrong = run(seed, None);
        assert!(wrong.is_empty(), "PAYSTREAM_SEED={seed} shows:\n{}", wrong.join("\n"));
    }
}

#[test]
fn the_same_seed_is_the_same_schedule() {
    for seed in 0..CAUGHT_WITHIN {
        let broken = run(seed, Some(Breakage::NoFence));
        assert_eq!(broken, run(seed, Some(Breakage::NoFence)), "{seed}");
        if !broken.is_empty() {
            return;
        }
    }
    panic!("nothing to compare");
}

#[test]
fn every_planted_breakage_is_caught() {
    for breakage in Breakage::ALL {
        let caught = (0..CAUGHT_WITHIN).find(|seed| !run(*seed, Some(breakage)).is_empty());
        eprintln!("{breakage:?} is caught by seed {caught:?}");
        assert!(caught.is_some(), "{breakage:?} is not caught");
    }
}
