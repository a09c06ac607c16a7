//! What came out of a run: the numbers, and three ways to read them (JSON, a terminal table, a page).

mod chart;
mod charts;
mod columns;
pub mod csv;
mod heat_map;
pub mod html;
mod line_charts;
pub mod logit_offset;
mod markup;
mod notes;
pub mod results;
mod rows;
pub mod svg;
pub mod table;
mod traffic_chart;
pub mod units;
