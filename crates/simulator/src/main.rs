//! Runs schedules: `paystream-simulator [FIRST SEED] [HOW MANY]`, by default 100,000 from a fresh
//! seed on. Prints what the first bad one shows, with its seed, and exits with 1.

use std::{io::Write as _, process::ExitCode};

fn main() -> ExitCode {
    let mut numbers = std::env::args().skip(1).map(|word| word.parse::<u64>());
    let (Ok(first), Ok(count)) = (
        numbers.next().unwrap_or_else(|| Ok(paystream_simulator::fresh_seed())),
        numbers.next().unwrap_or(Ok(100_000)),
    ) else {
        eprintln!("usage: paystream-simulator [FIRST SEED] [HOW MANY]");
        return ExitCode::from(2);
    };
    for seed in (0..count).map(|number| first.wrapping_add(number)) {
        let wrong = paystream_simulator::run(seed, None);
        if !wrong.is_empty() {
            eprintln!("seed {seed}:\n  {}", wrong.join("\n  "));
            return ExitCode::FAILURE;
        }
    }
    let said = writeln!(std::io::stdout(), "{count} schedules from seed {first} on hold");
    if said.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
