use rayon::ThreadPoolBuilder;

use super::*;

/// A small bench on made-up features: five devices of 40 samples, three classes.
fn options(methods: &[Method]) -> BenchOptions {
    BenchOptions {
        source: Source::Synthetic { spec: "synthetic:8x3".parse().unwrap(), samples_per_device: 40 },
        imbalance: Some(10.0),
        partition: Partition::GlobalPrior,
        alpha: 1.0,
        devices: 5,
        participants: None,
        rounds: 4,
        seeds: vec![0, 1],
        methods: methods.to_vec(),
        settings: Vec::new(),
        grid: Vec::new(),
        logit_offset: LogitOffsetOptions::default(),
        folds: 1,
        encoding: Encoding::F32,
        command: "fleet bench".into(),
    }
}

fn run_here(options: &BenchOptions) -> Report {
    run(options, &Shutdown::manual(), &|_| ()).unwrap()
}

#[test]
fn every_method_runs_and_says_what_it_did() {
    let report = run_here(&options(&Method::ALL));
    assert_eq!(report.runs.len(), 2 * Method::ALL.len());
    for run in &report.runs {
        let method: Method = run.method.parse().unwrap();
        let rounds = if method.is_one_shot() { 1 } else { 4 };
        assert_eq!(run.balanced_accuracy_by_round.len(), rounds, "{method}");
        assert_eq!(run.tail_accuracy_by_round.len(), rounds, "{method}");
        assert_eq!(run.balanced_accuracy_by_round.last(), Some(&run.balanced_accuracy), "{method}");
        assert!(run.balanced_accuracy > 0.2 && run.head_digest.len() == 64, "{method}: {}", run.balanced_accuracy);
        assert!(run.bytes_per_device_by_round.is_sorted(), "{method}");
        let total = run.bytes_up_per_device.unwrap() + run.bytes_down_per_device.unwrap();
        assert!(total > *run.bytes_per_device_by_round.last().unwrap(), "{method} delivers its final head");
    }
    assert_eq!(report.arguments["methods"].as_array().unwrap().len(), Method::ALL.len());
    assert_eq!(report.test_class_counts, [20, 20, 20]);
    assert_eq!(report.class_counts.iter().sum::<u64>(), 200);
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let options = BenchOptions { participants: Some(4), ..options(&[Method::RedGrape, Method::LogitAdjusted]) };
    let on = |threads| {
        let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let report = pool.install(|| run_here(&options));
        let results = report.runs.iter().map(|run| (run.head_digest.clone(), run.accuracy_by_class.clone()));
        results.collect::<Vec<_>>()
    };
    let alone = on(1);
    assert_eq!(alone, on(3));
    // More threads than devices in a round: runs go on side by side.
    assert_eq!(alone, on(9));
    assert_ne!(alone[0].0, alone[1].0, "seeds differ");
}

#[test]
fn hyper_parameters_are_chosen_on_held_out_training_samples_for_each_method() {
    let grid = vec!["learning_rate=0.000001,0.1".parse().unwrap(), "lambda=0.1,1".parse().unwrap()];
    let searched = BenchOptions { grid, ..options(&[Method::FedAvg, Method::RedGrape, Method::Ncm]) };
    let report = run_here(&searched);
    let of = |name: &str| report.trials.iter().filter(|trial| trial.method == name).collect::<Vec<_>>();
    assert_eq!([of("fedavg").len(), of("redgrape").len(), of("ncm").len()], [2, 4, 0]);
    for name in ["fedavg", "redgrape"] {
        let chosen: Vec<_> = of(name).into_iter().filter(|trial| trial.chosen).collect();
        assert_eq!(chosen.len(), 1, "{name}");
        assert!(of(name).iter().all(|trial| trial.validation_accuracy <= chosen[0].validation_accuracy));
        assert_eq!(chosen[0].validation_accuracy_by_seed.len(), 2);
    }
    // More folds, other held-out samples.
    let folded = run_here(&BenchOptions { folds: 5, ..searched.clone() });
    assert_eq!(folded.trials.len(), report.trials.len());
    assert_eq!(folded.trials[0].validation_accuracy_by_seed.len(), 2);
    assert_ne!(folded.trials[1].validation_accuracy, report.trials[1].validation_accuracy);
    // What was chosen is run as if it had been given.
    let chosen = of("fedavg").into_iter().find(|trial| trial.chosen).unwrap();
    let settings = vec![format!("learning_rate={}", chosen.values["learning_rate"]).parse().unwrap()];
    let given = run_here(&BenchOptions { settings, ..options(&[Method::FedAvg]) });
    assert_eq!(report.runs[0].head_digest, given.runs[0].head_digest);
    assert_eq!((report.runs[0].chosen.join(" "), report.runs[4].chosen.len()), ("learning_rate".to_owned(), 0));
}

