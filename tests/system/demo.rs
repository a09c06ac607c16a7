//! The demo and its promises, on the embedded broker and on mosquitto.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail loudly and say what it saw")]

use grapevine_aggregator::config::DEFAULT_METHOD;
use grapevine_host::{BrokerAddress, Shutdown};
use grapevine_models::Method;
use grapevine_simulator::data::partition::Partition;
use grapevine_simulator::demo::{self, DIGITS_ROUNDS, DemoOptions, Source};
use grapevine_simulator::report::results::{Report, Run, verdicts};
use grapevine_tests::mosquitto::Mosquitto;

fn options(methods: &[Method], rounds: u32, seed: u64) -> DemoOptions {
    DemoOptions {
        source: Source::Digits,
        devices: 10,
        participants: None,
        rounds,
        methods: methods.to_vec(),
        imbalance: Some(50.0),
        alpha: 1.0,
        partition: Partition::GlobalPrior,
        seed,
        broker: None,
        lambda: None,
        command: "fleet demo".into(),
    }
}

fn run(options: &DemoOptions) -> Report {
    demo::run(options, &Shutdown::manual(), &mut |_| ()).unwrap()
}

fn of(report: &Report, method: Method) -> &Run {
    report.runs.iter().find(|run| run.method == method.name()).expect("the method ran")
}

#[test]
fn redgrape_lifts_the_tail_on_three_seeds() {
    for seed in 0..3 {
        let report = run(&options(&[Method::FedAvg, Method::RedGrape, Method::Lda], DIGITS_ROUNDS, seed));
        let (plain, redgrape, lda) =
            (of(&report, Method::FedAvg), of(&report, Method::RedGrape), of(&report, Method::Lda));
        println!(
            "seed {seed}: balanced (tail) fedavg {:.1} ({:.1}), redgrape {:.1} ({:.1}), lda {:.1} ({:.1})",
            100.0 * plain.balanced_accuracy,
            100.0 * plain.tail_accuracy,
            100.0 * redgrape.balanced_accuracy,
            100.0 * redgrape.tail_accuracy,
            100.0 * lda.balanced_accuracy,
            100.0 * lda.tail_accuracy
        );
        assert!(redgrape.tail_accuracy >= plain.tail_accuracy + 0.25);
        assert!(redgrape.balanced_accuracy >= plain.balanced_accuracy + 0.08);
        assert!(lda.balanced_accuracy > plain.balanced_accuracy);
        assert_eq!(redgrape.balanced_accuracy_by_round.len(), DIGITS_ROUNDS as usize);
    }
}

/// What `fleet demo` shows first: the default method beside what it is compared with, and it is not behind on the tail.
#[test]
fn the_default_method_is_the_best_of_the_demo_on_the_tail() {
    let methods = [Method::FedAvg, Method::RedGrape, Method::Lda, DEFAULT_METHOD];
    let report = run(&options(&methods, DIGITS_ROUNDS, 0));
    let default = of(&report, DEFAULT_METHOD);
    for run in &report.runs {
        println!("{}: {:.1} (tail {:.1})", run.method, 100.0 * run.balanced_accuracy, 100.0 * run.tail_accuracy);
        assert!(default.tail_accuracy >= run.tail_accuracy, "{}", run.method);
        assert!(default.balanced_accuracy >= run.balanced_accuracy - 0.01, "{}", run.method);
    }
    let said = verdicts(&report).join(" ");
    assert!(said.contains("On the tail classes the default method, redgrape-plus, has "), "{said}");
}

#[test]
fn mosquitto_and_the_embedded_broker_give_the_same_head() {
    let Some(mosquitto) = Mosquitto::start() else {
        return println!("skipped: mosquitto is not installed");
    };
    let methods = [Method::FedAvg, Method::RedGrape, Method::RedGrapeLive, Method::LogitAdjusted, Method::Ridge];
    let embedded = run(&options(&methods, 3, 5));
    let broker = Some(BrokerAddress::new("127.0.0.1", mosquitto.port));
    let external = run(&DemoOptions { broker, ..options(&methods, 3, 5) });
    for (a, b) in embedded.runs.iter().zip(&external.runs) {
        assert_eq!(a.head_digest, b.head_digest, "{}", a.method);
        assert_eq!(a.head_digest.len(), 64);
    }
}

#[test]
fn partial_participation_and_the_ablations_run() {
    let methods = [Method::RedGrapeNoPrototypes, Method::RedGrapeNoSupplementary, Method::Ncm];
    let report = run(&DemoOptions { participants: Some(4), ..options(&methods, 3, 1) });
    for run in &report.runs {
        assert_eq!(run.participation, "4 of 10");
        assert!(run.balanced_accuracy > 0.2, "{}: {}", run.method, run.balanced_accuracy);
    }
}

#[test]
fn a_stop_ends_the_demo() {
    let shutdown = Shutdown::manual();
    let mut rounds = 0;
    let result = demo::run(&options(&[Method::FedAvg], 10_000, 0), &shutdown, &mut |progress| {
        if let demo::Progress::Round { .. } = progress {
            rounds += 1;
            shutdown.request();
        }
    });
    assert!(matches!(result, Err(demo::DemoError::Stopped)), "{result:?}");
    assert!(rounds >= 1);
}
