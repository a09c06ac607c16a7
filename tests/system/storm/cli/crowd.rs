//! What many devices and many rounds cost.

use core::error::Error;
use core::time::Duration;
use std::sync::LazyLock;
use std::time::Instant;

use clap::Args;
use grapevine_host::{Answer, memory};
use grapevine_models::Shape;
use grapevine_tests::storm::{Crowd as Fleet, Instruments, Meter, Plan, RoundEnd};
use serde_json::json;

use crate::ALLOCATOR;

/// Options of `crowd`.
#[derive(Debug, Args)]
pub(super) struct Crowd {
    /// Devices on the one aggregator.
    #[arg(long, value_name = "COUNT", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    devices: u32,
    /// Rounds.
    #[arg(long, value_name = "COUNT", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    #[command(flatten)]
    head: Head,
}

/// Options of `soak`.
#[derive(Debug, Args)]
pub(super) struct Soak {
    /// Devices on the one aggregator.
    #[arg(long, value_name = "COUNT", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    devices: u32,
    /// Rounds; the first tenth warms up.
    #[arg(long, value_name = "COUNT", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    rounds: u32,
    #[command(flatten)]
    head: Head,
}

#[derive(Debug, Args)]
struct Head {
    /// Classes of the head.
    #[arg(long, value_name = "COUNT", default_value_t = 10)]
    classes: usize,
    /// Features of the head.
    #[arg(long, value_name = "COUNT", default_value_t = 64)]
    features: usize,
}

pub(super) fn crowd(arguments: &Crowd, json: bool) -> Result<Answer, Box<dyn Error>> {
    let mut fleet = fleet(arguments.devices, arguments.rounds, &arguments.head)?;
    let (mut last, mut seconds) = (None, Vec::new());
    let mut began = Instant::now();
    while let Some(end) = fleet.next_round()? {
        seconds.push(began.elapsed().as_secs_f64());
        began = Instant::now();
        last = Some(end);
    }
    let RoundEnd { merged, aggregator, devices, .. } = last.ok_or("no round was merged")?;
    let machine_seconds = aggregator.time.as_secs_f64() / merged as f64;
    let mean = seconds.iter().sum::<f64>() / seconds.len() as f64;
    let resident = memory::peak_bytes().unwrap_or(0);
    if json {
        return Ok(Answer::text(format!(
            "{}\n",
            json!({
                "devices": arguments.devices, "rounds": merged, "seconds_per_round": mean, "round_seconds": seconds,
                "aggregator_seconds_per_round": machine_seconds, "aggregator_peak_bytes": aggregator.peak_bytes,
                "devices_peak_bytes": devices.peak_bytes, "process_peak_bytes": resident,
            })
        )));
    }
    Ok(Answer::text(format!(
        "{} devices, {merged} rounds: {mean:.3} s per round with all devices' work, {machine_seconds:.3} s of it in the \
         aggregator's machine\n\
         aggregator's machine: {} at most; all devices' machines: {} at most; this process: {} at most\n",
        arguments.devices,
        mebibytes(aggregator.peak_bytes),
        mebibytes(devices.peak_bytes),
        mebibytes(resident as i64),
    )))
}

pub(super) fn soak(arguments: &Soak, json: bool) -> Result<Answer, Box<dyn Error>> {
    let mut fleet = fleet(arguments.devices, arguments.rounds, &arguments.head)?;
    let warm = u64::from(arguments.rounds / 10);
    let (mut warmed, mut last) = (None, None);
    while let Some(end) = fleet.next_round()? {
        if end.merged == warm {
            // From here on, peaks are looked for anew.
            fleet.forget_peaks();
            warmed = Some(end);
        }
        last = Some(end);
    }
    let (Some(warmed), Some(last)) = (warmed, last) else { return Err("too few rounds were merged".into()) };
    let aggregator = last.aggregator.peak_bytes - warmed.aggregator.peak_bytes;
    let devices = last.devices.peak_bytes - warmed.devices.peak_bytes;
    let text = if json {
        let report = json!({
            "devices": arguments.devices, "rounds": last.merged, "virtual_seconds": last.time.as_secs_f64(),
            "aggregator_growth_bytes": aggregator, "devices_growth_bytes": devices,
            "aggregator_peak_bytes": last.aggregator.peak_bytes, "devices_peak_bytes": last.devices.peak_bytes,
        });
        format!("{report}\n")
    } else {
        format!(
            "{} devices, {} rounds, {:.1} h of virtual time; growth of the peaks after {warm} rounds: aggregator {aggregator} \
             bytes, devices {devices} bytes (peaks {} and {})\n",
            arguments.devices,
            last.merged,
            last.time.as_secs_f64() / 3_600.0,
            mebibytes(last.aggregator.peak_bytes),
            mebibytes(last.devices.peak_bytes),
        )
    };
    Ok(Answer::text(text))
}

fn fleet(devices: u32, rounds: u32, head: &Head) -> Result<Fleet, Box<dyn Error>> {
    let shape = Shape::new(head.classes, head.features)?;
    let instruments = Instruments {
        current: || ALLOCATOR.current_usage(),
        peak: || ALLOCATOR.peak_usage(),
        reset_peak: || ALLOCATOR.reset_peak_usage(),
        clock,
    };
    Ok(Fleet::new(Plan::calm(1, devices as usize, shape, rounds), Meter::new(instruments)))
}

fn clock() -> Duration {
    static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);
    STARTED.elapsed()
}

fn mebibytes(bytes: i64) -> String {
    format!("{:.2} MiB", bytes as f64 / f64::from(1 << 20))
}