#[test]
fn encodings_cost_bytes_or_digits() {
    let of = |encoding| run_here(&BenchOptions { encoding, ..options(&[Method::RedGrape]) }).runs.swap_remove(0);
    let (exact, half, int8) = (of(Encoding::F32), of(Encoding::F16), of(Encoding::Int8));
    assert!(exact.bytes_up_per_device > half.bytes_up_per_device);
    assert!(half.bytes_up_per_device > int8.bytes_up_per_device);
    assert_ne!(exact.head_digest, half.head_digest);
    assert!((exact.balanced_accuracy - half.balanced_accuracy).abs() < 0.1);
}

#[test]
fn redgrape_plus_asks_everybody_once_and_reads_no_learning_rate() {
    let all = options(&[Method::RedGrapePlus]);
    let run = |options: &BenchOptions| run_here(options).runs.swap_remove(0);
    let (whole, some) = (run(&all), run(&BenchOptions { participants: Some(1), ..all.clone() }));
    assert_eq!(run(&BenchOptions { participants: Some(5), ..all.clone() }).head_digest, whole.head_digest);
    assert_eq!(some.balanced_accuracy_by_round[0], whole.balanced_accuracy_by_round[0]);
    assert_ne!(some.head_digest, whole.head_digest);
    // Sums and the first gradient are of everybody; after that a fifth answers.
    let (whole_up, some_up) = (whole.bytes_up_per_device.unwrap(), some.bytes_up_per_device.unwrap());
    assert!(some_up < whole_up && some_up > whole_up / 5, "{some_up} of {whole_up}");
    assert!(!whole.hyper_parameters.contains_key("learning_rate"));
    let unread = BenchOptions { settings: vec!["learning_rate=0.01".parse().unwrap()], ..all.clone() };
    assert!(matches!(super::run(&unread, &Shutdown::manual(), &|_| ()), Err(BenchError::Unread(_))));
}

#[test]
fn participants_pay_and_everybody_gets_the_head() {
    let all = run_here(&options(&[Method::FedAvg])).runs.swap_remove(0);
    let some = BenchOptions { participants: Some(1), ..options(&[Method::FedAvg]) };
    let some = run_here(&some).runs.swap_remove(0);
    assert_eq!(some.participation, "1 of 5");
    let (all_up, some_up) = (all.bytes_up_per_device.unwrap(), some.bytes_up_per_device.unwrap());
    assert!(some_up < all_up / 2 && some_up > all_up / 10, "{some_up} of {all_up}");
    assert!(some.bytes_down_per_device.unwrap() > 4 * 27, "the final head is 27 numbers");
}

#[test]
fn what_cannot_work_is_refused() {
    let base = options(&[Method::FedAvg]);
    let refusal = |options: BenchOptions| run(&options, &Shutdown::manual(), &|_| ()).unwrap_err().to_string();
    for (changed, expected) in [
        (BenchOptions { devices: 1, ..base.clone() }, "a fleet of 1: give --devices at least 2"),
        (BenchOptions { participants: Some(6), ..base.clone() }, "6 participants of 5 devices"),
        (BenchOptions { methods: vec![], ..base.clone() }, "no method to run"),
        (BenchOptions { seeds: vec![], ..base.clone() }, "no seed to run"),
        (
            BenchOptions { grid: vec!["lambda=1,2".parse().unwrap()], ..base.clone() },
            "no method of this bench reads `lambda`",
        ),
        (
            BenchOptions { settings: vec!["mu=1".parse().unwrap()], ..base.clone() },
            "no method of this bench reads `mu`",
        ),
        (BenchOptions { settings: vec!["learning_rate=-1".parse().unwrap()], ..base.clone() }, "`learning_rate` is -1"),
        (BenchOptions { alpha: 0.0, ..base.clone() }, "alpha 0: give a number from"),
        (BenchOptions { imbalance: Some(0.5), ..base.clone() }, "imbalance ratio 0.5"),
    ] {
        let line = refusal(changed);
        assert!(line.contains(expected), "{line}");
    }
}

