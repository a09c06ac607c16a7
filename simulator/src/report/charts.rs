//! The charts of one condition: the same series in each, so that a method looks the same everywhere.

use super::chart::{Series, legend};
use super::line_charts::{accuracy_by_class, accuracy_by_round};
use super::results::{Report, Row};
use super::traffic_chart::accuracy_by_bytes;

/// The rows of a condition, partition and participation, ready to be drawn.
pub(super) struct Charts<'a> {
    report: &'a Report,
    rows: Vec<(usize, Row)>,
}

impl<'a> Charts<'a> {
    pub(super) fn of(report: &'a Report, (partition, participation): &(String, String)) -> Self {
        let rows = report.rows();
        let mut methods: Vec<String> = Vec::new();
        for row in &rows {
            if !methods.contains(&row.mean.method) {
                methods.push(row.mean.method.clone());
            }
        }
        let look = |row: &Row| methods.iter().position(|method| *method == row.mean.method).unwrap_or(0);
        let within = |row: &Row| row.mean.partition == *partition && row.mean.participation == *participation;
        Self { report, rows: rows.into_iter().filter(within).map(|row| (look(&row), row)).collect() }
    }

    /// The methods with their marks, as HTML.
    pub(super) fn legend(&self) -> String {
        legend(&self.series(|row| &row.mean.balanced_accuracy_by_round))
    }

    pub(super) fn by_round(&self) -> String {
        accuracy_by_round(self.report, &self.series(|row| &row.mean.balanced_accuracy_by_round))
    }

    pub(super) fn by_class(&self) -> String {
        accuracy_by_class(self.report, &self.series(|row| &row.mean.accuracy_by_class))
    }

    /// `None` where traffic was not counted round by round.
    pub(super) fn by_bytes(&self) -> Option<String> {
        let bytes: Vec<Vec<u64>> =
            self.rows.iter().map(|(_, row)| row.mean.bytes_per_device_by_round.clone()).collect();
        let series = self.series(|row| &row.mean.balanced_accuracy_by_round);
        let counted = series.iter().zip(&bytes).all(|(one, bytes)| one.values.len() == bytes.len());
        (counted && !series.is_empty()).then(|| accuracy_by_bytes(&series, &bytes))
    }

    /// One series for each row, in percent.
    pub(super) fn series(&self, values: fn(&Row) -> &[f64]) -> Vec<Series> {
        let one = |(look, row): &(usize, Row)| Series {
            name: row.mean.method.clone(),
            look: *look,
            values: values(row).iter().map(|share| 100.0 * share).collect(),
        };
        self.rows.iter().map(one).collect()
    }
}
