//! Tables for people, one JSON document for programs, and how far it is.

use std::io::{self, IsTerminal, Write};

use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Map, Value};

/// What a workload measured: one row for each engine and setting, the same for people and programs.
pub struct Section {
    pub name: &'static str,
    pub title: String,
    /// Names of the columns. Those of text come first.
    pub columns: &'static [&'static str],
    pub rows: Vec<Vec<Value>>,
}

impl Section {
    /// A list of objects, one for each row; what was not measured is left out.
    pub fn to_json(&self) -> Value {
        let object = |row: &Vec<Value>| -> Value {
            let fields = self
                .columns
                .iter()
                .zip(row)
                .filter(|(_, value)| !value.is_null());
            let fields = fields.map(|(name, value)| ((*name).to_owned(), value.clone()));
            Value::Object(fields.collect::<Map<_, _>>())
        };
        self.rows.iter().map(object).collect()
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(self.columns.iter().map(|name| name.replace('_', " ")));
        for (number, column) in table.column_iter_mut().enumerate() {
            if self.rows.iter().any(|row| row[number].is_number()) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        for row in &self.rows {
            table.add_row(row.iter().map(cell));
        }
        table
    }

    pub fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "\n{}\n", self.title)?;
        for line in self.table().lines() {
            writeln!(
                out,
                "{}",
                line.strip_prefix(' ').unwrap_or(&line).trim_end()
            )?;
        }
        Ok(())
    }
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => number.to_string(),
        Value::Number(number) => grouped(&number.to_string()),
        other => other.to_string(),
    }
}

/// Digits with a comma before every third.
pub fn grouped(digits: &str) -> String {
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number with as many digits as it deserves.
pub fn number(value: f64) -> Value {
    if value < 100.0 {
        ((value * 100.0).round() / 100.0).into()
    } else {
        (value.round() as u64).into()
    }
}

/// The one in the middle; `None` of nothing.
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// A progress bar on standard error, if that is a terminal.
pub fn progress(steps: usize) -> ProgressBar {
    let target = if io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(Some(steps as u64), target);
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} {eta} {msg}");
    bar.with_style(style.expect("the template is valid"))
}
