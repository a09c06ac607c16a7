//! `product plain|tiled TIMES`: does the matrix product so many times, for whoever counts instructions around it.
//! `product`: the shortest time of each and their ratio.
#![forbid(unsafe_code)]

use std::env;
use std::hint::black_box;
use std::time::Instant;

use grapevine_nostd_check::product::Work;

fn main() {
    let work = Work::new();
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        [] => compare(&work),
        [kind @ ("plain" | "tiled"), times] => {
            let times: u32 = times.parse().expect("TIMES is a number");
            for _ in 0..times {
                black_box(result(black_box(&work), kind == "tiled"));
            }
        }
        _ => panic!("say: product [plain|tiled TIMES]"),
    }
}

fn compare(work: &Work) {
    assert_eq!(work.plain(), work.tiled(), "the two products classify alike");
    let [plain, tiled] = [false, true].map(|tiled| shortest(|| result(black_box(work), tiled)));
    println!("plain {:.1} us, tiled {:.1} us, {:.1} times", plain * 1e6, tiled * 1e6, plain / tiled);
}

fn result(work: &Work, tiled: bool) -> f64 {
    if tiled { work.tiled() } else { work.plain() }
}

fn shortest(mut work: impl FnMut() -> f64) -> f64 {
    let mut once = || {
        let start = Instant::now();
        black_box(work());
        start.elapsed().as_secs_f64()
    };
    (0..300).map(|_| once()).fold(f64::INFINITY, f64::min)
}
