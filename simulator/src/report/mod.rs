//! What came out of a run: the numbers, and three ways to read them (JSON, a terminal table, a page).

mod chart;
mod heat_map;
pub mod html;
mod line_charts;
mod markup;
mod notes;
pub mod results;
pub mod table;
pub mod units;
