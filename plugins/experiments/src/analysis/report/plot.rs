//! Plots as SVG, drawn with the colours of the page.

use std::fmt::Write;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 280.0;
const LEFT: f64 = 64.0;
/// Half of a mark as wide as `100 %` or a date has to fit.
const RIGHT: f64 = 32.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 40.0;

/// A plot with two axes.
pub(super) struct Plot {
    x: [f64; 2],
    y: [f64; 2],
    body: String,
    title: String,
}

impl Plot {
    /// A plot of these ranges; `title` is read out in its stead.
    pub(super) fn new(title: &str, x: [f64; 2], y: [f64; 2]) -> Self {
        let wide = |[low, high]: [f64; 2]| if high > low { [low, high] } else { [low - 0.5, low + 0.5] };
        Self { x: wide(x), y: wide(y), body: String::new(), title: title.into() }
    }

    fn at(&self, x: f64, y: f64) -> (f64, f64) {
        let [left, right] = self.x;
        let [low, high] = self.y;
        let across = LEFT + (x - left) / (right - left) * (WIDTH - LEFT - RIGHT);
        (across, HEIGHT - BOTTOM - (y - low) / (high - low) * (HEIGHT - TOP - BOTTOM))
    }

    /// A line through points, in the colour of a series.
    pub(super) fn line(&mut self, points: impl IntoIterator<Item = (f64, f64)>, class: &str) {
        let points: Vec<_> = points
            .into_iter()
            .map(|(x, y)| {
                let (x, y) = self.at(x, y);
                format!("{x:.1},{y:.1}")
            })
            .collect();
        let _ = writeln!(self.body, r#"<polyline class="{class}" points="{}"/>"#, points.join(" "));
    }

    /// A point.
    pub(super) fn dot(&mut self, x: f64, y: f64, class: &str) {
        let (x, y) = self.at(x, y);
        let _ = writeln!(self.body, r#"<circle class="{class}" cx="{x:.1}" cy="{y:.1}" r="3"/>"#);
    }

    /// A bar from the lower end of the plot.
    pub(super) fn bar(&mut self, x: f64, half: f64, y: f64, class: &str) {
        let ((left, top), (right, bottom)) = (self.at(x - half, y), self.at(x + half, self.y[0]));
        let _ = writeln!(
            self.body,
            r#"<rect class="{class}" x="{left:.1}" y="{top:.1}" width="{:.1}" height="{:.1}"/>"#,
            right - left,
            (bottom - top).max(0.0)
        );
    }

    /// Marks on the axis below, each at a place with a text.
    pub(super) fn below(&mut self, marks: impl IntoIterator<Item = (f64, String)>) {
        for (x, text) in marks {
            let (x, _) = self.at(x, 0.0);
            let y = HEIGHT - BOTTOM + 18.0;
            let _ = writeln!(self.body, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="middle">{}</text>"#, escape(&text));
        }
    }

    /// Marks on the left axis.
    pub(super) fn left(&mut self, show: impl Fn(f64) -> String) {
        let [low, high] = self.y;
        for step in 0..=4 {
            let value = low + (high - low) * f64::from(step) / 4.0;
            let (_, y) = self.at(self.x[0], value);
            let (right, text) = (WIDTH - RIGHT, escape(&show(value)));
            let _ = writeln!(
                self.body,
                r#"<line class="grid" x1="{LEFT}" y1="{y:.1}" x2="{right}" y2="{y:.1}"/><text x="{:.1}" y="{:.1}" text-anchor="end">{text}</text>"#,
                LEFT - 6.0,
                y + 4.0
            );
        }
    }

    pub(super) fn svg(self) -> String {
        let title = escape(&self.title);
        format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\"><title>{title}</title>\n{}</svg>\n",
            self.body
        )
    }
}

/// Text as HTML and SVG have it.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

/// At most eight of many, the first and the last among them.
pub(super) fn some<T>(items: &[T]) -> impl Iterator<Item = (usize, &T)> {
    let step = items.len().div_ceil(8).max(1);
    let last = items.len().saturating_sub(1);
    items.iter().enumerate().filter(move |(index, _)| index % step == 0 && last - index >= step / 2 || *index == last)
}
