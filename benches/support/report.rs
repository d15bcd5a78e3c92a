//! What every benchmark does with its figures: a table on the terminal, and with `OUT=DIR` the same as
//! JSON and as a bar chart, `DIR/NAME.json` and `DIR/NAME.svg`.

use std::fmt::Write as _;
use std::path::PathBuf;

/// The middle of some numbers; of an even count the lower one of the two.
pub fn median(numbers: &[f64]) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}

/// One measured thing in one case.
pub struct Row {
    /// What the work was.
    pub case: String,
    /// Who did it.
    pub who: String,
    /// One number for each column and run.
    pub runs: Vec<Vec<f64>>,
}

impl Row {
    fn median(&self, column: usize) -> f64 {
        let numbers: Vec<_> = self.runs.iter().filter_map(|run| run.get(column).copied()).collect();
        median(&numbers)
    }
}

/// A benchmark's figures.
pub struct Report {
    /// Names the files.
    pub name: &'static str,
    /// Headings, with their units.
    pub columns: Vec<&'static str>,
    /// In the order in which they are shown.
    pub rows: Vec<Row>,
}

impl Report {
    /// Nothing yet.
    pub fn new(name: &'static str, columns: &[&'static str]) -> Self {
        Self { name, columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds one run's numbers.
    pub fn add(&mut self, case: &str, who: &str, run: Vec<f64>) {
        match self.rows.iter_mut().find(|row| row.case == case && row.who == who) {
            Some(row) => row.runs.push(run),
            None => self.rows.push(Row { case: case.to_owned(), who: who.to_owned(), runs: vec![run] }),
        }
    }

    /// Prints the table of medians and writes the files.
    pub fn publish(&self) -> std::io::Result<()> {
        println!("\n| case | who | {} |", self.columns.join(" | "));
        println!("| --- | --- |{}", " --- |".repeat(self.columns.len()));
        for row in &self.rows {
            let cells: Vec<_> = (0..self.columns.len()).map(|column| short(row.median(column))).collect();
            println!("| {} | {} | {} |", row.case, row.who, cells.join(" | "));
        }
        let Some(directory) = std::env::var_os("OUT").map(PathBuf::from) else { return Ok(()) };
        std::fs::create_dir_all(&directory)?;
        let rows: Vec<_> = self
            .rows
            .iter()
            .map(|row| serde_json::json!({ "case": row.case, "who": row.who, "runs": row.runs }))
            .collect();
        let json = serde_json::json!({ "name": self.name, "columns": self.columns, "rows": rows });
        std::fs::write(directory.join(format!("{}.json", self.name)), serde_json::to_vec_pretty(&json)?)?;
        std::fs::write(directory.join(format!("{}.svg", self.name)), self.chart())
    }

    /// One bar for each row and column, each column to its own scale.
    fn chart(&self) -> String {
        const ROW: usize = 18;
        const LABEL: usize = 260;
        const BAR: usize = 220;
        let width = LABEL + self.columns.len() * (BAR + 80);
        let height = ROW * (self.rows.len() + 2);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n"
        );
        let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;");
        for (number, column) in self.columns.iter().enumerate() {
            let x = LABEL + number * (BAR + 80);
            let most =
                self.rows.iter().map(|row| row.median(number)).filter(|value| value.is_finite()).fold(0.0, f64::max);
            let _ = writeln!(svg, "<text x=\"{x}\" y=\"14\" font-weight=\"bold\">{}</text>", escape(column)); // a String takes everything
            for (line, row) in self.rows.iter().enumerate() {
                let (y, value) = (ROW * (line + 1), row.median(number));
                if number == 0 {
                    let _ = writeln!(
                        svg,
                        "<text x=\"0\" y=\"{}\">{}, {}</text>",
                        y + 13,
                        escape(&row.case),
                        escape(&row.who)
                    );
                }
                let length = if most > 0.0 && value.is_finite() {
                    value / most * f64::from(u16::try_from(BAR).unwrap_or(u16::MAX))
                } else {
                    0.0
                };
                let colour = if row.who.starts_with("sandpen") { "#2266cc" } else { "#999999" };
                let _ = writeln!(
                    svg,
                    "<rect x=\"{x}\" y=\"{}\" width=\"{length:.1}\" height=\"12\" fill=\"{colour}\"/>",
                    y + 3
                );
                let _ = writeln!(
                    svg,
                    "<text x=\"{:.1}\" y=\"{}\">{}</text>",
                    f64::from(u32::try_from(x).unwrap_or(u32::MAX)) + length + 4.0,
                    y + 13,
                    short(value)
                );
            }
        }
        svg.push_str("</svg>\n");
        svg
    }
}

/// Three or so digits that count.
fn short(value: f64) -> String {
    match value.abs() {
        _ if !value.is_finite() => "–".to_owned(),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