#[test]
fn a_stop_keeps_what_is_over() {
    let shutdown = Shutdown::manual();
    let report = run(&options(&[Method::FedAvg, Method::Ncm]), &shutdown, &|progress| {
        if matches!(progress, Progress::Ran { .. }) {
            shutdown.request();
        }
    });
    let report = report.unwrap();
    assert!(report.stopped && !report.runs.is_empty() && report.runs.len() < 4, "{}", report.runs.len());
    let result = run(&options(&[Method::FedAvg]), &shutdown, &|_| ());
    assert!(matches!(result, Err(BenchError::Stopped)), "{result:?}");
}

#[test]
fn a_warm_start_and_a_mean_are_for_methods_that_train() {
    let plain = run_here(&options(&[Method::FedAvg, Method::Lda]));
    let warm = run_here(&BenchOptions {
        settings: set(&["init=lda", "averaged=true"]),
        ..options(&[Method::FedAvg, Method::Lda])
    });
    assert_ne!(plain.runs[0].head_digest, warm.runs[0].head_digest);
    assert_eq!(plain.runs[2].head_digest, warm.runs[2].head_digest);
    assert_eq!(warm.runs[0].hyper_parameters["init"], "lda");
    assert_eq!(warm.runs[0].balanced_accuracy_by_round.len(), 4);
}

#[test]
fn a_logit_offset_is_the_head_with_another_tau_and_compares_with_every_rival() {
    let logit_offset = LogitOffsetOptions { methods: vec![Method::Lda], taus: vec![0.0, 0.5] };
    let report = run_here(&BenchOptions { logit_offset, ..options(&[Method::FedAvg, Method::Lda, Method::Ncm]) });
    let [logit_offset] = &report.logit_offsets[..] else { panic!("{:?}", report.logit_offsets) };
    let balanced = |report: &Report, method: &str| {
        report.rows().into_iter().find(|row| row.mean.method == method).unwrap().mean.balanced_accuracy
    };
    assert!((logit_offset.balanced_accuracy[0] - balanced(&report, "lda")).abs() < 1e-12);
    let turned = run_here(&BenchOptions { settings: vec!["tau=0.5".parse().unwrap()], ..options(&[Method::Lda]) });
    assert!((logit_offset.balanced_accuracy[1] - balanced(&turned, "lda")).abs() < 1e-12);
    assert!(
        logit_offset.head_accuracy[1] >= logit_offset.head_accuracy[0]
            && logit_offset.validation_head_accuracy.len() == 2
    );
    let rivals: Vec<&str> = logit_offset.against.iter().map(|against| against.rival.as_str()).collect();
    assert_eq!(rivals, ["fedavg", "ncm"]);
    for against in &logit_offset.against {
        let position = logit_offset.taus.iter().position(|tau| *tau == against.tau).unwrap();
        assert_eq!(against.balanced_accuracy, logit_offset.balanced_accuracy[position]);
        assert!((against.rival_balanced_accuracy - balanced(&report, &against.rival)).abs() < 1e-12);
    }
    assert!(report.trials.is_empty(), "nothing was chosen but taus");
    // What is asked of the logit offset changes no run.
    let plain = run_here(&options(&[Method::FedAvg, Method::Lda, Method::Ncm]));
    let digests = |report: &Report| report.runs.iter().map(|run| run.head_digest.clone()).collect::<Vec<_>>();
    assert_eq!(digests(&plain), digests(&report));
}

fn set(assignments: &[&str]) -> Vec<Assignment> {
    assignments.iter().map(|text| text.parse().unwrap()).collect()
}
