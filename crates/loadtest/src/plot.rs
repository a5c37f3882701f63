//! Plots as SVG: one panel below the other, time, or a number, from left to right.

use std::fmt::Write as _;

use crate::markdown::grouped;
use crate::series::Series;

/// Pixels.
const WIDTH: f64 = 900.0;
const PANEL: f64 = 200.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 40.0;
const GAP: f64 = 48.0;

/// Told apart by those who cannot tell red from green, too (Okabe and Ito).
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

/// Lines of the axis from top to bottom, both ends included.
const TICKS: u32 = 4;

/// Points of a line that are few enough to be marked one by one.
const MARKED: usize = 12;

/// What goes from left to right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Along {
    /// Seconds.
    Time,
    /// A number that the title names.
    Number,
}

/// One plot of all series, a panel for each kind; `None` if there is nothing to be seen.
pub(crate) fn svg(title: &str, along: Along, series: &[Series]) -> Option<String> {
    let series: Vec<&Series> = series.iter().filter(|series| !series.points.is_empty()).collect();
    let mut panels: Vec<&str> = Vec::new();
    for one in &series {
        if !panels.contains(&one.panel.as_str()) {
            panels.push(&one.panel);
        }
    }
    let seconds = || series.iter().flat_map(|series| series.points.iter().map(|point| point.0));
    let (start, end) = (seconds().reduce(f64::min)?, seconds().reduce(f64::max)?);
    let mut text = String::new();
    let mut top = TOP;
    for panel in panels {
        let of_panel: Vec<&Series> = series.iter().copied().filter(|series| series.panel == panel).collect();
        write_panel(&mut text, &Scale::of(&of_panel, along, start, end, top), panel, &of_panel);
        top += PANEL + GAP;
    }
    Some(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {top}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"18\" font-size=\"14\" font-weight=\"bold\">{}</text>\n{text}</svg>\n",
        escape(title)
    ))
}

/// Where a value stands in a panel.
struct Scale {
    along: Along,
    start: f64,
    end: f64,
    /// The value at the upper edge; the lower one is 0.
    most: f64,
    top: f64,
}

impl Scale {
    fn of(series: &[&Series], along: Along, start: f64, end: f64, top: f64) -> Self {
        let values = series.iter().flat_map(|series| series.points.iter().map(|point| point.1));
        let most = round_up(values.fold(0.0, f64::max));
        // One moment has a width too.
        Self { along, start, end: end.max(start + 1.0), most, top }
    }

    fn x(&self, seconds: f64) -> f64 {
        LEFT + (seconds - self.start) / (self.end - self.start) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        self.top + PANEL * (1.0 - value / self.most)
    }

    /// What stands below a line of the axis.
    fn tick(&self, x: f64) -> String {
        match self.along {
            Along::Time => format!("{} s", number(x - self.start)),
            Along::Number => number(x),
        }
    }
}

/// The next of 1, 2, 3, 4, 6, 8 and 10 times a power of ten: what divides into four well.
fn round_up(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0];
    steps.iter().map(|step| step * power).find(|rounded| *rounded >= value).unwrap_or(10.0 * power)
}

fn write_panel(text: &mut String, scale: &Scale, name: &str, series: &[&Series]) {
    let (left, right) = (scale.x(scale.start), scale.x(scale.end));
    let _ = writeln!(text, "<text x=\"{left}\" y=\"{}\">{}</text>", scale.top - 6.0, escape(name));
    for tick in 0..=TICKS {
        let share = f64::from(tick) / f64::from(TICKS);
        let (value, seconds) = (scale.most * share, scale.start + (scale.end - scale.start) * share);
        let (y, x) = (scale.y(value), scale.x(seconds));
        let _ = writeln!(
            text,
            "<line x1=\"{left}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
             <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            left - 6.0,
            y + 4.0,
            number(value),
            scale.y(0.0) + 16.0,
            scale.tick(seconds),
        );
    }
    for (index, series) in series.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let mut points = String::new();
        for (seconds, value) in &series.points {
            let _ = write!(points, "{:.1},{:.1} ", scale.x(*seconds), scale.y(*value));
        }
        if series.points.len() <= MARKED {
            for (seconds, value) in &series.points {
                let (x, y) = (scale.x(*seconds), scale.y(*value));
                let _ = write!(text, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>");
            }
        }
        let legend = scale.top + 12.0 + 16.0 * f64::from(u32::try_from(index).unwrap_or(u32::MAX));
        let _ = writeln!(
            text,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>\
             <text x=\"{}\" y=\"{legend}\" fill=\"{colour}\">{}</text>",
            points.trim_end(),
            right + 10.0,
            escape(&series.name),
        );
    }
}

/// As few digits as tell the ticks apart.
fn number(value: f64) -> String {
    if value >= 10_000.0 {
        return grouped(value);
    }
    let digits = if value < 10.0 { 2 } else { 1 };
    let text = format!("{value:.digits$}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(value: f64, expected: f64) -> bool {
        (value - expected).abs() < 1e-9
    }

    #[test]
    fn time_goes_from_left_to_right_and_values_from_bottom_to_top() {
        let series = Series::new("rate", "received", vec![(10.0, 0.0), (20.0, 75.0)]);
        let scale = Scale::of(&[&series], Along::Time, 10.0, 20.0, 100.0);
        assert!(is(scale.x(10.0), LEFT) && is(scale.x(20.0), WIDTH - RIGHT));
        assert!(is(scale.x(15.0), f64::midpoint(LEFT, WIDTH - RIGHT)));
        assert!(is(scale.most, 80.0));
        assert!(is(scale.y(0.0), 100.0 + PANEL) && is(scale.y(80.0), 100.0));
        assert_eq!(scale.tick(15.0), "5 s");
        assert_eq!(Scale { along: Along::Number, ..scale }.tick(15.0), "15");
    }

    #[test]
    fn axes_end_at_round_numbers() {
        for (value, rounded) in [(0.0, 1.0), (0.3, 0.3), (1.0, 1.0), (9800.0, 10_000.0), (201.0, 300.0)] {
            assert!(is(round_up(value), rounded), "{value}: {}", round_up(value));
        }
    }

    #[test]
    fn ticks_have_no_more_digits_than_they_need() {
        let numbers = [0.0, 0.25, 2.5, 10.0, 22.5, 100.0, 7500.0, 150_000.0].map(number);
        assert_eq!(numbers, ["0", "0.25", "2.5", "10", "22.5", "100", "7500", "150,000"]);
    }

    #[test]
    fn each_kind_of_series_has_a_panel_and_each_series_a_line_and_a_name() {
        let series = [
            Series::new("latency (ms)", "p50", vec![(0.0, 1.0), (1.0, 2.0)]),
            Series::new("latency (ms)", "p99", vec![(0.0, 3.0), (1.0, 4.0)]),
            Series::new("ready", "a < b", vec![(0.5, 5.0)]),
            Series::new("nothing", "empty", Vec::new()),
        ];
        let text = svg("burst & more", Along::Time, &series).unwrap();
        assert_eq!(text.matches("<polyline").count(), 3);
        assert!(text.contains("burst &amp; more") && text.contains("a &lt; b"), "{text}");
        assert!(!text.contains("nothing") && !text.contains("NaN"), "{text}");
        assert_eq!(text.matches("<circle").count(), 5, "few points are marked");
    }

    #[test]
    fn without_points_there_is_no_plot() {
        assert_eq!(svg("empty", Along::Time, &[Series::new("rate", "received", Vec::new())]), None);
    }
}
